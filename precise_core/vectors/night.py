"""What the vectors of one checkpoint are made from, what of it is not encoded yet, and how that gets into the table."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from precise_core.run.job import GateOutcome, Job
from precise_core.training.checkpoint import Checkpoint
from precise_core.vectors.spark import sequence_hash
from precise_core.warehouse.spark_errors import worker_errors
from schemas import ITEM_EMBEDDINGS, ITEM_TOKENS, ITEMS, USER_EMBEDDINGS, USER_SEQUENCES, Table
from schemas import columns as c

_WANTED, _STORED = "is_wanted", "is_stored"
_MIB = 2**20
_MOST_ITEM_PARTS = 64  # each reads the whole of `item_tokens`, which has no partitions to choose from


@dataclass(frozen=True, kw_only=True)
class VectorInputs:
    """Everything that should have a vector of one checkpoint.

    Attributes:
        table: Where the vectors are.
        model_version: The checkpoint.
        width: D.
        rows: One row per vector, with what the encoder reads.
        key: Its identity within the checkpoint.
        fingerprint: Column of ``rows`` and of ``table``: equal where a stored vector is still what would be encoded.
        spread: An integer that spreads ``rows`` evenly, for encoding them in parts.
        most_parts: How many parts it can tell apart.
    """

    table: Table
    model_version: str
    width: int
    rows: DataFrame
    key: str
    fingerprint: str
    spread: Column
    most_parts: int

    @property
    def slice(self) -> Mapping[str, str]:
        return {c.MODEL_VERSION: self.model_version}


@dataclass(frozen=True)
class Encoded:
    """Vectors wanted, encoded now, kept as they were, and removed since nothing wants them any more."""

    wanted: int
    encoded: int
    kept: int
    removed: int

    @property
    def in_words(self) -> str:
        return f"{self.encoded:,} encoded, {self.kept:,} kept, {self.removed:,} removed"


def item_inputs(job: Job, checkpoint: Checkpoint) -> VectorInputs:
    """Every item that is not deleted and that the model can read; its vector is stale where the text changed."""
    rows = _living(job)
    if _reads_text_only(checkpoint):
        rows = rows.where(F.col(c.TOKEN_COUNT) > 0)
    return VectorInputs(
        table=ITEM_EMBEDDINGS,
        model_version=checkpoint.model_version,
        width=checkpoint.manifest.model.fusion.width,
        rows=rows,
        key=c.ITEM_ID,
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


def user_inputs(job: Job, task: str, checkpoint: Checkpoint) -> VectorInputs:
    """Every user with a sequence of the task; the vector is stale where the items that the model reads changed."""
    model = checkpoint.manifest.model
    of_task = job.read(USER_SEQUENCES).where(F.col(c.TASK) == task)
    return VectorInputs(
        table=USER_EMBEDDINGS,
        model_version=checkpoint.model_version,
        width=model.fusion.width,
        rows=of_task.select("*", sequence_hash(model.encoder.max_length)),
        key=c.USER_ID,
        fingerprint=c.SEQUENCE_HASH,
        spread=F.col(c.BUCKET),  # a partition column: a part reads its own files only
        most_parts=job.settings.sequences.buckets,
    )


def differences(job: Job, inputs: VectorInputs, *, full: bool = False) -> DataFrame:
    """key, is_wanted, is_stored of everything that has no vector, a stale one, or one that nothing wants any more.

    ``full`` takes every stored vector for stale.
    """
    wanted = inputs.rows.select(inputs.key, F.col(inputs.fingerprint).alias(_WANTED))
    if not job.warehouse.exists(inputs.table):
        return wanted.select(inputs.key, F.lit(True).alias(_WANTED), F.lit(False).alias(_STORED))
    stored = _stored(job, inputs).select(inputs.key, F.col(inputs.fingerprint).alias(_STORED))
    joined = wanted.join(stored, on=inputs.key, how="full_outer")
    is_same = F.lit(not full) & F.col(_WANTED).eqNullSafe(F.col(_STORED))
    return joined.where(~is_same).select(
        inputs.key, F.col(_WANTED).isNotNull().alias(_WANTED), F.col(_STORED).isNotNull().alias(_STORED)
    )


def _stored(job: Job, inputs: VectorInputs) -> DataFrame:
    return job.read(inputs.table).where(F.col(c.MODEL_VERSION) == inputs.model_version)


def stored_rows(job: Job, inputs: VectorInputs) -> int:
    """Vectors of the checkpoint that this run leaves in the table."""
    return job.read_written(inputs.table).where(F.col(c.MODEL_VERSION) == inputs.model_version).count()


def update_vectors(
    job: Job,
    inputs: VectorInputs,
    encode: Callable[[DataFrame], DataFrame],
    check: Callable[..., GateOutcome],
    what: str,
    *,
    full: bool = False,
) -> Encoded:
    """Encode what has no current vector and write it: a job that was killed goes on with what is missing.

    Vectors that only come in addition (a new checkpoint, new items) are appended part by part, each gated and one
    commit. Where stored vectors change or go, readers may be using them: everything new comes in one commit, beside
    the stored vectors that stay.

    Args:
        job: The run.
        inputs: What should have a vector.
        encode: Rows of ``inputs.rows`` to rows of the table.
        check: The gate of some rows, which is given the name of the part as ``part``.
        what: Names the vectors in what is said and recorded.
        full: Encode everything, whatever is stored.
    """
    stale = differences(job, inputs, full=full).persist()
    counts = stale.agg(
        F.count_if(F.col(_WANTED) & ~F.col(_STORED)).alias("new"),
        F.count_if(F.col(_WANTED) & F.col(_STORED)).alias("changed"),
        F.count_if(~F.col(_WANTED)).alias("gone"),
    ).collect()[0]
    wanted = inputs.rows.count()
    todo = inputs.rows
    if counts["new"] < wanted:
        todo = todo.join(stale.where(_WANTED).select(inputs.key), on=inputs.key, how="left_semi")
    encoded = counts["new"] + counts["changed"]
    done = Encoded(wanted, encoded, wanted - encoded, counts["gone"])
    job.say(f"{what}: {done.in_words}")
    with worker_errors():
        if counts["changed"] or counts["gone"]:
            _replace(job, inputs, stale, wanted, encode(_spread_out(job, inputs, todo)), check, what)
        elif counts["new"] or not job.warehouse.exists(inputs.table):
            _append(job, inputs, todo, counts["new"], encode, check, what)
        else:
            job.keep(inputs.table)
    stale.unpersist()
    return done


def _append(
    job: Job,
    inputs: VectorInputs,
    todo: DataFrame,
    rows: int,
    encode: Callable[[DataFrame], DataFrame],
    check: Callable[..., GateOutcome],
    what: str,
) -> None:
    parts = min(inputs.most_parts, _files(job, inputs, rows))
    for part in range(parts):
        name = what if parts == 1 else f"{what} {part + 1} of {parts}"
        chosen = todo.where(F.pmod(inputs.spread, F.lit(parts)) == part)
        vectors = encode(_spread_out(job, inputs, chosen)).persist()
        with job.watching(f"{name}: encoding"):
            outcome = check(vectors, part=name)
        job.check(outcome)
        job.append(inputs.table, vectors)
        vectors.unpersist()


def _replace(
    job: Job,
    inputs: VectorInputs,
    stale: DataFrame,
    wanted: int,
    encoded: DataFrame,
    check: Callable[..., GateOutcome],
    what: str,
) -> None:
    vectors = encoded.persist()
    with job.watching(f"{what}: encoding"):
        outcome = check(vectors, part=what)
    job.check(outcome)
    kept = _stored(job, inputs).join(stale.where(_STORED).select(inputs.key), on=inputs.key, how="left_anti")
    content = kept.unionByName(vectors)
    content = content.coalesce(_files(job, inputs, wanted))
    job.replace_partitions(inputs.table, content, [inputs.slice])
    vectors.unpersist()


def _files(job: Job, inputs: VectorInputs, rows: int) -> int:
    """How many files of about `encoding.part_mib` the vectors of so many rows fill."""
    return max(1, math.ceil(rows * inputs.width * 4 / (job.settings.encoding.part_mib * _MIB)))


def _spread_out(job: Job, inputs: VectorInputs, rows: DataFrame) -> DataFrame:
    """As many partitions as tasks run at once: a few large files would otherwise be encoded by a few of them."""
    return rows.repartition(job.spark.sparkContext.defaultParallelism, inputs.key)
