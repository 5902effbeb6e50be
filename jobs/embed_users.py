"""Encode every user of every task with the current checkpoints (Fig. 5: daily user prediction).

Reads user_sequences, item_tokens, text_states where a checkpoint is contextual, and checkpoints. Writes
user_embeddings, one slice per model_version.
"""

from argparse import ArgumentParser
from collections.abc import Sequence
from typing import Any

from pyspark.sql import functions as F

from precise_core.inference.spark import embed_users
from precise_core.runtime.checkpoints import latest_checkpoint, save_item_catalog, trained_tasks
from precise_core.runtime.job import Job, run_job
from precise_core.runtime.sequences import as_of_sequences
from schemas import USER_EMBEDDINGS, USER_SEQUENCES
from schemas import columns as c
from validation.gate import gate


def embed(job: Job) -> None:
    sequences, as_of = job.read(USER_SEQUENCES), as_of_sequences(job)
    checkpoints = {task: latest_checkpoint(job, task) for task in trained_tasks(job, job.arguments.task)}
    catalog_file = save_item_catalog(job, *checkpoints.values())
    users, written = 0, 0
    for task, checkpoint in checkpoints.items():
        model, of_task = checkpoint.manifest.model, sequences.where(F.col(c.TASK) == task)
        vectors = embed_users(
            job.spark, of_task, checkpoint.folder, catalog_file, model.encoder.max_length, as_of
        ).persist()
        users += of_task.count()
        limits: dict[str, Any] = {"width": model.fusion.width, "tasks": [task]}
        with job.watching(f"{task}: encoding users"):
            outcome = gate(USER_EMBEDDINGS, vectors, run_id=job.run_id, part=task, **limits)
        job.check(outcome)
        written += job.write(USER_EMBEDDINGS, vectors, replace={c.MODEL_VERSION: checkpoint.model_version})
        vectors.unpersist()
    job.balance("users over all tasks", rows_in=users, rows_out=written)


def add_flags(parser: ArgumentParser) -> None:
    parser.add_argument("--task", action="append", help="only this task's users; repeatable; all by default")


def main(argv: Sequence[str] | None = None) -> int:
    return run_job("embed_users", __doc__, embed, argv, add_flags)


if __name__ == "__main__":
    raise SystemExit(main())
