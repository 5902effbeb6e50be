"""Gates of tables as they stand in the warehouse: every slice by itself, and against the tables it refers to."""

from __future__ import annotations

from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from precise_core.run.job import Job
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
from validation import derived
from validation.checks import Check, between, holds
from validation.gate import GateResult, gate
from validation.suites import Reference

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
# Vectors of two checkpoints have nothing to do with each other.
_SLICED = (ITEM_EMBEDDINGS.name, USER_EMBEDDINGS.name)
_LARGEST_INDEX = "largest_item_index"


def gates_of(job: Job, table: Table) -> list[GateResult]:
    """The verdicts on the newest version of ``table``, one per slice."""
    frame = job.read(table)
    if table.name not in _SLICED:
        return [_gate(job, table, frame, "")]
    versions = sorted(row[0] for row in frame.select(c.MODEL_VERSION).distinct().collect())
    return [_gate(job, table, frame.where(F.col(c.MODEL_VERSION) == version), version) for version in versions]


def _gate(job: Job, table: Table, frame: DataFrame, part: str) -> GateResult:
    also: list[Check] = []
    for reference in REFERENCES:
        if reference.table is table and job.warehouse.exists(reference.other):
            other = job.read(reference.other)
            frame = derived.with_reference(frame, reference.column, other, reference.other_column, reference.name)
            also.append(holds(reference.name, f"{reference.column} is in {reference.other.name}"))
    if table in (USER_SEQUENCES, TRAINING_WINDOWS) and job.warehouse.exists(ITEM_VOCABULARY):
        last = job.read(ITEM_VOCABULARY).agg(F.max(c.ITEM_INDEX)).collect()[0][0] or 0
        frame = frame.withColumn(_LARGEST_INDEX, F.array_max(c.ITEM_INDICES))
        also.append(between(_LARGEST_INDEX, None, last, f"{c.ITEM_INDICES} are rows of the vocabulary"))
    return gate(table, frame, run_id=job.run_id, part=part, also=also, **_parameters(job, table, frame))


def _parameters(job: Job, table: Table, frame: DataFrame) -> dict[str, Any]:
    settings = job.settings
    if table is USER_SEQUENCES:
        return {"max_length": settings.sequences.max_length, "as_of": settings.as_of}
    if table is ITEM_TOKENS:
        return {"max_tokens": settings.text.max_tokens}
    if table is TRAINING_WINDOWS:
        return {"length": settings.windows.length}
    if table.name in _SLICED:
        return {"width": _first(frame, F.size(c.EMBEDDING))}
    if table is TEXT_STATES:
        width = F.try_divide(F.size(c.STATES), F.col(c.TOKEN_COUNT)).cast("int")
        return {"width": _first(frame, width), "max_tokens": settings.text.max_tokens}
    return {}


def _first(frame: DataFrame, value: Any) -> int:
    row = frame.select(value).first()
    return int(row[0]) if row and row[0] is not None else 0
