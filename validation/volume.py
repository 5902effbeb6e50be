"""The number of events of a day and their kinds, compared with the days before it."""

from __future__ import annotations

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from schemas import EVENTS
from schemas import columns as c
from validation.checks import Check, between
from validation.engine import evaluate
from validation.gate import GateResult, result_of

VOLUME_RATIO = "volume_ratio"
MIX_OVERLAP = "mix_overlap"
PART = "by day"


def gate_volume(
    events: DataFrame,
    *,
    run_id: str,
    newest_days: int,
    trailing_days: int,
    largest_volume_ratio: float,
    smallest_mix_overlap: float,
) -> GateResult:
    """Warn where a day has far more or fewer events than the days before it, or other kinds of them.

    Args:
        newest_days: The days that are checked.
        trailing_days: Days before each of them that it is compared with.
        largest_volume_ratio: Events of a day over the mean of the trailing days; its inverse is the smallest.
        smallest_mix_overlap: Share of the events that the two mixes of (scene, action) have in common, 0 to 1.
    """
    high, overlap = largest_volume_ratio, smallest_mix_overlap
    low = 1 / high
    checks: list[Check] = [
        between(
            VOLUME_RATIO,
            low,
            high,
            f"a day has {low:.2g} to {high:.2g} times the events of the {trailing_days} days before it",
            level="warn",
        ),
        between(
            MIX_OVERLAP,
            overlap,
            None,
            f"a day shares {overlap:.0%} of its mix of scenes and actions with the days before it",
            level="warn",
        ),
    ]
    return result_of(EVENTS, evaluate(daily_facts(events, newest_days, trailing_days), checks), run_id, PART)


def daily_facts(events: DataFrame, days: int, trailing_days: int) -> DataFrame:
    """One row per newest day that has days before it: volume_ratio, mix_overlap. One aggregation over the log."""
    kinds = events.groupBy(c.EVENT_DATE, c.SCENE, c.ACTION).agg(F.count(F.lit(1)).alias("n"))
    day = F.unix_date(c.EVENT_DATE)
    before = Window.orderBy(day).rangeBetween(-trailing_days, -1)
    totals = kinds.groupBy(c.EVENT_DATE).agg(F.sum("n").alias("total"))
    newest = Window.orderBy(F.col(c.EVENT_DATE).desc())
    totals = totals.select(
        c.EVENT_DATE,
        "total",
        F.sum("total").over(before).alias("trailing"),
        F.count("total").over(before).alias("trailing_with_events"),
        F.row_number().over(newest).alias("place"),
    )
    of_kind = Window.partitionBy(c.SCENE, c.ACTION).orderBy(day).rangeBetween(-trailing_days, -1)
    mixes = kinds.withColumn("trailing_n", F.coalesce(F.sum("n").over(of_kind), F.lit(0)))
    joined = mixes.join(totals, on=c.EVENT_DATE, how="inner").where(F.col("trailing").isNotNull())
    common = F.least(F.col("n") / F.col("total"), F.col("trailing_n") / F.col("trailing"))
    ratio = F.first("total") / (F.first("trailing") / F.first("trailing_with_events"))
    return (
        joined.where(F.col("place") <= days)
        .groupBy(c.EVENT_DATE)
        .agg(ratio.alias(VOLUME_RATIO), F.sum(common).alias(MIX_OVERLAP))
    )
