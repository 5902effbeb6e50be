"""Gathers the inputs of a checkpoint's vectors and the stored ones, and writes what was encoded."""

from __future__ import annotations

from datetime import datetime

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from precise_core.run.job import Job
from precise_core.sequences.plan import as_of_sequences
from precise_core.training.checkpoint import Checkpoint
from precise_core.vectors.spark import sequence_hash
from precise_core.vectors.update import Update, VectorInputs
from precise_core.warehouse.tables import with_new_columns
from schemas import ITEM_EMBEDDINGS, ITEM_TOKENS, ITEMS, USER_EMBEDDINGS, USER_SEQUENCES, Table
from schemas import columns as c

_MOST_ITEM_PARTS = 64  # each reads the whole of `item_tokens`, which has no partitions to choose from


def item_inputs(job: Job, checkpoint: Checkpoint) -> VectorInputs:
    """Every item that is not deleted and that the model can read; its vectors are stale where the text changed."""
    rows = _living(job)
    if _reads_text_only(checkpoint):
        rows = rows.where(F.col(c.TOKEN_COUNT) > 0)
    return VectorInputs(
        table=ITEM_EMBEDDINGS,
        checkpoint=checkpoint,
        rows=rows,
        stored=_stored(job, ITEM_EMBEDDINGS, checkpoint),
        fingerprint=c.TEXT_HASH,
        spread=F.xxhash64(c.ITEM_ID),
        most_parts=_MOST_ITEM_PARTS,
    )


def items_without_text(job: Job, checkpoint: Checkpoint) -> int:
    """Living items that get no vector: they have no text, and the model reads nothing else."""
    return _living(job).where(F.col(c.TOKEN_COUNT) == 0).count() if _reads_text_only(checkpoint) else 0


def _living(job: Job) -> DataFrame:
    living = job.read(ITEMS).where(~F.col(c.IS_DELETED)).select(c.ITEM_ID)
    return job.read(ITEM_TOKENS).join(living, on=c.ITEM_ID, how="left_semi")


def _reads_text_only(checkpoint: Checkpoint) -> bool:
    return checkpoint.manifest.model.fusion.mode == "llm"


def sequences_as_of(job: Job) -> datetime:
    """The night of the `user_sequences` that this run reads: users are asked at this instant."""
    return as_of_sequences(job.warehouse.note(USER_SEQUENCES, job.pin(USER_SEQUENCES)), job.settings.as_of)


def user_inputs(job: Job, task: str, checkpoint: Checkpoint) -> VectorInputs:
    """Every user with a sequence of the task; the vector is stale where what the model reads changed.

    That of a model that reads times is stale wherever it was made for another night.
    """
    as_of = sequences_as_of(job)
    of_task = job.read(USER_SEQUENCES).where(F.col(c.TASK) == task)
    return VectorInputs(
        table=USER_EMBEDDINGS,
        checkpoint=checkpoint,
        rows=of_task.select("*", sequence_hash(checkpoint.manifest.model.encoder, as_of)),
        stored=_stored(job, USER_EMBEDDINGS, checkpoint),
        fingerprint=c.SEQUENCE_HASH,
        spread=F.col(c.BUCKET),  # a partition column: a part reads its own files only
        most_parts=job.settings.sequences.buckets,
    )


def _stored(job: Job, table: Table, checkpoint: Checkpoint) -> DataFrame | None:
    stored = job.read_optional(table)
    if stored is None:
        return None
    return with_new_columns(stored, table).where(F.col(c.MODEL_VERSION) == checkpoint.model_version)


def write_vectors(job: Job, update: Update, vectors: DataFrame) -> None:
    """Commit a persisted part of an update, which has passed its gate."""
    table = update.inputs.table
    if update.replaces:
        content = update.with_kept(vectors, job.settings.encoding.part_mib)
        job.replace_partitions(table, content, [{c.MODEL_VERSION: update.inputs.model_version}])
    else:
        job.append(table, vectors)
    vectors.unpersist()


def end_update(job: Job, update: Update) -> int:
    """Record the table's version where nothing was written; returns the number of the checkpoint's vectors."""
    table = update.inputs.table
    if update.is_current:
        job.keep(table)
    update.stale.unpersist()
    return job.read_written(table).where(F.col(c.MODEL_VERSION) == update.inputs.model_version).count()
