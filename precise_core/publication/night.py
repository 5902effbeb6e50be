"""Making a checkpoint the published one of its task: only where every vector and the index are there and fit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from precise_core.errors import DataError
from precise_core.index.night import require_index
from precise_core.publication.published import published_now
from precise_core.run.job import Job
from precise_core.sequences.plan import as_of_sequences
from precise_core.training.checkpoint import Checkpoint
from precise_core.training.night import latest_checkpoint, require_tokens, require_vocabulary, trained_tasks
from precise_core.vectors.night import VectorInputs, differences, item_inputs, user_inputs
from precise_core.warehouse.care import content_changed
from schemas import (
    ITEM_EMBEDDINGS,
    ITEM_TOKENS,
    ITEM_VOCABULARY,
    ITEMS,
    PUBLISHED_MODELS,
    USER_EMBEDDINGS,
    USER_SEQUENCES,
    Table,
)
from schemas import columns as c

_CHECKED: tuple[Table, ...] = (
    ITEMS, ITEM_VOCABULARY, ITEM_TOKENS, USER_SEQUENCES, ITEM_EMBEDDINGS, USER_EMBEDDINGS,
)  # fmt: skip
# A night whose `as_of` lies further back is one of the past (a demo, a backfill): its clock is `as_of`.
_PRESENT = timedelta(days=7)


@dataclass(frozen=True)
class Candidate:
    """A checkpoint that may be published, and the index of its item vectors."""

    checkpoint: Checkpoint
    index_version: str


def complete_candidates(job: Job, named: Sequence[str] | None) -> dict[str, Candidate]:
    """The newest checkpoint of each task, each with a vector for every item and user, and its index.

    Raises:
        CheckpointError: A checkpoint does not fit the tables, or its index is damaged.
        DataError: Vectors are missing, stale or left over, or no index holds them; the message names the job to run.
    """
    candidates = {}
    for task in trained_tasks(job, named):
        checkpoint = latest_checkpoint(job, task)
        require_vocabulary(job, checkpoint)
        require_tokens(job, checkpoint)
        _require_current(job, task, item_inputs(job, checkpoint))
        _require_current(job, task, user_inputs(job, task, checkpoint))
        candidates[task] = Candidate(checkpoint, require_index(job, task, checkpoint))
    return candidates


def _require_current(job: Job, task: str, inputs: VectorInputs) -> None:
    stale = differences(job, inputs).count()
    if stale:
        raise DataError(
            f"{task}: {stale:,} vectors of {inputs.model_version} in {inputs.table.name} are missing, stale or left "
            f"over; nothing was published; run jobs/{inputs.table.written_by}.py first"
        )


def publish(job: Job, candidates: dict[str, Candidate], *, only_these: bool) -> None:
    """One commit: these checkpoints are published from now on.

    Args:
        job: The run.
        candidates: By task.
        only_these: Leave what is published for other tasks as it is; otherwise a task that has no checkpoint any more
            is published no longer.
    """
    before = published_now(job.warehouse)
    rows = {task: _row(job, task, candidate, before.get(task)) for task, candidate in candidates.items()}
    if only_these:
        rows = before | rows
    job.write_records(PUBLISHED_MODELS, [rows[task] for task in sorted(rows)])
    for task, row in rows.items():
        was = before.get(task, {}).get(c.MODEL_VERSION)
        state = "stays published" if row[c.MODEL_VERSION] == was else f"is published, before it {was or 'nothing'}"
        job.say(f"{task}: {row[c.MODEL_VERSION]} {state}")
    for task in before.keys() - rows.keys():
        job.say(f"{task}: {before[task][c.MODEL_VERSION]} is published no longer: the task has no checkpoint")


def _row(job: Job, task: str, candidate: Candidate, before: dict[str, Any] | None) -> dict[str, Any]:
    """What is published from now on; the row of ``before`` where it says the same."""
    checkpoint, version = candidate.checkpoint, candidate.checkpoint.model_version
    was, now = before[c.MODEL_VERSION] if before else None, datetime.now(UTC)
    as_of = as_of_sequences(job.warehouse.note(USER_SEQUENCES, job.pin(USER_SEQUENCES)), job.settings.as_of)
    row = {
        c.TASK: task,
        c.MODEL_VERSION: version,
        "previous_version": before["previous_version"] if before and was == version else was,
        c.AS_OF: as_of,
        "table_versions": {table.name: job.pin(table) for table in _CHECKED},
        c.INDEX_VERSION: candidate.index_version,
        c.TOKENIZER_ID: checkpoint.manifest.tokenizer_id,
        c.LANGUAGE_MODEL: checkpoint.manifest.language_model,
        c.RUN_ID: job.run_id,
        "published_at": now,
        c.VALID_FROM: valid_from(as_of, now),
    }
    is_known = before is not None and all(before[name] == row[name] for name in PUBLISHED_MODELS.stable_columns)
    return before if before is not None and is_known else row


def valid_from(as_of: datetime, published_at: datetime) -> datetime:
    """From when on readers have what was published: not before that moment, but in a night of the past."""
    return as_of if published_at - as_of > _PRESENT else max(as_of, published_at)


@contextmanager
def publication_follows(job: Job) -> Iterator[None]:
    """What is published names the users' vectors as the block leaves them: an erasure publishes nothing but itself.

    Where newer vectors than the published ones lie in the table, refused or not published yet, the publication stays
    as it is, and that is said.
    """
    rows = published_now(job.warehouse)
    path = job.warehouse.path(USER_EMBEDDINGS)
    newest = {
        task for task, row in rows.items() if not content_changed(path, row["table_versions"][USER_EMBEDDINGS.name])
    }
    yield
    for task, row in rows.items():
        if task in newest:
            row["table_versions"][USER_EMBEDDINGS.name] = job.warehouse.version(USER_EMBEDDINGS)
        else:
            job.say(f"{task}: the published vectors are older than those in the table; run jobs/publish_models.py")
    if newest:
        job.write_records(PUBLISHED_MODELS, [rows[task] for task in sorted(rows)])
