"""What a night of sequences must survive: a kill between data and commit, and one user with half of all events."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs.build_sequences import write_sequences
from precise_core.sequences.config import SequencesConfig
from precise_core.sequences.night import prepare_sequences
from precise_core.warehouse.tables import Warehouse
from schemas import EVENTS, USER_SEQUENCES
from tests.night import copy_of, job_of_its_own, run, wait_until
from tests.sequence_world import TalkingJob, World

pytestmark = pytest.mark.faults

START = datetime(2024, 1, 1, tzinfo=UTC)


def test_a_night_killed_between_data_and_commit_is_made_up_for(night: Path, tmp_path: Path) -> None:
    warehouse = copy_of(night, tmp_path / "warehouse")
    house, later = Warehouse(str(warehouse)), ("--set", "as_of=2024-02-24T00:00:00Z")
    before = house.version(USER_SEQUENCES)
    rows_before = house.read_arrow(USER_SEQUENCES, before).num_rows
    kill_once_it_writes(warehouse, *later)
    if house.version(USER_SEQUENCES) == before:
        assert house.read_arrow(USER_SEQUENCES, before).num_rows == rows_before
    assert run("build_sequences", warehouse, *later, "--check", "2") == 0
    assert house.version(USER_SEQUENCES) == before + 1
    assert run("build_sequences", warehouse, *later, "--full") == 0
    assert house.version(USER_SEQUENCES) == before + 1, "a full build gives other rows"


def kill_once_it_writes(warehouse: Path, *arguments: str) -> None:
    """Start the job as a process of its own and kill it when the first file of the new version lies there."""
    folder = warehouse / "tables" / USER_SEQUENCES.name
    known = set(folder.rglob("*.parquet"))
    with job_of_its_own("build_sequences", warehouse, *arguments) as process:
        wait_until(process, lambda: bool(set(folder.rglob("*.parquet")) - known))


def test_one_user_with_half_of_all_events(spark: SparkSession, tmp_path: Path) -> None:
    """Four million events through a driver of 2 GB: the exact last N on the first night and on the next."""
    world = World(spark, tmp_path / "warehouse")
    world.sequences = SequencesConfig(max_length=100, buckets=2)
    for first, end in ((0, 4_000_000), (4_000_000, 4_020_000)):
        world.warehouse.append(EVENTS, one_a_second(spark, first, end), run_id="test")
        world.as_of = START + timedelta(seconds=end)
        job = TalkingJob(world.settings())
        update = prepare_sequences(job, full=False)
        assert update is not None and ("full build:" in "".join(job.said)) == (first == 0)
        write_sequences(job, update)
        job.release()
        stored = world.warehouse.read(spark, USER_SEQUENCES, world.warehouse.version(USER_SEQUENCES))
        seconds = F.transform("event_ts", lambda ts: F.unix_seconds(ts) - int(START.timestamp())).alias("seconds")
        row = stored.where("user_id = 'heavy' AND task = 'all'").select(seconds).collect()[0]
        assert row["seconds"] == list(range(end - 200, end, 2))


def one_a_second(spark: SparkSession, first: int, end: int) -> DataFrame:
    """Every other event is the heavy user's, the rest are spread over ten thousand users."""
    numbered = spark.range(first, end).withColumn(
        "event_ts", F.timestamp_seconds(F.lit(int(START.timestamp())) + F.col("id"))
    )
    return numbered.select(
        F.concat(F.lit("e"), "id").alias("event_id"),
        F.when(F.col("id") % 2 == 0, "heavy").otherwise(F.concat(F.lit("u"), F.col("id") % 10_000)).alias("user_id"),
        F.lit("i1").alias("item_id"),
        F.lit("videos").alias("scene"),
        F.lit("click").alias("action"),
        "event_ts",
        F.to_date("event_ts").alias("event_date"),
        F.lit(None).cast("double").alias("value"),
        F.lit(None).cast("bigint").alias("file_sequence"),
    )
