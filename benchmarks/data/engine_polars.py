"""Polars, in memory: one sort of the events, then one grouping per task."""

from pathlib import Path

import polars as pl

from benchmarks.data.engine import AS_OF, COLUMNS, TASKS, UNKNOWN_INDEX, run_engine


def build(events: Path, vocabulary: Path, out: Path, max_length: int) -> None:
    index = pl.scan_parquet(vocabulary / "*.parquet").select("item_id", "item_index")
    rows = (
        pl.scan_parquet(events / "*.parquet")
        .filter(pl.col("event_ts").dt.replace_time_zone("UTC") < AS_OF)
        .join(index, on="item_id", how="left")
        .with_columns(pl.col("item_index").fill_null(UNKNOWN_INDEX))
        .sort("event_ts", "event_id")
        .select("user_id", "item_index", "scene", "action", "event_ts")
        .collect()
    )
    out.mkdir(parents=True)
    for task, condition in TASKS.items():
        of_task = rows.lazy()
        for name, value in condition.items():
            of_task = of_task.filter(pl.col(name) == value)
        last = [pl.col(name).tail(max_length) for name in ("item_index", "scene", "event_ts")]
        sequences = of_task.group_by("user_id").agg(last).with_columns(task=pl.lit(task))
        named = sequences.rename({"item_index": "item_indices", "scene": "scenes"}).select(COLUMNS).collect()
        named.write_parquet(out / f"{task}.parquet", compression="snappy")


if __name__ == "__main__":
    run_engine(build)
