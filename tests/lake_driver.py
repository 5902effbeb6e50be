"""A Spark driver of its own: appends one row a commit to a table, as fast as it can, beside other writers.

`python -m tests.lake_driver TABLE NAME COMMITS FOLDER`: says in FOLDER that it is ready, starts when `go` lies there,
and prints a line for every commit that was acknowledged.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from precise_core.warehouse.config import SparkConfig
from precise_core.warehouse.session import get_session, require_s3


def main(table: str, name: str, commits: int, folder: Path) -> None:
    config = SparkConfig(master="local[1]", driver_memory="700m", shuffle_partitions=1)
    spark = get_session(f"precise-{name}", config, is_light=True)
    require_s3(spark, table)
    rows = [spark.createDataFrame([(name, number)], "writer string, number int") for number in range(commits)]
    spark.read.format("delta").load(table).count()
    (folder / f"{name}.ready").touch()
    while not (folder / "go").exists():
        time.sleep(0.05)
    for row in rows:
        row.write.format("delta").mode("append").save(table)
        print("acknowledged", flush=True)
    spark.stop()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]))
