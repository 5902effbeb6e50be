"""Gates of the tables that other teams read, and of the bookkeeping."""

from __future__ import annotations

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from schemas import (
    EVALUATION_METRICS,
    EVENTS_REJECTED,
    IMPRESSIONS_REJECTED,
    ITEMS_REJECTED,
    PAIR_SCORES,
    RANKING_SCORES,
    RECALL_CANDIDATES,
    RUNS,
    SOURCE_FILES,
    TRAINING_DAYS,
    VALIDATION_RESULTS,
    Table,
)
from schemas import columns as c
from validation import derived
from validation.checks import LARGEST, Check, between, declared, holds, not_blank, one_of
from validation.suites import TableSuite

_INTERVAL_HOLDS_VALUE = "interval_holds_value"
_ROWS_ADD_UP = "rows_add_up"


def _pair_scores() -> list[Check]:
    return [
        *declared(PAIR_SCORES),
        *not_blank(c.USER_ID, c.ITEM_ID, c.MODEL_VERSION),
        between(c.SCORE, -LARGEST, LARGEST, "is finite"),
    ]


def _candidates() -> list[Check]:
    return [
        *declared(RECALL_CANDIDATES),
        *not_blank(c.USER_ID, c.TASK, c.MODEL_VERSION, c.SOURCE, c.ITEM_ID),
        between(c.RANK, 1, None, "is at least 1"),
        between(c.SCORE, -LARGEST, LARGEST, "is finite"),
    ]


def _ranking_scores() -> list[Check]:
    return [*declared(RANKING_SCORES), *not_blank(c.RANKER_VERSION), between(c.SCORE, 0, 1, "is a probability")]


def _metric_facts(frame: DataFrame) -> DataFrame:
    low, high = F.coalesce("ci_low", "value"), F.coalesce("ci_high", "value")
    # A resampled mean of equal numbers differs from it in the last bits.
    slack = 1e-9 * (F.abs("value") + 1)
    return frame.withColumn(_INTERVAL_HOLDS_VALUE, derived.certainly(F.col("value").between(low - slack, high + slack)))


def _metrics() -> list[Check]:
    return [
        *declared(EVALUATION_METRICS),
        *not_blank("question", "system", "metric"),
        between("value", -LARGEST, LARGEST, "is finite"),
        between("users", 1, None, "is at least 1", level="warn"),
        Check(holds(_INTERVAL_HOLDS_VALUE, "").expectation, "the interval holds the value", "warn"),
    ]


def _days() -> list[Check]:
    return [
        *declared(TRAINING_DAYS),
        between("untrained_item_rate", 0, 1, "is a share"),
        between("untrained_exposure_rate", 0, 1, "is a share"),
    ]


def _run_facts(frame: DataFrame) -> DataFrame:
    adds_up = F.col("rows_in") == F.col("rows_out") + F.col("rows_rejected")
    return frame.withColumn(_ROWS_ADD_UP, derived.certainly(adds_up | (F.col("status") != "succeeded")))


def _runs() -> list[Check]:
    return [
        *declared(RUNS),
        one_of("status", ["succeeded", "failed"]),
        between("seconds", 0, None, "is at least 0"),
        holds(_ROWS_ADD_UP, "rows in = rows out + rows rejected, where a run succeeded"),
    ]


def _results() -> list[Check]:
    return [
        *declared(VALIDATION_RESULTS),
        one_of("level", ["fail", "warn"]),
        between("unexpected_count", 0, None, "is at least 0"),
    ]


def _files() -> list[Check]:
    return [
        *declared(SOURCE_FILES),
        *not_blank(c.TABLE_NAME, c.PATH),
        between("rows", 0, None, "is at least 0"),
        between("sequence", 1, None, "is at least 1"),
    ]


def _rejected(table: Table) -> TableSuite:
    return TableSuite(table, lambda: [*declared(table), *not_blank(c.REASON)])


SUITES = (
    TableSuite(PAIR_SCORES, _pair_scores),
    TableSuite(RECALL_CANDIDATES, _candidates),
    TableSuite(RANKING_SCORES, _ranking_scores),
    TableSuite(EVALUATION_METRICS, _metrics, _metric_facts),
    TableSuite(TRAINING_DAYS, _days),
    TableSuite(RUNS, _runs, _run_facts),
    TableSuite(VALIDATION_RESULTS, _results),
    TableSuite(SOURCE_FILES, _files),
    _rejected(EVENTS_REJECTED),
    _rejected(ITEMS_REJECTED),
    _rejected(IMPRESSIONS_REJECTED),
)
