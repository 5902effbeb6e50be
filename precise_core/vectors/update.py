"""Which vectors of a checkpoint are missing, stale or superfluous, and what the table has to become."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from precise_core.training.checkpoint import Checkpoint
from schemas import Table

_NEEDED, _STORED, _MADE_FROM = "is_needed", "is_stored", "made_from"
_MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class VectorInputs:
    """The inputs of one checkpoint's vectors, and the stored ones.

    Attributes:
        rows: One row per needed vector, with the encoder's inputs.
        stored: The checkpoint's rows of ``table``; None where no run has written the table yet. One with a null is
            older than one of the table's columns, and stale.
        fingerprint: Column of ``rows`` and of ``table``: equal where a stored vector is current.
        spread: An integer that spreads ``rows`` evenly, for encoding them in at most ``most_parts`` parts.
    """

    table: Table
    checkpoint: Checkpoint
    rows: DataFrame
    stored: DataFrame | None
    fingerprint: str
    spread: Column
    most_parts: int

    @property
    def key(self) -> str:
        """Column with the identity of a vector within the checkpoint."""
        return self.table.key[0]

    @property
    def is_whole(self) -> Column:
        """Of a stored row: it has all that the table declares."""
        nullable = [F.col(column.name).isNotNull() for column in self.table.columns if column.nullable]
        return reduce(lambda left, right: left & right, nullable, F.lit(True))

    @property
    def model_version(self) -> str:
        return self.checkpoint.model_version

    @property
    def width(self) -> int:
        return self.checkpoint.manifest.model.fusion.width

    @property
    def row_bytes(self) -> int:
        """Of the vectors in a row."""
        return 4 * self.width * sum(column.type == "array<float>" for column in self.table.columns)


def differences(inputs: VectorInputs, *, full: bool = False) -> DataFrame:
    """key, is_needed, is_stored of everything that has no vector, a stale one, or one that is not needed any more.

    With ``full`` every stored vector counts as stale.
    """
    key = inputs.key
    needed = inputs.rows.select(key, F.col(inputs.fingerprint).alias(_NEEDED))
    if inputs.stored is None:
        return needed.select(key, F.lit(True).alias(_NEEDED), F.lit(False).alias(_STORED))
    made_from = F.when(inputs.is_whole, F.col(inputs.fingerprint)).alias(_MADE_FROM)
    stored = inputs.stored.select(key, F.lit(True).alias(_STORED), made_from)
    joined = needed.join(stored, on=key, how="full_outer")
    is_same = F.lit(not full) & F.coalesce(F.col(_NEEDED) == F.col(_MADE_FROM), F.lit(False))
    return joined.where(~is_same).select(
        key, F.col(_NEEDED).isNotNull().alias(_NEEDED), F.col(_STORED).isNotNull().alias(_STORED)
    )


@dataclass(frozen=True)
class Update:
    """What has to be encoded; after a kill the job continues with what is still missing.

    Additional vectors (a new checkpoint, new items) are appended part by part. Where stored vectors change or are
    removed, readers may be using them: everything new comes in one commit, beside the stored vectors that stay.

    Attributes:
        stale: ``differences``, persisted.
        needed: Number of needed vectors; ``new`` of them are not stored yet, ``changed`` ones are stale.
        removed: Stored vectors that are not needed any more.
    """

    inputs: VectorInputs
    stale: DataFrame
    needed: int
    new: int
    changed: int
    removed: int

    @classmethod
    def of(cls, inputs: VectorInputs, *, full: bool = False) -> Update:
        stale = differences(inputs, full=full).persist()
        counts = stale.agg(
            F.count_if(F.col(_NEEDED) & ~F.col(_STORED)).alias("new"),
            F.count_if(F.col(_NEEDED) & F.col(_STORED)).alias("changed"),
            F.count_if(~F.col(_NEEDED)).alias("removed"),
        ).collect()[0]
        return cls(inputs, stale, inputs.rows.count(), **counts.asDict())

    @property
    def encoded(self) -> int:
        return self.new + self.changed

    @property
    def in_words(self) -> str:
        return f"{self.encoded:,} encoded, {self.needed - self.encoded:,} kept, {self.removed:,} removed"

    @property
    def replaces(self) -> bool:
        """Whether stored vectors change or are removed."""
        return bool(self.changed or self.removed)

    @property
    def is_current(self) -> bool:
        """Whether there is nothing to write."""
        return self.inputs.stored is not None and not self.replaces and not self.new

    def parts(self, name: str, part_mib: float) -> Iterator[tuple[str, DataFrame]]:
        """Name and rows of each part that is encoded, gated and committed together; none where all is current."""
        todo = self.inputs.rows
        if self.new < self.needed:
            todo = todo.join(self.stale.where(_NEEDED).select(self.inputs.key), on=self.inputs.key, how="left_semi")
        if self.replaces:
            yield name, self._spread_out(todo)
        elif not self.is_current:
            parts = min(self.inputs.most_parts, _files(self.new, self.inputs.row_bytes, part_mib))
            for part in range(parts):
                chosen = todo.where(F.pmod(self.inputs.spread, F.lit(parts)) == part)
                yield name if parts == 1 else f"{name} {part + 1} of {parts}", self._spread_out(chosen)

    def with_kept(self, vectors: DataFrame, part_mib: float) -> DataFrame:
        """New vectors beside the stored ones that stay: the whole content of the checkpoint's slice."""
        if self.inputs.stored is None:
            return vectors
        replaced = self.stale.where(_STORED).select(self.inputs.key)
        kept = self.inputs.stored.join(replaced, on=self.inputs.key, how="left_anti")
        return kept.unionByName(vectors).coalesce(_files(self.needed, self.inputs.row_bytes, part_mib))

    def _spread_out(self, rows: DataFrame) -> DataFrame:
        """As many partitions as tasks run at once: a few large files would otherwise be encoded by a few tasks."""
        return rows.repartition(rows.sparkSession.sparkContext.defaultParallelism, self.inputs.key)


def _files(rows: int, row_bytes: int, part_mib: float) -> int:
    """Number of files of about ``part_mib`` for the vectors of ``rows`` rows."""
    return max(1, math.ceil(rows * row_bytes / (part_mib * _MIB)))
