"""Which checkpoint's vectors are published, and which were when: the reader of `published_models` and its history."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from precise_core.artefacts import CHECKPOINTS, checkpoint_manifest
from precise_core.errors import CheckpointError, HistoryGoneError, MissingTableError
from precise_core.store import below
from precise_core.warehouse.reader import TableReader
from schemas import PUBLISHED_MODELS
from schemas import columns as c


@dataclass
class Publication:
    """A checkpoint of a task, and the tables as they were when it was published.

    New items are published every hour under the same checkpoint and the same ``as_of``: ``first`` and ``last`` then
    differ.

    Attributes:
        as_of: Its users were encoded with every event before this instant.
        valid_from: From when on its vectors are the ones to use: the later of ``as_of`` and the moment of the first
            publication; in a night of the past (a demo, a backfill) ``as_of``.
        space: Checkpoints that each went on from the previous one share a vector space; a model may learn from all.
        first: Delta version by table at the first publication with this ``as_of``.
        last: The same at the last one.
        published_at: When that was, on the clock of the machine.
    """

    task: str
    model_version: str
    as_of: datetime
    valid_from: datetime
    space: str
    first: dict[str, int]
    last: dict[str, int]
    published_at: datetime


def published_rows(warehouse: str | Path, version: int | None = None) -> dict[str, dict[str, Any]]:
    """The rows of one version of `published_models`, the newest by default, by task."""
    rows = TableReader(warehouse).read(PUBLISHED_MODELS, PUBLISHED_MODELS.column_names, version=version)
    return {row[c.TASK]: row | {"table_versions": dict(row["table_versions"])} for row in rows.to_pylist()}


def published_now(warehouse: str | Path) -> dict[str, dict[str, Any]]:
    """The rows of the newest version, by task; none where nothing was ever published."""
    try:
        return published_rows(warehouse)
    except MissingTableError:
        return {}


def published(warehouse: str | Path, task: str = "all") -> Publication:
    """What is published for a task now.

    Raises:
        CheckpointError: Nothing is published for the task; the message names the tasks that there are.
    """
    rows = published_rows(warehouse)
    if task not in rows:
        raise CheckpointError(f"no model is published for task {task!r}; published are {sorted(rows)}")
    return _publication(warehouse, rows[task])


def publication_history(warehouse: str | Path, task: str = "all", until: int | None = None) -> list[Publication]:
    """The publications of a task in the order of their ``as_of``, as far back as they can still be read.

    One that is followed by a publication of an earlier or the same ``as_of`` was revoked (a rollback, or the night was
    run again with another checkpoint): it is left out, and the previous publication is valid until ``valid_from`` of
    its replacement. ``until`` is the version of `published_models` to stop at.

    Raises:
        CheckpointError: Nothing was ever published for the task.
    """
    history: list[Publication] = []
    newest = TableReader(warehouse).snapshot(PUBLISHED_MODELS, until).version
    for version in range(newest + 1):
        try:
            row = published_rows(warehouse, version).get(task)
        except HistoryGoneError:
            continue
        if row is not None:
            _add(history, _publication(warehouse, row))
    if not history:
        raise CheckpointError(f"no model was ever published for task {task!r}")
    return history


def _add(history: list[Publication], now: Publication) -> None:
    while history and history[-1].as_of >= now.as_of and not _renews(now, history[-1]):
        history.pop()
    if history and _renews(now, history[-1]):
        history[-1].last, history[-1].published_at = now.last, now.published_at
    else:
        history.append(now)


def _renews(now: Publication, previous: Publication) -> bool:
    return (previous.model_version, previous.as_of) == (now.model_version, now.as_of)


def _publication(warehouse: str | Path, row: dict[str, Any]) -> Publication:
    versions = row["table_versions"]
    return Publication(
        task=row[c.TASK],
        model_version=row[c.MODEL_VERSION],
        as_of=row[c.AS_OF],
        valid_from=row[c.VALID_FROM] or row[c.AS_OF],  # null in a version older than the column
        space=vector_space(warehouse, row[c.MODEL_VERSION]),
        first=versions,
        last=versions,
        published_at=row["published_at"],
    )


def vector_space(warehouse: str | Path, model_version: str) -> str:
    """The space of a checkpoint's vectors, from its manifest; a checkpoint whose folder was removed has its own."""
    return str(checkpoint_manifest(below(warehouse, CHECKPOINTS), model_version).get("space") or model_version)
