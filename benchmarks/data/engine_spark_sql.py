"""Plain Spark SQL: a window per user and task (`row_number`), then `collect_list`."""

from pathlib import Path

from pyspark.sql import DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from benchmarks.data.engine import AS_OF, COLUMNS, TASKS, UNKNOWN_INDEX, run_engine
from benchmarks.data.world import session


def build(events: Path, vocabulary: Path, out: Path, max_length: int) -> None:
    spark = SparkSession.getActiveSession()
    assert spark is not None
    rows = _of_tasks(spark.read.parquet(str(events)).where(F.col("event_ts") < F.lit(AS_OF)))
    newest_first = Window.partitionBy("user_id", "task").orderBy(F.desc("event_ts"), F.desc("event_id"))
    placed = rows.withColumn("place", F.row_number().over(newest_first))
    recent = placed.where(F.col("place") <= max_length).drop("place")
    indexed = recent.join(spark.read.parquet(str(vocabulary)), on="item_id", how="left")
    indexed = indexed.withColumn("item_index", F.coalesce("item_index", F.lit(UNKNOWN_INDEX)))
    entry = F.struct("event_ts", "event_id", "item_index", "scene")
    lines = indexed.groupBy("user_id", "task").agg(F.sort_array(F.collect_list(entry)).alias("line"))
    fields = {"item_indices": "item_index", "scenes": "scene", "event_ts": "event_ts"}
    columns = [F.col("line")[fields[name]].alias(name) if name in fields else F.col(name) for name in COLUMNS]
    lines.select(*columns).write.parquet(str(out))


def _of_tasks(events: DataFrame) -> DataFrame:
    names = []
    for task, condition in TASKS.items():
        is_task = F.lit(True)
        for column, value in condition.items():
            is_task = is_task & (F.col(column) == value)
        names.append(F.when(is_task, F.lit(task)))
    return events.select("*", F.explode(F.array_compact(F.array(*names))).alias("task"))


if __name__ == "__main__":
    run_engine(build, lambda: session("plain Spark SQL", 8).range(1).count())
