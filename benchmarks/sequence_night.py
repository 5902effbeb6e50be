"""A night of sequences against a full build: `python -m benchmarks.sequence_night [--events N] [--share S]`.

Writes N random events of 100 days to a temporary warehouse and builds the sequences of `all` and two target tasks from
them. Adds the events of one more day, as many as the share says, brings the sequences forward, and builds everything
again: the second full build must find the rows it would write. Gate, write and row balance are part of both times.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from benchmarks.record import record
from jobs.build_sequences import main as build_sequences
from precise_core.config import load_config
from precise_core.run.job import Job
from precise_core.settings import Settings
from precise_core.warehouse.session import get_session
from precise_core.warehouse.tables import Warehouse
from schemas import EVENTS, ITEM_VOCABULARY, USER_SEQUENCES

RESULTS = Path(__file__).parent / "results" / "sequence_night.jsonl"
GOAL = 0.15  # of the time of a full build

_CONFIG = Path(__file__).parents[1] / "conf" / "synthetic.yaml"
_START = datetime(2024, 1, 1, tzinfo=UTC)
_DAYS = 100
_EVENTS_PER_USER = 100
_EVENTS_PER_ITEM = 100
_SLICE = 10_000_000  # events per commit
_TASKS = {"click_s0": {"scene": "s0", "action": "click"}, "share": {"action": "share"}}


def main(argv: Sequence[str] | None = None) -> None:
    arguments = _parser().parse_args(argv)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        settings = settings_of(Path(folder) / "warehouse", arguments)
        spark = get_session("sequence-night", settings.spark)
        write_world(spark, settings, arguments)
        first, rows = timed(settings, full=True)
        add_day(spark, settings, arguments)
        tomorrow = settings.model_copy(update={"as_of": settings.as_of + timedelta(days=1)})
        night, _ = timed(tomorrow, full=False)
        warehouse = Warehouse(settings.warehouse)
        version = warehouse.version(USER_SEQUENCES)
        full, _ = timed(tomorrow, full=True)
        if warehouse.version(USER_SEQUENCES) != version:
            raise SystemExit("the night gave other rows than the full build")
        copy = copying(warehouse.read(spark, USER_SEQUENCES, version), Path(folder) / "copy")
    ratio = night / full
    print(f"first full build {first:.1f} s, night {night:.1f} s, full build {full:.1f} s, {rows:,} sequences")
    print(f"night / full build: {ratio:.3f} (goal: at most {GOAL}), same rows; copying all rows {copy:.1f} s")
    command = f"python -m benchmarks.sequence_night --events {arguments.events} --share {arguments.share:g}"
    data = f"{arguments.events:,} random events, {arguments.share:.1%} new, N = {arguments.length}, 3 tasks"
    size = f"{arguments.events // 1_000_000} M events"
    if arguments.events_per_user != _EVENTS_PER_USER:
        command += f" --events-per-user {arguments.events_per_user}"
        size += f", {arguments.events_per_user:,} per user"
    shared: dict[str, Any] = {"data": data, "seed": arguments.seed, "command": command}
    speed, share = f"sequences, full build, {size}", f"sequences, a night / a full build, {size}"
    record(arguments.results, speed, round(arguments.events / full), "events/s", None, None, **shared)
    record(arguments.results, share, round(ratio, 3), "", f"at most {GOAL}", ratio <= GOAL, **shared)
    name = f"sequences, copying every stored row / a full build, {size}"
    record(arguments.results, name, round(copy / full, 3), "", None, None, **shared)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=10_000_000)
    parser.add_argument("--share", type=float, default=0.01, help="new events of the night, as a share of all")
    parser.add_argument("--events-per-user", type=int, default=_EVENTS_PER_USER, help="on average")
    parser.add_argument("--length", type=int, default=500, help="N")
    parser.add_argument("--buckets", type=int, default=16)
    parser.add_argument("--driver-memory", default="8g")
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--folder", help="where the temporary warehouse lies")
    parser.add_argument("--results", type=Path, default=RESULTS, help="file to append the figures to")
    return parser


def settings_of(warehouse: Path, arguments: argparse.Namespace) -> Settings:
    base = load_config(_CONFIG, Settings, [f"warehouse={warehouse}"]).model_dump()
    changes = {
        "as_of": _START + timedelta(days=_DAYS),
        "tasks": _TASKS,
        "ranking_features": {"tasks": ["all"]},
        "sequences": {"max_length": arguments.length, "buckets": arguments.buckets},
        "spark": {"driver_memory": arguments.driver_memory, "shuffle_partitions": 16},
    }
    return Settings.model_validate(base | changes)


def write_world(spark: SparkSession, settings: Settings, arguments: argparse.Namespace) -> None:
    """100 days of events and a vocabulary of all their items."""
    warehouse, events = Warehouse(settings.warehouse), arguments.events
    for first in range(0, events, _SLICE):
        ids = spark.range(first, min(first + _SLICE, events))
        warehouse.append(EVENTS, random_events(ids, arguments, 0, _DAYS), run_id="benchmark")
    items = spark.range(events // _EVENTS_PER_ITEM)
    vocabulary = items.select(
        F.concat(F.lit("i"), "id").alias("item_id"),
        (F.col("id") + 2).cast("int").alias("item_index"),
        F.lit(_START).alias("first_seen"),
    )
    warehouse.append(ITEM_VOCABULARY, vocabulary, run_id="benchmark")


def add_day(spark: SparkSession, settings: Settings, arguments: argparse.Namespace) -> None:
    """One more day, of known and a few new users."""
    ids = spark.range(arguments.events, arguments.events + int(arguments.events * arguments.share))
    day = random_events(ids, arguments, _DAYS, _DAYS + 1)
    Warehouse(settings.warehouse).append(EVENTS, day, run_id="benchmark")


def random_events(ids: DataFrame, arguments: argparse.Namespace, first_day: int, last_day: int) -> DataFrame:
    """Events between two days; a few users act often, most seldom."""

    def uniform(salt: int) -> Column:
        return F.pmod(F.xxhash64(F.lit(arguments.seed * 31 + salt), "id"), F.lit(1 << 30)) / F.lit(float(1 << 30))

    users, items = arguments.events // arguments.events_per_user, arguments.events // _EVENTS_PER_ITEM
    seconds = F.floor(uniform(3) * (last_day - first_day) * 86_400_000_000) + first_day * 86_400_000_000
    start = int(_START.timestamp()) * 1_000_000
    timed_ids = ids.withColumn("event_ts", F.timestamp_micros(F.lit(start) + seconds))
    return timed_ids.select(
        F.concat(F.lit("e"), "id").alias("event_id"),
        F.concat(F.lit("u"), F.floor(F.pow(uniform(1), 2) * users)).alias("user_id"),
        F.concat(F.lit("i"), F.floor(F.pow(uniform(2), 2) * items)).alias("item_id"),
        F.concat(F.lit("s"), F.floor(F.pow(uniform(4), 2) * 5)).alias("scene"),
        F.when(uniform(5) < 0.9, "click").otherwise("share").alias("action"),
        "event_ts",
        F.to_date("event_ts").alias("event_date"),
        F.lit(None).cast("double").alias("value"),
        F.lit(None).cast("bigint").alias("file_sequence"),
    )


def copying(rows: DataFrame, to: Path) -> float:
    """Seconds of reading and writing all rows as they are: what a night that touches every bucket pays at least."""
    started = time.monotonic()
    rows.write.partitionBy(*USER_SEQUENCES.partition_by).parquet(str(to))
    return time.monotonic() - started


def timed(settings: Settings, *, full: bool) -> tuple[float, int]:
    """Seconds of one build in a warm session, and the rows of the table after it."""
    job = Job("build_sequences", settings, argparse.Namespace(full=full, check=0))
    started = time.monotonic()
    build_sequences.body(job)
    seconds = time.monotonic() - started
    rows = job.read_written(USER_SEQUENCES).count()
    job.release()
    return seconds, rows


if __name__ == "__main__":
    main()
