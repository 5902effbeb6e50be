"""Gates of the bookkeeping: runs, and the results of the gates themselves."""

from __future__ import annotations

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from schemas import RUNS, VALIDATION_RESULTS
from validation.checks import Check, between, holds, one_of
from validation.derived import certainly
from validation.suites import TableSuite

_ROWS_ADD_UP = "rows_add_up"


def _run_facts(frame: DataFrame) -> DataFrame:
    adds_up = F.col("rows_in") == F.col("rows_out") + F.col("rows_rejected")
    return frame.withColumn(_ROWS_ADD_UP, certainly(adds_up | (F.col("status") != "succeeded")))


def _runs() -> list[Check]:
    return [
        one_of("status", ["succeeded", "failed"]),
        between("seconds", 0, None, "is at least 0"),
        holds(_ROWS_ADD_UP, "rows in = rows out + rows rejected, where a run succeeded"),
    ]


def _results() -> list[Check]:
    return [one_of("level", ["fail", "warn"]), between("unexpected_count", 0, None, "is at least 0")]


SUITES = (TableSuite(RUNS, _runs, _run_facts), TableSuite(VALIDATION_RESULTS, _results))
