"""This platform: `precise_core.sequences.build.build_user_sequences`."""

from pathlib import Path

from pyspark.sql import SparkSession

from benchmarks.data.engine import AS_OF, COLUMNS, run_engine
from benchmarks.data.world import TASKS, session
from precise_core.sequences.build import build_user_sequences
from precise_core.sequences.config import SequencesConfig


def build(events: Path, vocabulary: Path, out: Path, max_length: int) -> None:
    spark = SparkSession.getActiveSession()
    assert spark is not None
    sequences = build_user_sequences(
        spark.read.parquet(str(events)),
        spark.read.parquet(str(vocabulary)),
        TASKS,
        AS_OF,
        SequencesConfig(max_length=max_length),
    )
    sequences.select(*COLUMNS).write.parquet(str(out))


if __name__ == "__main__":
    run_engine(build, lambda: session("precise", 8).range(1).count())
