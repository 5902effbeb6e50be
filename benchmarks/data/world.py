"""Events and a vocabulary of any number of rows, from the synthetic world, as the tables a night has."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from pathlib import Path

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from benchmarks.data import engine
from precise_core.features.config import TaskConfig
from precise_core.features.vocabulary import FIRST_ITEM_INDEX
from precise_core.sources.config import SyntheticSource
from precise_core.sources.synthetic import read_synthetic
from precise_core.spark.config import SparkConfig
from precise_core.spark.session import get_session
from schemas import EVENTS, ITEM_VOCABULARY
from schemas import columns as c

TASKS = {name: TaskConfig.model_validate(condition) for name, condition in engine.TASKS.items() if condition}
MAX_LENGTH = 500
EVENTS_PER_USER = 100
HEAVY_SHARE = 0.5  # of all events, where one user is to be heavy
_DAYS = 60


def source_of(events: int, seed: int, *, is_skewed: bool = False, new_share: float = 0.0) -> SyntheticSource:
    """A world of about ``events`` events; a share of ``new_share`` of them happens on its last day or comes later."""
    others = events * (1 - HEAVY_SHARE) if is_skewed else events
    return SyntheticSource(
        kind="synthetic",
        users=max(10, round(others / EVENTS_PER_USER)),
        items=max(1000, round(events / 100)),
        days=_DAYS,
        events_per_user=EVENTS_PER_USER,
        heavy_user_share=HEAVY_SHARE if is_skewed else 0.0,
        late_share=new_share,
        impressions_per_user=0,
        seed=seed,
    )


def end_of(source: SyntheticSource) -> datetime:
    """The instant after the last event."""
    return datetime.combine(source.start, time(), UTC) + timedelta(days=source.days)


def events_of(spark: SparkSession, source: SyntheticSource) -> DataFrame:
    """The world's events as rows of ``schemas.EVENTS``."""
    events = read_synthetic(spark, source).events
    dated = events.withColumn(c.EVENT_DATE, F.to_date(c.EVENT_TS))
    return dated.select(*EVENTS.column_names)


def vocabulary_of(spark: SparkSession, source: SyntheticSource) -> DataFrame:
    """A row of ``schemas.ITEM_VOCABULARY`` per item of the world."""
    number = F.col("id")
    return (
        spark.range(source.items)
        .select(
            F.concat(F.lit("item-"), number.cast("string")).alias(c.ITEM_ID),
            (number + FIRST_ITEM_INDEX).cast("int").alias(c.ITEM_INDEX),
            F.lit(end_of(source)).alias(c.FIRST_SEEN),
        )
        .select(*ITEM_VOCABULARY.column_names)
    )


def write_world(folder: Path, events: int, seed: int, *, is_skewed: bool = False) -> Path:
    """Parquet files of events and vocabulary under ``folder``, made where they are not there yet."""
    name = f"{events}_{seed}{'_skewed' if is_skewed else ''}"
    world = folder / name
    if not (world / "events" / "_SUCCESS").exists():
        spark = session("world", 2 * max(1, events // 2_000_000))
        source = source_of(events, seed, is_skewed=is_skewed)
        vocabulary_of(spark, source).coalesce(1).write.mode("overwrite").parquet(str(world / "vocabulary"))
        events_of(spark, source).drop(c.EVENT_DATE).write.mode("overwrite").parquet(str(world / "events"))
    return world


def session(name: str, partitions: int) -> SparkSession:
    """Spark as all these figures are measured with: two cores, a driver of 8 GB."""
    config = SparkConfig(master="local[2]", driver_memory="8g", shuffle_partitions=max(4, partitions))
    return get_session(name, config)
