"""What a log is like, counted by Spark in two passes over `events`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from precise_core.intake.sizes import LogProfile
from precise_core.tasks import events_before
from precise_core.warehouse.instants import instant, micros
from schemas import columns as c

_EVENT_QUANTILES = (0.5, 0.9, 0.99)
_USER_SHARES = (0.01, 0.05, 0.1, 0.25, 0.5)
_MICROS_PER_DAY = 86_400_000_000


def profile_of(events: DataFrame, as_of: datetime) -> LogProfile | None:
    """Counts and times of the events before ``as_of``; None where there is none."""
    before = F.col(c.EVENT_TS) < instant(as_of)
    at = F.unix_micros(c.EVENT_TS)
    by_user = events.groupBy(c.USER_ID).agg(
        F.count(F.lit(1)).alias("rows"),
        F.count_if(before).alias("events"),
        F.min(at).alias("first"),
        F.max(F.when(before, at)).alias("last"),
        F.max(F.when(~before, at)).alias("last_after"),
    )
    counted = F.when(F.col("events") > 0, F.col("events"))  # null for who came after as_of: quantiles leave nulls out
    row = by_user.agg(
        F.sum("rows").alias("rows"),
        F.sum("events").alias("events"),
        F.count(counted).alias("users"),
        F.min("first").alias("first"),
        F.max("last").alias("last"),
        F.max("last_after").alias("last_after"),
        F.percentile_approx(counted, list(_EVENT_QUANTILES)).alias("quantiles"),
        F.percentile_approx(F.lit(micros(as_of)) - F.col("last"), list(_USER_SHARES)).alias("idle"),
    ).collect()[0]
    if not row["events"]:
        return None
    items = events_before(events, as_of).select(c.ITEM_ID).distinct().count()
    median, q90, q99 = row["quantiles"]
    return LogProfile(
        as_of=as_of,
        rows=row["rows"],
        events=row["events"],
        users=row["users"],
        items=items,
        first=_instant(row["first"]),
        last=_instant(row["last"]),
        last_after=None if row["last_after"] is None else _instant(row["last_after"]),
        median_events=median,
        q90_events=q90,
        q99_events=q99,
        idle_days={f"{of:g}": idle / _MICROS_PER_DAY for of, idle in zip(_USER_SHARES, row["idle"], strict=True)},
    )


def _instant(micros_since_1970: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=micros_since_1970)
