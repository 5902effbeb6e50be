"""After a night the server answers what the jobs wrote."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.dataset as ds
import pytest

from precise_core import consume
from precise_core.config import load_config
from precise_core.serving.plan import plan
from precise_core.serving.prepare import prepare
from precise_core.serving.release import Release
from precise_core.serving.served import Served
from precise_core.settings import Settings
from schemas import columns as c
from tests.night import CONFIG, copy_of


@pytest.fixture(scope="module")
def warehouse(night: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_of(night, tmp_path_factory.mktemp("served") / "warehouse")


@pytest.fixture(scope="module")
def release(warehouse: Path) -> Release:
    settings = load_config(CONFIG, Settings, [])
    served = Served(warehouse=str(warehouse), tasks=settings.tasks, recall=settings.recall)
    found = plan(served)
    assert found is not None
    prepare(warehouse, found, set())
    return Release.open(served, found, None)


def test_candidates_searched_live_are_those_of_the_job(warehouse: Path, release: Release) -> None:
    assert set(release.tasks) == {"all", "click_articles", "share"}
    sources = set()
    for task, own in release.tasks.items():
        is_own = (ds.field(c.TASK) == task) & (ds.field(c.MODEL_VERSION) == own.model_version)
        rows = consume.read_table(warehouse, "recall_candidates", where=is_own).to_pandas()
        of_job = dict(list(rows.sort_values(c.RANK).groupby([c.USER_ID, c.SOURCE])))
        for user in sorted(set(rows[c.USER_ID])):
            for asked in (c.U2I, c.U2I2I):
                source, found = own.recall(user, asked, own.config.k, filter_seen=own.config.filter_seen)
                sources.add(source)
                expected = of_job.get((user, source), rows.head(0))
                assert [one.item_id for one in found] == expected[c.ITEM_ID].tolist(), (task, user, source)
                assert [one.score for one in found] == expected[c.SCORE].tolist()
                assert [one.seed_item_id for one in found] == expected[c.SEED_ITEM_ID].tolist()
    assert sources >= {c.U2I, c.U2I2I}


def test_lists_and_scores_are_those_of_the_jobs(warehouse: Path, release: Release) -> None:
    known = consume.read_table(warehouse, "recommendations", [c.USER_ID])[c.USER_ID].unique().to_pylist()
    for task, lists in release.lists.items():
        for name in lists.names:
            for user in (*known[:5], "stranger"):
                expected = consume.recommendations(warehouse, [user], task=task, name=name).to_pylist()
                rows = lists.of(user, name, 1000).places
                assert [row[c.ITEM_ID] for row in rows] == [row[c.ITEM_ID] for row in expected]
    pairs = consume.read_table(warehouse, "pair_scores").to_pandas()
    pairs = pairs[pairs[c.MODEL_VERSION] == release.tasks["all"].model_version].head(200)
    found = release.tasks["all"].scores(pairs[[c.USER_ID, c.ITEM_ID]].itertuples(index=False, name=None))
    np.testing.assert_allclose(np.array(found, float), pairs[c.SCORE], rtol=1e-6)
