"""Gates of the offline evaluation and of simulated days."""

from __future__ import annotations

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from schemas import EVALUATION_METRICS, TRAINING_DAYS
from validation.checks import LARGEST, Check, between, holds, not_blank
from validation.derived import certainly
from validation.suites import TableSuite

_INTERVAL_HOLDS_VALUE = "interval_holds_value"


def _metric_facts(frame: DataFrame) -> DataFrame:
    low, high = F.coalesce("ci_low", "value"), F.coalesce("ci_high", "value")
    # A resampled mean of equal numbers differs from it in the last bits.
    slack = 1e-9 * (F.abs("value") + 1)
    return frame.withColumn(_INTERVAL_HOLDS_VALUE, certainly(F.col("value").between(low - slack, high + slack)))


def _metrics() -> list[Check]:
    return [
        *not_blank("question", "system", "metric"),
        between("value", -LARGEST, LARGEST, "is finite"),
        between("users", 1, None, "is at least 1", level="warn"),
        holds(_INTERVAL_HOLDS_VALUE, "the interval holds the value", level="warn"),
    ]


def _days() -> list[Check]:
    return [
        between("untrained_item_rate", 0, 1, "is a share"),
        between("untrained_exposure_rate", 0, 1, "is a share"),
    ]


SUITES = (TableSuite(EVALUATION_METRICS, _metrics, _metric_facts), TableSuite(TRAINING_DAYS, _days))
