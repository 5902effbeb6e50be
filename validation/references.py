"""Gates of tables as they are in the warehouse: every slice alone, and against the tables it refers to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from precise_core.settings import Settings
from schemas import (
    EVENTS,
    IMPRESSIONS,
    ITEM_EMBEDDINGS,
    ITEM_TOKENS,
    ITEM_VOCABULARY,
    ITEMS,
    PAIR_SCORES,
    RANKING_FEATURES,
    RANKING_SCORES,
    RECALL_CANDIDATES,
    TEXT_STATES,
    TRAINING_WINDOWS,
    USER_EMBEDDINGS,
    USER_SEQUENCES,
    Table,
)
from schemas import columns as c
from validation.checks import Check, between, holds
from validation.derived import certainly
from validation.gate import GateResult, gate


@dataclass(frozen=True)
class Reference:
    """Every value of ``column`` occurs as ``other_column`` of the table ``other``."""

    table: Table
    column: str
    other: Table
    other_column: str

    @property
    def name(self) -> str:
        """The derived column that is true where it holds."""
        return f"{self.column}_is_in_{self.other.name}"


REFERENCES: tuple[Reference, ...] = (
    Reference(EVENTS, c.ITEM_ID, ITEMS, c.ITEM_ID),
    Reference(IMPRESSIONS, c.ITEM_ID, ITEMS, c.ITEM_ID),
    Reference(ITEM_TOKENS, c.ITEM_INDEX, ITEM_VOCABULARY, c.ITEM_INDEX),
    Reference(ITEM_EMBEDDINGS, c.ITEM_INDEX, ITEM_VOCABULARY, c.ITEM_INDEX),
    Reference(PAIR_SCORES, c.ITEM_ID, ITEM_EMBEDDINGS, c.ITEM_ID),
    Reference(RECALL_CANDIDATES, c.ITEM_ID, ITEMS, c.ITEM_ID),
    Reference(RANKING_FEATURES, c.IMPRESSION_ID, IMPRESSIONS, c.IMPRESSION_ID),
    Reference(RANKING_SCORES, c.IMPRESSION_ID, IMPRESSIONS, c.IMPRESSION_ID),
)
# Vectors of two checkpoints are checked apart.
_SLICED = (ITEM_EMBEDDINGS, USER_EMBEDDINGS)
_ROWS_OF_VOCABULARY = (USER_SEQUENCES, TRAINING_WINDOWS)  # their arrays hold its indices
_LARGEST_INDEX = "largest_item_index"


def tables_needed(table: Table) -> list[Table]:
    """The further tables that the gates of ``table`` read."""
    others = [reference.other for reference in REFERENCES if reference.table is table]
    return [*others, ITEM_VOCABULARY] if table in _ROWS_OF_VOCABULARY else others


def gates_of(
    table: Table, frame: DataFrame, others: Mapping[str, DataFrame], *, settings: Settings, run_id: str
) -> list[GateResult]:
    """The results of ``table``, one per slice.

    Args:
        frame: All its rows.
        others: By name, those of ``tables_needed`` that exist; a reference into another one is not checked.
        settings: What the suites depend on: lengths, ``as_of``.
    """
    parts = {"": frame}
    if table in _SLICED:
        versions = sorted(row[0] for row in frame.select(c.MODEL_VERSION).distinct().collect())
        parts = {version: frame.where(F.col(c.MODEL_VERSION) == version) for version in versions}
    return [_gate(table, rows, others, settings, run_id, part) for part, rows in parts.items()]


def _gate(
    table: Table, frame: DataFrame, others: Mapping[str, DataFrame], settings: Settings, run_id: str, part: str
) -> GateResult:
    also: list[Check] = []
    for reference in REFERENCES:
        if reference.table is table and reference.other.name in others:
            frame = _with_reference(frame, reference, others[reference.other.name])
            also.append(holds(reference.name, f"{reference.column} is in {reference.other.name}"))
    if table in _ROWS_OF_VOCABULARY and ITEM_VOCABULARY.name in others:
        last = others[ITEM_VOCABULARY.name].agg(F.max(c.ITEM_INDEX)).collect()[0][0] or 0
        frame = frame.withColumn(_LARGEST_INDEX, F.array_max(c.ITEM_INDICES))
        also.append(between(_LARGEST_INDEX, None, last, f"{c.ITEM_INDICES} are rows of the vocabulary"))
    return gate(table, frame, run_id=run_id, part=part, also=also, **_parameters(settings, table, frame))


def _with_reference(frame: DataFrame, reference: Reference, other: DataFrame) -> DataFrame:
    known = other.select(F.col(reference.other_column).alias(reference.column), F.lit(True).alias(reference.name))
    joined = frame.join(known.distinct(), on=reference.column, how="left")
    return joined.select(*frame.columns, certainly(F.col(reference.name)).alias(reference.name))


def _parameters(settings: Settings, table: Table, frame: DataFrame) -> dict[str, Any]:
    if table is USER_SEQUENCES:
        return {"max_length": settings.sequences.max_length, "as_of": settings.as_of}
    if table is ITEM_TOKENS:
        return {"max_tokens": settings.text.max_tokens}
    if table is TRAINING_WINDOWS:
        return {"length": settings.windows.length}
    if table in _SLICED:
        return {"width": _first(frame, F.size(c.EMBEDDING))}
    if table is TEXT_STATES:
        width = F.try_divide(F.size(c.STATES), F.col(c.TOKEN_COUNT)).cast("int")
        return {"width": _first(frame, width), "max_tokens": settings.text.max_tokens}
    return {}


def _first(frame: DataFrame, value: Any) -> int:
    row = frame.select(value).first()
    return int(row[0]) if row and row[0] is not None else 0
