"""Targeted Training: from the universal checkpoint to one model per task (section IV-D, eq. 6, Fig. 3).

On a warm-up night (targeted.warm_up_every_days, section IV-E1) a task starts from the universal checkpoint and keeps
its head; on other nights its own checkpoint goes on with new events.

Reads training_windows (through Petastorm), item_vocabulary, item_tokens, text_states where the checkpoint is
contextual, and the universal checkpoint. Writes a folder per task under <warehouse>/checkpoints and makes it the one in
use for that task.
"""

from precise_core.command import command, flag
from precise_core.config.tasks import ALL_TASK
from precise_core.errors import NothingNewError, NothingToLearnError
from precise_core.run.job import Job
from precise_core.training.checkpoint import Checkpoint, latest, publish_latest, unpublish
from precise_core.training.checkpoints import (
    checkpoint_folder,
    checkpoint_in_use,
    item_catalog,
    latest_checkpoint,
    pinned_snapshot,
    select_tasks,
)
from precise_core.training.targeted import train_targeted
from schemas import ITEM_VOCABULARY, TRAINING_WINDOWS


@command(flag("--task", "train only this task; repeatable; all by default", action="append"))
def main(job: Job) -> None:
    universal = latest_checkpoint(job, ALL_TASK)
    catalog = item_catalog(job, universal)
    job.pin(ITEM_VOCABULARY)
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
                as_of=job.settings.as_of,
                previous=checkpoint_in_use(job, task),
                progress=job.progress("windows"),
                feed_config=job.settings.feed,
            )
        except NothingNewError as error:
            job.say(str(error))
            job.describe_checkpoint(task, latest(checkpoint_folder(job), task))
            rows += 1
            continue
        except NothingToLearnError as error:
            # A checkpoint of an earlier night must not stand in for tonight's.
            unpublish(checkpoint_folder(job), task)
            job.artefacts[f"checkpoint:{task}"] = ""
            if job.arguments.task:
                raise
            job.say(f"{task}: skipped, {error}")
            skipped += 1
            continue
        publish_latest(checkpoint_folder(job), task, checkpoint)
        job.say(f"{task}: {how_it_started(job, checkpoint)}")
        for note in checkpoint.manifest.notes:
            job.say(f"{task}: {note}")
        job.describe_checkpoint(task, checkpoint)
        rows += 1
    job.balance("tasks", rows_in=rows + skipped, rows_out=rows, rows_rejected=skipped)


def how_it_started(job: Job, checkpoint: Checkpoint) -> str:
    """In words; with `targeted.warm_start: false` the parent is untrained and gave it nothing."""
    if not job.settings.targeted.warm_start:
        return "trained from scratch"
    is_warm_up = checkpoint.manifest.warm_up_as_of == job.settings.as_of
    return f"{'warmed up' if is_warm_up else 'gone on'} from {checkpoint.manifest.parent}"


if __name__ == "__main__":
    raise SystemExit(main())
