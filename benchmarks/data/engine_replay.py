"""RePlay's preparation on Spark: `NumInteractionsFilter` and `groupby_sequences`, once per task.

RePlay has one item index per data set and gives it out with its own encoder; here the vocabulary is joined, so that the
output can be compared.
"""

from pathlib import Path

from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from replay.data.nn.utils import groupby_sequences
from replay.preprocessing.filters import NumInteractionsFilter

from benchmarks.data.engine import AS_OF, COLUMNS, TASKS, UNKNOWN_INDEX, run_engine


def build(events: Path, vocabulary: Path, out: Path, max_length: int) -> None:
    spark = _session()
    index = spark.read.parquet(str(vocabulary)).select("item_id", "item_index")
    rows = spark.read.parquet(str(events)).where(F.col("event_ts") < F.lit(AS_OF))
    rows = rows.join(index, on="item_id", how="left")
    rows = rows.withColumn("item_index", F.coalesce("item_index", F.lit(UNKNOWN_INDEX)))
    last = NumInteractionsFilter(max_length, False, "user_id", "event_ts", "event_id")
    for task, condition in TASKS.items():
        of_task = rows
        for column, value in condition.items():
            of_task = of_task.where(F.col(column) == value)
        kept = last.transform(of_task).select("user_id", "event_ts", "event_id", "item_index", "scene")
        lines = groupby_sequences(kept, "user_id", "event_ts").withColumn("task", F.lit(task))
        named = lines.withColumnsRenamed({"item_index": "item_indices", "scene": "scenes"}).select(*COLUMNS)
        named.write.mode("append").parquet(str(out))


def _session() -> SparkSession:
    builder = SparkSession.builder.master("local[2]").config("spark.driver.memory", "8g")
    builder = builder.config("spark.sql.session.timeZone", "UTC").config("spark.sql.shuffle.partitions", 8)
    builder = builder.config("spark.sql.parquet.outputTimestampType", "TIMESTAMP_MICROS")
    return builder.config("spark.ui.enabled", "false").getOrCreate()


if __name__ == "__main__":
    run_engine(build, lambda: _session().range(1).count())
