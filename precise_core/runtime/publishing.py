"""Making a checkpoint the published one of its task: only where every vector and the index are there and fit."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from precise_core.errors import DataError
from precise_core.retrieval.index import VectorIndex
from precise_core.runtime.checkpoints import latest_checkpoint, require_tokens, require_vocabulary, trained_tasks
from precise_core.runtime.job import Job
from precise_core.runtime.published import published_now
from precise_core.runtime.sequences import as_of_sequences
from precise_core.runtime.vectors import VectorInputs, differences, item_inputs, user_inputs
from precise_core.training.checkpoint import Checkpoint
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


def complete_candidates(job: Job, named: Sequence[str] | None) -> dict[str, Checkpoint]:
    """The newest checkpoint of each task, each with a vector for every item and user, and its index.

    Raises:
        CheckpointError: A checkpoint does not fit the tables, or its index is damaged.
        DataError: Vectors are missing, stale or left over; the message names the job to run.
    """
    candidates = {task: latest_checkpoint(job, task) for task in trained_tasks(job, named)}
    for task, checkpoint in candidates.items():
        require_vocabulary(job, checkpoint)
        require_tokens(job, checkpoint)
        items = item_inputs(job, checkpoint)
        _require_current(job, task, items)
        _require_current(job, task, user_inputs(job, task, checkpoint))
        _require_index(job, task, checkpoint, items.rows.count())
    return candidates


def _require_current(job: Job, task: str, inputs: VectorInputs) -> None:
    stale = differences(job, inputs).count()
    if stale:
        raise DataError(
            f"{task}: {stale:,} vectors of {inputs.model_version} in {inputs.table.name} are missing, stale or left "
            f"over; nothing was published; run jobs/{inputs.table.written_by}.py first"
        )


def _require_index(job: Job, task: str, checkpoint: Checkpoint, items: int) -> None:
    index = VectorIndex.open(job.folder / "indexes" / checkpoint.model_version, checkpoint.model_version)
    if len(index) != items:
        raise DataError(
            f"{task}: the index of {checkpoint.model_version} holds {len(index):,} items, item_embeddings {items:,}; "
            "nothing was published; run jobs/build_index.py first"
        )


def publish(job: Job, candidates: dict[str, Checkpoint], *, only_these: bool) -> None:
    """One commit: these checkpoints are published from now on.

    Args:
        job: The run.
        candidates: By task.
        only_these: Leave what is published for other tasks as it is; otherwise a task that has no checkpoint any more
            is published no longer.
    """
    before = published_now(job.warehouse)
    rows = {task: _row(job, task, checkpoint, before.get(task)) for task, checkpoint in candidates.items()}
    if only_these:
        rows = before | rows
    job.write_records(PUBLISHED_MODELS, [rows[task] for task in sorted(rows)])
    for task, row in rows.items():
        was = before.get(task, {}).get(c.MODEL_VERSION)
        state = "stays published" if row[c.MODEL_VERSION] == was else f"is published, before it {was or 'nothing'}"
        job.say(f"{task}: {row[c.MODEL_VERSION]} {state}")
    for task in before.keys() - rows.keys():
        job.say(f"{task}: {before[task][c.MODEL_VERSION]} is published no longer: the task has no checkpoint")


def _row(job: Job, task: str, checkpoint: Checkpoint, before: dict[str, Any] | None) -> dict[str, Any]:
    version = checkpoint.model_version
    was = before[c.MODEL_VERSION] if before else None
    return {
        c.TASK: task,
        c.MODEL_VERSION: version,
        "previous_version": before["previous_version"] if before and was == version else was,
        c.AS_OF: as_of_sequences(job),
        "table_versions": {table.name: job.pin(table) for table in _CHECKED},
        c.TOKENIZER_ID: checkpoint.manifest.tokenizer_id,
        c.LANGUAGE_MODEL: checkpoint.manifest.language_model,
        c.RUN_ID: job.run_id,
        "published_at": datetime.now(UTC),
    }
