"""An instant as a literal of Spark."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from pyspark.sql import Column
from pyspark.sql import functions as F


def instant(when: datetime) -> Column:
    """``when`` as a timestamp literal, whatever the time zone of the driver; a naive time is UTC."""
    return F.timestamp_micros(F.lit(micros(when)))


def micros(when: datetime) -> int:
    """Microseconds since 1970 (UTC); a naive time is UTC."""
    aware = when.replace(tzinfo=UTC) if when.tzinfo is None else when
    return (aware - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
