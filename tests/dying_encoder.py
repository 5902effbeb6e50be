"""Users encoded on a cluster, where one Python worker is killed in the middle: `python -m tests.dying_encoder FOLDER`.

A process of its own, because one JVM has one master, and that of the other tests is not a cluster.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
from pyspark.sql import SparkSession

from precise_core.vectors.spark import embed_users
from precise_core.warehouse.config import SparkConfig
from precise_core.warehouse.session import get_session
from schemas import USER_SEQUENCES
from schemas import columns as c
from tests import vector_world as world
from tests.torch_world import LENGTH, world_catalog
from tests.training.test_checkpoints import write

AS_OF = datetime(2024, 2, 20, tzinfo=UTC)
_COLUMNS = f"{c.USER_ID} string, {c.TASK} string, {c.ITEM_INDICES} array<int>"


def kill_once(batches: Iterable[pa.RecordBatch], marker: Path) -> Iterable[pa.RecordBatch]:
    """Hands on what it gets, and ends its own process without a word the first time a second batch is asked for."""
    for number, batch in enumerate(batches):
        if number == 1 and not marker.exists():
            marker.write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGKILL)
        yield batch


def encode(spark: SparkSession, folder: Path, marker: Path) -> dict[str, list[float]]:
    rows = [world.sequence(user, world.items_of(user)) for user in range(world.USERS)]
    users = spark.createDataFrame(rows, USER_SEQUENCES.spark_schema()).select(c.USER_ID, c.TASK, c.ITEM_INDICES)
    fed = users.repartition(2).mapInArrow(lambda batches: kill_once(batches, marker), _COLUMNS)
    catalog_file = world_catalog().save(folder / "catalog.safetensors")
    checkpoint = write(folder / "checkpoints").folder
    return {row[c.USER_ID]: row[c.EMBEDDING] for row in
            embed_users(spark, fed, checkpoint, catalog_file, LENGTH, AS_OF).collect()}  # fmt: skip


def main(folder: Path) -> None:
    conf = {"spark.sql.execution.arrow.maxRecordsPerBatch": "4"}
    spark = get_session("dying-encoder", SparkConfig(master="local-cluster[2,1,1024]", driver_memory="1g", conf=conf))
    marker = folder / "killed"
    with_a_loss = encode(spark, folder, marker)
    without = encode(spark, folder, marker)  # the marker is there: nobody dies
    told = {"killed": marker.exists(), "users": len(with_a_loss), "same": with_a_loss == without}
    (folder / "told.json").write_text(json.dumps(told))
    spark.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
