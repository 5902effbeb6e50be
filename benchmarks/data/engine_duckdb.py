"""DuckDB, in memory: ordered lists of structs, one grouping per task."""

from pathlib import Path

import duckdb

from benchmarks.data.engine import AS_OF, TASKS, UNKNOWN_INDEX, run_engine


def build(events: Path, vocabulary: Path, out: Path, max_length: int) -> None:
    database = duckdb.connect()
    database.execute("SET threads = 2; SET TimeZone = 'UTC'; SET preserve_insertion_order = false")
    database.execute(
        f"""CREATE TABLE rows AS
        SELECT user_id, event_ts, event_id, coalesce(item_index, {UNKNOWN_INDEX})::INT AS item_index, scene, action
        FROM read_parquet('{events}/*.parquet') LEFT JOIN read_parquet('{vocabulary}/*.parquet') USING (item_id)
        WHERE event_ts < TIMESTAMPTZ '{AS_OF.isoformat()}'"""
    )
    out.mkdir(parents=True)
    for task, condition in TASKS.items():
        where = " AND ".join(["true", *(f"{name} = '{value}'" for name, value in condition.items())])
        database.execute(
            f"""COPY (
                SELECT user_id, '{task}' AS task, list_transform(line, lambda e: e.i) AS item_indices,
                    list_transform(line, lambda e: e.s) AS scenes, list_transform(line, lambda e: e.t) AS event_ts
                FROM (
                    SELECT user_id, list({{t: event_ts, i: item_index, s: scene}} ORDER BY event_ts, event_id)
                        [-{max_length}:] AS line
                    FROM rows WHERE {where} GROUP BY user_id
                )
            ) TO '{out}/{task}.parquet' (COMPRESSION snappy)"""
        )


if __name__ == "__main__":
    run_engine(build)
