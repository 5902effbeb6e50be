"""What the lists of tonight have to do without is said: lists and sources that came after the jobs they depend on."""

from __future__ import annotations

from argparse import Namespace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest
from pyspark.sql import DataFrame

from precise_core.config.tasks import TaskConfig
from precise_core.recommendations.config import ListConfig, RecommendationsConfig
from precise_core.recommendations.knowledge import Log
from precise_core.recommendations.names import SOURCES
from precise_core.recommendations.night import say_unlearned, stored_neighbours
from precise_core.recommendations.ranker_files import PublishedRanker
from precise_core.run.job import Job
from precise_core.settings import Settings
from schemas import ITEM_NEIGHBOURS
from schemas import columns as c
from tests.fake_warehouse import put
from tests.night import said

AS_OF = datetime(2024, 3, 1, tzinfo=UTC)
LISTS = {"all": ListConfig(), "front": ListConfig(max_per_text=1)}


def job_of(warehouse: Path, **recommendations: Any) -> Job:
    settings = Settings(
        name="t",
        warehouse=str(warehouse),
        as_of=AS_OF,
        source={"kind": "synthetic"},  # type: ignore[arg-type]
        recommendations=RecommendationsConfig(**recommendations),
    )
    return Job("t", settings, Namespace())


def test_a_list_that_came_after_the_training_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job, unread = job_of(tmp_path, lists=LISTS), cast(DataFrame, None)
    tasks = {"buy": TaskConfig(action="buy"), "share": TaskConfig(action="share")}
    log = Log(unread, unread, unread, tasks, AS_OF, job.settings.recommendations)
    chosen = {"all": {"all": "ease"}, "buy": {"all": "ease", "front": "ease"}}
    say_unlearned(job, PublishedRanker("lists-1", {}, chosen, {}, {}, {}, Path()), log)
    out = said(capsys)
    assert "all, lists ['front']: added since lists-1 was trained: own history and similar users are in use" in out
    assert "share: nothing of it was taken" in out and "buy" not in out


def test_a_source_without_neighbours_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = {c.SOURCE: "neighbours", c.ITEM_ID: "a", c.NEIGHBOUR_ID: "b", c.ITEM_INDEX: 2, c.NEIGHBOUR_INDEX: 3}
    put(tmp_path, ITEM_NEIGHBOURS, [row | {c.RANK: 1, c.SCORE: 0.5}])
    on = {source: 5 for source in SOURCES} | {"baskets": 0}
    near = stored_neighbours(job_of(tmp_path, sources=on), 4)
    assert near["neighbours"][2, 3] == 0.5
    assert "item_neighbours has none of ['ease', 'text']: nothing was found, or they were switched on" in said(capsys)
    stored_neighbours(job_of(tmp_path, sources=on | {"ease": 0, "text": 0}), 4)
    assert "item_neighbours" not in said(capsys)
