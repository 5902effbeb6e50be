"""What is published: the checkpoint of each task that everything behind the encoders reads (`published_models`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from precise_core.errors import CheckpointError
from precise_core.runtime.checkpoints import checkpoint_folder, select_tasks
from precise_core.runtime.job import Job
from precise_core.spark.warehouse import Warehouse
from precise_core.training.checkpoint import Checkpoint
from schemas import PUBLISHED_MODELS
from schemas import columns as c


def publications(warehouse: Warehouse, version: int) -> dict[str, dict[str, Any]]:
    """The rows of one version of `published_models`, by task."""
    rows = warehouse.read_arrow(PUBLISHED_MODELS, version).to_pylist()
    return {row[c.TASK]: row | {"table_versions": dict(row["table_versions"])} for row in rows}


def published_now(warehouse: Warehouse) -> dict[str, dict[str, Any]]:
    """The rows of the newest version, by task; none where nothing was ever published."""
    if not warehouse.exists(PUBLISHED_MODELS):
        return {}
    return publications(warehouse, warehouse.version(PUBLISHED_MODELS))


def published_checkpoint(job: Job, task: str) -> Checkpoint:
    """The checkpoint whose vectors of a task are complete, verified; the same for the whole run.

    A checkpoint that was trained since is not read before `publish_models` has found its vectors complete.

    Raises:
        MissingTableError: Nothing was ever published.
        CheckpointError: Nothing is published for the task, or the checkpoint's files were changed.
    """
    rows = publications(job.warehouse, job.pin(PUBLISHED_MODELS))
    if task not in rows:
        raise CheckpointError(
            f"no model is published for {task!r}, only for {', '.join(sorted(rows)) or '(none)'}; "
            "run jobs/publish_models.py first"
        )
    return Checkpoint.open(checkpoint_folder(job) / rows[task][c.MODEL_VERSION])


def published_tasks(job: Job, named: Sequence[str] | None = None) -> list[str]:
    """The tasks that something is published for; one that was asked for by name must be among them.

    Raises:
        MissingTableError: Nothing was ever published.
        CheckpointError: Nothing is published for a named task.
    """
    rows = publications(job.warehouse, job.pin(PUBLISHED_MODELS))
    tasks = [task for task in select_tasks(job, named) if task in rows]
    for task in named or ():
        published_checkpoint(job, task)
    for task in select_tasks(job, named):
        if task not in rows:
            job.say(f"{task}: left out, no model is published for it")
    return tasks
