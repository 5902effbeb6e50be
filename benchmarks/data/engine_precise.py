"""This platform: `precise_core.sequences.files.write_user_sequences`, as `build_sequences` builds everything."""

from pathlib import Path

import pyarrow.parquet as pq
from pyspark.sql import SparkSession

from benchmarks.data.engine import AS_OF, run_engine
from benchmarks.data.world import TASKS, session
from precise_core.sequences.build import SequenceInputs
from precise_core.sequences.config import SequencesConfig
from precise_core.sequences.event_files import EventFiles
from precise_core.sequences.files import write_user_sequences
from precise_core.warehouse.reader import footer_rows


def build(events: Path, vocabulary: Path, out: Path, max_length: int) -> None:
    spark = SparkSession.getActiveSession()
    assert spark is not None
    files = [f"file://{file}" for file in sorted(events.glob("*.parquet"))]
    inputs = SequenceInputs(
        events=spark.read.parquet(str(events)),
        vocabulary=spark.read.parquet(str(vocabulary)),
        tasks=TASKS,
        as_of=AS_OF,
        config=SequencesConfig(max_length=max_length),
    )
    index = pq.read_table(vocabulary, columns=["item_id", "item_index"])
    write_user_sequences(inputs, EventFiles(files, sum(map(footer_rows, files)), index), str(out))


if __name__ == "__main__":
    run_engine(build, lambda: session("precise", 8).range(1).count())
