"""Events and a vocabulary of any number of rows, from the synthetic world, as the tables a night has."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime, time, timedelta
from pathlib import Path

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from benchmarks.data import engine
from precise_core.config.tasks import TaskConfig
from precise_core.data_sets import synthetic
from precise_core.sources.config import SyntheticSource
from precise_core.warehouse.config import SparkConfig
from precise_core.warehouse.session import get_session
from schemas import EVENTS, ITEM_VOCABULARY
from schemas import columns as c

TASKS = {name: TaskConfig.model_validate(condition) for name, condition in engine.TASKS.items() if condition}
EVENTS_PER_USER = 100
HEAVY_SHARE = 0.5  # of all events, where one user is to be heavy
_DAYS = 60
HEAVY_USER = "user-0"
_GENERATED_MILLIONS = 10  # a larger world is copies of one of this size, which is quicker


def source_of(events: int, seed: int, *, is_skewed: bool = False) -> SyntheticSource:
    """A world of about ``events`` events."""
    others = events * (1 - HEAVY_SHARE) if is_skewed else events
    return SyntheticSource(
        kind="synthetic",
        users=max(10, round(others / EVENTS_PER_USER)),
        items=max(1000, round(events / 100)),
        days=_DAYS,
        events_per_user=EVENTS_PER_USER,
        heavy_user_share=HEAVY_SHARE if is_skewed else 0.0,
        impressions_per_user=0,
        seed=seed,
    )


def end_of(source: SyntheticSource) -> datetime:
    """The instant after the last event."""
    return datetime.combine(source.start, time(), UTC) + timedelta(days=source.days)


def events_of(spark: SparkSession, source: SyntheticSource) -> DataFrame:
    """The world's events as rows of ``schemas.EVENTS``."""
    events = synthetic.read(spark, source).events
    assert events is not None
    dated = events.withColumn(c.EVENT_DATE, F.to_date(c.EVENT_TS))
    return dated.select(*EVENTS.column_names)


def vocabulary_of(spark: SparkSession, source: SyntheticSource) -> DataFrame:
    """A row of ``schemas.ITEM_VOCABULARY`` per item of the world."""
    number = F.col("id")
    return (
        spark.range(source.items)
        .select(
            F.concat(F.lit("item-"), number.cast("string")).alias(c.ITEM_ID),
            (number + c.FIRST_ITEM_INDEX).cast("int").alias(c.ITEM_INDEX),
            F.lit(end_of(source)).alias(c.FIRST_SEEN),
        )
        .select(*ITEM_VOCABULARY.column_names)
    )


def main() -> None:
    """Write one world, where it is not there yet, and print its folder."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--millions", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--skewed", action="store_true", help="one user has half of all events")
    arguments = parser.parse_args()
    name = f"world_{arguments.millions}m_{arguments.seed}{'_skewed' if arguments.skewed else ''}"
    world = arguments.folder.resolve() / name
    if not (world / "events" / "_SUCCESS").exists():
        generated = min(arguments.millions, _GENERATED_MILLIONS)
        if arguments.millions % generated:
            parser.error(f"--millions {arguments.millions}: above {generated}, only multiples of it can be made")
        part = world.with_name(f"{world.name}_part") if generated < arguments.millions else world
        _write(part, source_of(generated * 1_000_000, arguments.seed, is_skewed=arguments.skewed))
        if part != world:
            _copy(part, world, arguments.millions // generated, is_skewed=arguments.skewed)
    print(world)


def _copy(part: Path, world: Path, copies: int, *, is_skewed: bool) -> None:
    """A world of ``copies`` times the events of ``part``: each copy has users of its own, but for the heavy user.

    A copy is some microseconds later than the one before, so that the heavy user's events are not tied.
    """
    spark = session("world", 4)
    copy = F.explode(F.sequence(F.lit(0), F.lit(copies - 1))).alias("copy")
    own_user = F.concat_ws("-", c.USER_ID, F.col("copy").cast("string"))
    is_shared = (F.col(c.USER_ID) == HEAVY_USER) & F.lit(is_skewed)
    changed = {
        c.USER_ID: F.when(is_shared, F.col(c.USER_ID)).otherwise(own_user),
        c.EVENT_ID: F.concat_ws("-", c.EVENT_ID, F.col("copy").cast("string")),
        c.EVENT_TS: F.timestamp_micros(F.unix_micros(c.EVENT_TS) + F.col("copy")),
    }
    events = spark.read.parquet(str(part / "events")).select("*", copy).withColumns(changed).drop("copy")
    events.write.mode("overwrite").parquet(str(world / "events"))
    shutil.copytree(part / "vocabulary", world / "vocabulary", dirs_exist_ok=True)
    shutil.rmtree(part)


def _write(world: Path, source: SyntheticSource) -> None:
    users_per_task = 20_000
    spark = session("world", 4, {"spark.default.parallelism": str(max(2, source.users // users_per_task))})
    vocabulary_of(spark, source).coalesce(1).write.mode("overwrite").parquet(str(world / "vocabulary"))
    events_of(spark, source).drop(c.EVENT_DATE).write.mode("overwrite").parquet(str(world / "events"))


def session(name: str, partitions: int, conf: Mapping[str, str] | None = None) -> SparkSession:
    """Spark as all these figures are measured with: two cores, a driver of 8 GB."""
    config = SparkConfig(master="local[2]", driver_memory="8g", shuffle_partitions=partitions, conf=dict(conf or {}))
    return get_session(name, config)


if __name__ == "__main__":
    main()
