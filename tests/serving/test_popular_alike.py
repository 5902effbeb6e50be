"""What is popular, and what may be shown: the server, which counts with Arrow, finds what the job finds with Spark."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from pyspark.sql import SparkSession

import schemas
from precise_core.config.tasks import ALL_TASK, TaskConfig
from precise_core.recall.popular import excluded_items, popular_items
from precise_core.serving.item_parts import Catalog, Popularity, write_catalog, write_popularity
from precise_core.warehouse.reader import TableReader
from precise_core.warehouse.tables import Warehouse
from schemas import columns as c
from tests.fake_warehouse import AS_OF, put

DAYS = 3
SECOND = timedelta(seconds=1)
# Times at both ends of what counts, and some between.
TIMES = [
    AS_OF + age
    for since in (timedelta(0), timedelta(days=-DAYS))
    for age in (since - SECOND, since, since + SECOND, since - timedelta(hours=7))
]
TASKS = {
    "scene": TaskConfig(scene="s"),
    "action": TaskConfig(action="share"),
    "both": TaskConfig(scene="s", action="share"),
    "nothing": TaskConfig(scene="closed"),
}


def write_world(root: Path, seed: int) -> None:
    """Few events of many items, so that most numbers are ties; ids that other orders would sort differently."""
    draw = np.random.default_rng(seed)
    items = [f"{letter}{number}" for letter in ("a", "Z", "é", "z", "Ω", "ﬁ", "😀") for number in (1, 2, 10)]
    known, deleted = draw.permutation(items)[:-2], set(draw.choice(items, 3, replace=False))
    events = [
        {c.EVENT_ID: str(number), c.ITEM_ID: str(draw.choice(items[:-3])), c.SCENE: str(draw.choice(["s", "t", "S"])),
         c.ACTION: str(draw.choice(["share", "click"])), c.EVENT_TS: (at := TIMES[draw.integers(len(TIMES))]),
         c.EVENT_DATE: at.date()}
        for number in range(90)
    ]  # fmt: skip
    put(root, schemas.EVENTS, events)
    put(root, schemas.ITEMS, [{c.ITEM_ID: item, c.IS_DELETED: item in deleted} for item in items])
    words = [{c.ITEM_ID: str(item), c.ITEM_INDEX: 2 + place} for place, item in enumerate(known)]
    put(root, schemas.ITEM_VOCABULARY, words)


@pytest.mark.parametrize("seed", [1, 2])
def test_popular_and_excluded_items_are_those_of_the_job(spark: SparkSession, tmp_path: Path, seed: int) -> None:
    write_world(tmp_path, seed)
    tables = TableReader(tmp_path)
    about = {
        "as_of": AS_OF.isoformat(),
        "days": DAYS,
        "tasks": {name: rule.model_dump() for name, rule in TASKS.items()},
        "versions": {table.name: 0 for table in (schemas.ITEM_VOCABULARY, schemas.ITEMS)},
    }
    write_popularity(tables, about, tmp_path)
    write_catalog(tables, about, tmp_path)
    popularity, catalog = Popularity(tmp_path), Catalog(tmp_path)
    house = Warehouse(str(tmp_path))
    events, items, words = (
        house.read(spark, table, 0) for table in (schemas.EVENTS, schemas.ITEMS, schemas.ITEM_VOCABULARY)
    )
    for task in (ALL_TASK, *TASKS):
        of_job = excluded_items(events, items, words, TASKS, AS_OF, task)
        excluded = np.union1d(catalog.deleted_indices, popularity.foreign_indices(task))
        assert excluded.tolist() == sorted(row[c.ITEM_INDEX] for row in of_job.collect())
        popular = popular_items(events, words, of_job, TASKS.get(task), AS_OF, DAYS, limit=100).orderBy("_place")
        expected = [(row[c.ITEM_INDEX], row[c.SCORE]) for row in popular.collect()]
        ranked = [array.tolist() for array in popularity.ranked(task, excluded)]
        assert list(zip(*ranked, strict=True)) == expected
        assert bool(expected) == (task != "nothing")
