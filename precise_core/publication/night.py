"""What is published: the checkpoint of each task that recall, scores and ranking read, and how it is replaced.

A checkpoint is a candidate only where all its vectors and its index are complete and fit; its drift from the published
vectors is measured on a fixed sample of keys.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from precise_core.consume.publications import published_now, published_rows
from precise_core.errors import CheckpointError, DataError, HistoryGoneError
from precise_core.index.index import VectorIndex
from precise_core.index.night import index_folder, require_index
from precise_core.publication.drift import drift_figures, unknown_token_share
from precise_core.run.job import Job
from precise_core.store import below, fetched
from precise_core.training.checkpoint import Checkpoint
from precise_core.training.night import (
    latest_checkpoint,
    require_tokens,
    require_vocabulary,
    select_tasks,
    trained_tasks,
)
from precise_core.vectors.night import item_inputs, sequences_as_of, user_inputs
from precise_core.vectors.spark import one_version
from precise_core.vectors.update import VectorInputs, differences
from precise_core.warehouse.arrow_lists import fixed_lists
from precise_core.warehouse.care import content_changed, is_readable
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
_OLD, _NEW = "old", "new"


def published_tasks(job: Job, named: Sequence[str] | None = None) -> list[str]:
    """The tasks with a published checkpoint; one that was requested by name must be among them."""
    rows = published_rows(job.root, job.pin(PUBLISHED_MODELS))
    tasks = [task for task in select_tasks(job, named) if task in rows]
    for task in named or ():
        published_checkpoint(job, task)
    for task in select_tasks(job, named):
        if task not in rows:
            job.say(f"{task}: left out, no model is published for it")
    return tasks


def published_checkpoint(job: Job, task: str) -> Checkpoint:
    """The checkpoint whose vectors of a task are complete, verified; the same for the whole run.

    A checkpoint that was trained since is not read before `publish_models` has found its vectors complete.
    """
    version = _published(job, task)[c.MODEL_VERSION]
    try:
        return Checkpoint.open(below(job.checkpoints, version))
    except CheckpointError as error:
        raise CheckpointError(
            f"{error}; it is published for {task!r}: put the folder back, or train and publish another with "
            "jobs/run_night.py"
        ) from error


def published_version(job: Job, task: str, table: Table) -> int:
    """The Delta version in which a table's vectors were published for a task, pinned: later ones were refused, or are
    not complete yet."""
    row = _published(job, task)
    model, version = row[c.MODEL_VERSION], row["table_versions"][table.name]
    if not _is_there(job, table, version, model):
        raise HistoryGoneError(
            f"table {table.name}: version {version}, in which {model} is published for {task!r}, cannot be read any "
            "more; run jobs/publish_models.py to publish the vectors that are there"
        )
    return job.pin_at(table, version)


def published_vectors(job: Job, task: str, table: Table) -> DataFrame:
    """The vectors of a task's published checkpoint, users' or items', as they were published."""
    rows = job.warehouse.read(job.spark, table, published_version(job, task, table))
    vectors = one_version(rows, _published(job, task)[c.MODEL_VERSION], table)
    return vectors.where(F.col(c.TASK) == task) if table == USER_EMBEDDINGS else vectors


def published_index(job: Job, task: str) -> Path:
    """The folder of the index over a task's published item vectors, verified."""
    row = _published(job, task)
    try:
        folder = fetched(index_folder(job, row[c.INDEX_VERSION]))
        VectorIndex.open(folder, row[c.MODEL_VERSION])
    except CheckpointError as error:
        raise CheckpointError(
            f"{error}; it is published for {task!r}: run jobs/build_index.py and jobs/publish_models.py"
        ) from error
    return folder


def _published(job: Job, task: str) -> dict[str, Any]:
    """What is published for a task; CheckpointError where nothing is."""
    rows = published_rows(job.root, job.pin(PUBLISHED_MODELS))
    if task not in rows:
        raise CheckpointError(
            f"no model is published for {task!r}, only for {', '.join(sorted(rows)) or '(none)'}; "
            "run jobs/publish_models.py first"
        )
    return rows[task]


def _is_there(job: Job, table: Table, version: int, model_version: str) -> bool:
    return is_readable(job.warehouse.path(table), version, f"{c.MODEL_VERSION}={model_version}/")


@dataclass(frozen=True)
class Candidate:
    """A checkpoint that may be published, and the index of its item vectors."""

    checkpoint: Checkpoint
    index_version: str


def complete_candidates(job: Job, named: Sequence[str] | None) -> dict[str, Candidate]:
    """The newest checkpoint of each task, each with a vector for every item and user, and its index."""
    candidates = {}
    for task in trained_tasks(job, named):
        checkpoint = latest_checkpoint(job, task)
        require_vocabulary(job, checkpoint)
        require_tokens(job, checkpoint)
        _require_current(task, item_inputs(job, checkpoint))
        _require_current(task, user_inputs(job, task, checkpoint))
        candidates[task] = Candidate(checkpoint, require_index(job, task, checkpoint))
    return candidates


def _require_current(task: str, inputs: VectorInputs) -> None:
    """Refuse to publish vectors that are not exactly those that would be encoded now."""
    stale = differences(inputs).count()
    if stale:
        raise DataError(
            f"{task}: {stale:,} vectors of {inputs.model_version} in {inputs.table.name} are missing, stale or left "
            f"over; nothing was published; run jobs/{inputs.table.written_by}.py first"
        )


def drift_facts(job: Job, task: str, checkpoint: Checkpoint) -> dict[str, float]:
    """The figures that `gates.drift` has limits for, by name; also recorded as metrics of the run.

    Cosines are judged only where the new checkpoint goes on from the published one, or is the same; where nothing was
    published before there is nothing to compare with.
    """
    facts = {}
    if checkpoint.manifest.model.fusion.mode != "id" and not checkpoint.reads_states:
        known_token_ids = checkpoint.known_token_ids().numpy()
        facts["unknown_token_share"] = unknown_token_share(*_token_counts(job, checkpoint), known_token_ids)
    published = published_now(job.root).get(task)
    figures, cosines = drift_figures(_samples(job, checkpoint, published) if published else {})
    facts |= figures
    everything = facts | cosines
    if published and published[c.MODEL_VERSION] in (checkpoint.model_version, checkpoint.manifest.previous):
        facts = everything
    job.metrics |= {f"drift/{task}/{name}": value for name, value in everything.items()}
    shown = ", ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in everything.items())
    job.say(f"{task}: {shown or 'nothing to compare with'}")
    return facts


def _token_counts(job: Job, checkpoint: Checkpoint) -> tuple[np.ndarray, np.ndarray]:
    """The K tokens of all living items' texts, and how often each occurs."""
    rows = item_inputs(job, checkpoint).rows
    real = rows.select(F.explode(F.slice(c.TOKEN_IDS, 1, F.col(c.TOKEN_COUNT))).alias(c.TOKEN_ID))
    counted = real.groupBy(c.TOKEN_ID).agg(F.count(F.lit(1)).alias(c.COUNT)).toArrow()
    return counted[c.TOKEN_ID].to_numpy(), counted[c.COUNT].to_numpy()


def _samples(
    job: Job, checkpoint: Checkpoint, published: Mapping[str, Any]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Published and new vectors of some items and users; without those whose published version was removed."""
    samples = {}
    for table, name in ((ITEM_EMBEDDINGS, "item"), (USER_EMBEDDINGS, "user")):
        old = _as_published(job, table, published, checkpoint)
        if old is None:
            job.say(
                f"{published[c.TASK]}: {name} vectors not compared, their published version of {table.name} is gone"
            )
            continue
        new = job.read(table).where(F.col(c.MODEL_VERSION) == checkpoint.model_version)
        sample = _sampled(old, new, table.key[0], job.settings.gates.drift.sample)
        if sample is not None:
            samples[name] = sample
    return samples


def _as_published(job: Job, table: Table, published: Mapping[str, Any], checkpoint: Checkpoint) -> DataFrame | None:
    """The vectors as they were published; None where they cannot be read any more.

    Where that version of the table was cleaned up, the current vectors of the published checkpoint serve instead,
    unless it is the new checkpoint itself: they would be compared with themselves.
    """
    version, model = published["table_versions"].get(table.name), published[c.MODEL_VERSION]
    is_model = F.col(c.MODEL_VERSION) == model
    if version is not None and _is_there(job, table, version, model):
        return job.warehouse.read(job.spark, table, version).where(is_model)
    return None if model == checkpoint.model_version else job.read(table).where(is_model)


def _sampled(old: DataFrame, new: DataFrame, key: str, size: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Vectors of the same keys, or None where there is none; the choice of keys is the same every night."""
    chosen = old.select(key, F.col(c.EMBEDDING).alias(_OLD)).orderBy(F.xxhash64(key), key).limit(size)
    both = F.broadcast(chosen).join(new.select(key, F.col(c.EMBEDDING).alias(_NEW)), on=key, how="inner")
    table = both.orderBy(key).toArrow()
    if not table.num_rows:
        return None
    old_SD, new_SD = (fixed_lists(table[name]).astype(np.float64) for name in (_OLD, _NEW))
    return old_SD, new_SD


def publish(job: Job, candidates: Mapping[str, Candidate], *, only_these: bool) -> None:
    """One commit: these checkpoints, by task, are published from now on.

    With ``only_these`` what is published for other tasks stays as it is; otherwise a task that has no checkpoint any
    more is published no longer.
    """
    previous = published_now(job.root)
    rows = {task: _row(job, task, candidate, previous.get(task)) for task, candidate in candidates.items()}
    if only_these:
        rows = previous | rows
    job.write_records(PUBLISHED_MODELS, [rows[task] for task in sorted(rows)])
    for task, row in rows.items():
        was = previous.get(task, {}).get(c.MODEL_VERSION)
        state = "stays published" if row[c.MODEL_VERSION] == was else f"is published, before it {was or 'nothing'}"
        job.say(f"{task}: {row[c.MODEL_VERSION]} {state}")
    for task in previous.keys() - rows.keys():
        job.say(f"{task}: {previous[task][c.MODEL_VERSION]} is published no longer: the task has no checkpoint")


def _row(job: Job, task: str, candidate: Candidate, previous: dict[str, Any] | None) -> dict[str, Any]:
    """The row of what is published from now on; ``previous`` where it is equal."""
    checkpoint, version = candidate.checkpoint, candidate.checkpoint.model_version
    was, now = previous[c.MODEL_VERSION] if previous else None, datetime.now(UTC)
    as_of = sequences_as_of(job)
    row = {
        c.TASK: task,
        c.MODEL_VERSION: version,
        "previous_version": previous["previous_version"] if previous and was == version else was,
        c.AS_OF: as_of,
        "table_versions": {table.name: job.pin(table) for table in _CHECKED},
        c.INDEX_VERSION: candidate.index_version,
        c.TOKENIZER_ID: checkpoint.manifest.tokenizer_id,
        c.LANGUAGE_MODEL: checkpoint.manifest.language_model,
        c.RUN_ID: job.run_id,
        "published_at": now,
        c.VALID_FROM: valid_from(as_of, now),
    }
    if previous is not None and all(previous[name] == row[name] for name in PUBLISHED_MODELS.stable_columns):
        return previous
    return row


def valid_from(as_of: datetime, published_at: datetime) -> datetime:
    """From when on readers have what was published: not before that moment, except in a night of the past."""
    return as_of if published_at - as_of > _PRESENT else max(as_of, published_at)


@contextmanager
def publication_follows(job: Job) -> Iterator[None]:
    """Publish the users' vectors as the block leaves them, for an erasure.

    Where the table has newer vectors than the published ones, refused or not published yet, the publication stays as it
    is, which is logged.
    """
    rows = published_now(job.root)
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
