"""What is published: the checkpoint of each task that everything behind the encoders reads (`published_models`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from precise_core.errors import CheckpointError, HistoryGoneError
from precise_core.index.index import VectorIndex
from precise_core.index.night import index_folder
from precise_core.run.job import Job
from precise_core.training.checkpoint import Checkpoint
from precise_core.training.night import select_tasks
from precise_core.vectors.spark import one_version
from precise_core.warehouse.care import is_readable
from precise_core.warehouse.tables import Warehouse
from schemas import PUBLISHED_MODELS, USER_EMBEDDINGS, Table
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
    return Checkpoint.open(job.checkpoints / _published(job, task)[c.MODEL_VERSION])


def published_version(job: Job, task: str, table: Table) -> int:
    """The Delta version in which a table's vectors were published for a task: later ones were refused, or are not
    complete yet.

    Raises:
        MissingTableError: Nothing was ever published.
        CheckpointError: Nothing is published for the task.
        HistoryGoneError: The version cannot be read any more.
    """
    return _readable_version(job, task, _published(job, task), table)


def _readable_version(job: Job, task: str, row: Mapping[str, Any], table: Table) -> int:
    model, version = row[c.MODEL_VERSION], row["table_versions"][table.name]
    if not is_readable(job.warehouse.path(table), version, f"{c.MODEL_VERSION}={model}/"):
        raise HistoryGoneError(
            f"table {table.name}: version {version}, in which {model} is published for {task!r}, cannot be read any "
            "more; run jobs/publish_models.py to publish the vectors that are there"
        )
    return job.pin_at(table, version)


def published_vectors(job: Job, task: str, table: Table) -> DataFrame:
    """The vectors of a task's published checkpoint, users' or items', as they were published.

    Raises:
        VersionMixError: There are none in the published version of the table.
        HistoryGoneError: That version cannot be read any more.
    """
    row = _published(job, task)
    version = _readable_version(job, task, row, table)
    vectors = one_version(job.warehouse.read(job.spark, table, version), row[c.MODEL_VERSION], table.name)
    return vectors.where(F.col(c.TASK) == task) if table == USER_EMBEDDINGS else vectors


def published_index(job: Job, task: str) -> Path:
    """The folder of the index over a task's published item vectors, verified.

    Raises:
        CheckpointError: It is gone or was changed on disk.
        VersionMixError: It holds vectors of another checkpoint.
    """
    row = _published(job, task)
    folder = index_folder(job, row[c.INDEX_VERSION])
    VectorIndex.open(folder, row[c.MODEL_VERSION])
    return folder


def _published(job: Job, task: str) -> dict[str, Any]:
    rows = publications(job.warehouse, job.pin(PUBLISHED_MODELS))
    if task not in rows:
        raise CheckpointError(
            f"no model is published for {task!r}, only for {', '.join(sorted(rows)) or '(none)'}; "
            "run jobs/publish_models.py first"
        )
    return rows[task]


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
