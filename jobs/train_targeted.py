"""Targeted Training: from the universal checkpoint to one model per task (section IV-D, eq. 6).

Reads training_windows (through Petastorm), item_tokens and the universal checkpoint. Writes a checkpoint folder per
task and makes it the one in use for that task.
"""

from argparse import ArgumentParser
from collections.abc import Sequence

from precise_core.errors import NothingToLearnError
from precise_core.features.config import ALL_TASK
from precise_core.runtime.checkpoints import (
    checkpoint_folder,
    item_catalog,
    latest_checkpoint,
    pinned_snapshot,
    select_tasks,
)
from precise_core.runtime.job import Job, run_job
from precise_core.training.checkpoint import publish_latest, unpublish
from precise_core.training.targeted import train_targeted
from schemas import TRAINING_WINDOWS


def train(job: Job) -> None:
    universal = latest_checkpoint(job, ALL_TASK)
    catalog = item_catalog(job, universal)
    windows, rows, skipped = pinned_snapshot(job, TRAINING_WINDOWS), 0, 0
    for task in select_tasks(job, job.arguments.task, tuple(job.settings.tasks)):
        try:
            checkpoint = train_targeted(
                config=job.settings.targeted,
                universal=universal,
                windows=windows,
                catalog=catalog,
                task=task,
                out=checkpoint_folder(job),
                seed=job.settings.seed,
                parent_versions=job.input_versions,
                progress=job.progress("windows"),
                feed_config=job.settings.feed,
            )
        except NothingToLearnError as error:
            # A checkpoint of an earlier night must not stand in for tonight's.
            unpublish(checkpoint_folder(job), task)
            if job.arguments.task:
                raise
            job.say(f"{task}: skipped, {error}")
            skipped += 1
            continue
        publish_latest(checkpoint_folder(job), task, checkpoint)
        job.describe_checkpoint(task, checkpoint)
        rows += 1
    job.balance("tasks", rows_in=rows + skipped, rows_out=rows, rows_rejected=skipped)


def add_flags(parser: ArgumentParser) -> None:
    parser.add_argument("--task", action="append", help="train only this task; repeatable; all by default")


def main(argv: Sequence[str] | None = None) -> int:
    return run_job("train_targeted", __doc__, train, argv, add_flags)


if __name__ == "__main__":
    raise SystemExit(main())
