"""What is searched for live is what the job `recall` finds on Spark, without a whole night."""

from __future__ import annotations

from pathlib import Path

from pyspark.sql import SparkSession

import schemas
from precise_core.recall.config import RecallConfig
from precise_core.recall.spark import RecallInputs, recall_task
from precise_core.serving.plan import plan
from precise_core.serving.prepare import prepare
from precise_core.serving.release import Release
from precise_core.warehouse.tables import Warehouse
from schemas import columns as c
from tests.serving.world import MONDAY, NEWCOMER, TASKS, World


def test_candidates_are_those_of_the_job_without_what_was_seen(spark: SparkSession, tmp_path: Path) -> None:
    world = World(tmp_path)
    world.publish(0)
    spark, config = spark, RecallConfig(k=10, seeds=3, neighbours=6, filter_seen=True)
    served = world.served().model_copy(update={"recall": config})
    found = plan(served)
    assert found is not None
    prepare(world.root, found, set())
    release = Release.open(served, found, None)
    house = Warehouse(str(world.root))
    tables = {
        table: house.read(spark, table, house.version(table))
        for table in (schemas.USER_SEQUENCES, schemas.USER_EMBEDDINGS, schemas.EVENTS, schemas.ITEMS,
                      schemas.ITEM_VOCABULARY)
    }  # fmt: skip
    shown = [(NEWCOMER, MONDAY.replace(year=2020))]
    impressions = spark.createDataFrame(shown, f"{c.USER_ID} string, {c.IMPRESSION_TS} timestamp")
    for task, own in release.tasks.items():
        vectors = tables[schemas.USER_EMBEDDINGS].where(f"{c.TASK} = '{task}'")
        inputs = RecallInputs(
            task, own.model_version, MONDAY, Path(world.index_folder(own.model_version)), vectors,
            tables[schemas.USER_SEQUENCES], impressions, tables[schemas.EVENTS], tables[schemas.ITEMS],
            tables[schemas.ITEM_VOCABULARY],
        )  # fmt: skip
        rows = recall_task(spark, inputs, config, TASKS, 9).rows.toPandas()
        of_job = dict(list(rows.sort_values(c.RANK).groupby([c.USER_ID, c.SOURCE])))
        assert (NEWCOMER, c.POPULAR) in of_job
        for user in sorted(set(rows[c.USER_ID])):
            for asked in (c.U2I, c.U2I2I):
                source, live = own.recall(user, asked, config.k, filter_seen=True)
                expected = of_job.get((user, source), rows.head(0))
                assert [one.item_id for one in live] == expected[c.ITEM_ID].tolist(), (task, user, source)
                assert [one.score for one in live] == expected[c.SCORE].tolist()
                assert [one.seed_item_id for one in live] == expected[c.SEED_ITEM_ID].tolist()
