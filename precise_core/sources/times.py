"""Reading times. Everything is UTC; what cannot be read is null, never an exception in the middle of a job."""

from __future__ import annotations

from pyspark.errors import PySparkException
from pyspark.sql import Column, SparkSession
from pyspark.sql import functions as F

from precise_core.errors import ConfigError
from precise_core.sources.config import TimeReading

_MICROS_PER_UNIT = {"seconds": 1_000_000, "milliseconds": 1_000, "microseconds": 1}
# Spark's own cast also accepts "2024", "12:30" (today!) and "170412"; a time without a full date is not a time.
_FULL_DATE = r"^\d{4}-\d{2}-\d{2}([ T].*)?$"
# Years 1 to 9999: beyond them Python cannot hold what Spark can.
_FIRST_MICROS = -62_135_596_800_000_000
_LAST_MICROS = 253_402_300_799_999_999


def read_time(text: Column, reading: TimeReading) -> Column:
    """A timestamp, null if unreadable, from a number in ``reading.unit``, text in ``reading.format``, or ISO 8601."""
    trimmed = F.trim(text)
    if reading.unit is not None:
        number = trimmed.try_cast("decimal(24,6)") * F.lit(_MICROS_PER_UNIT[reading.unit]).cast("decimal(7,0)")
        micros = number.try_cast("bigint")
        return F.when(micros.between(_FIRST_MICROS, _LAST_MICROS), F.timestamp_micros(micros))
    if reading.format is not None:
        return F.try_to_timestamp(trimmed, F.lit(reading.format))
    return F.when(trimmed.rlike(_FULL_DATE), trimmed.try_cast("timestamp"))


def check_time_reading(spark: SparkSession, reading: TimeReading) -> None:
    """Refuse a pattern that Spark does not understand before any data is read.

    Raises:
        ConfigError: ``reading.format`` is not a Spark datetime pattern.
    """
    if reading.format is None:
        return
    try:
        spark.range(1).select(F.date_format(F.timestamp_micros(F.col("id")), reading.format)).collect()
    except PySparkException as error:
        raise ConfigError(
            f"time_reading.format {reading.format!r}: not a Spark datetime pattern such as 'yyyy-MM-dd HH:mm:ss'"
        ) from error
