"""Which vectors were published at an instant of the past, and that maintenance keeps what the lists look back to."""

from __future__ import annotations

from argparse import Namespace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from precise_core.errors import CheckpointError
from precise_core.operations.maintenance import _published_versions
from precise_core.recommendations.list_ranker import ListInputs, ListRanker
from precise_core.recommendations.night import past_publications, require_space
from precise_core.recommendations.ranker_files import PublishedRanker
from precise_core.run.job import Job
from precise_core.settings import Settings
from precise_core.warehouse.care import vacuum
from schemas import ITEM_EMBEDDINGS, USER_EMBEDDINGS
from tests.consume.test_consume import DAY, MONDAY, World

NIGHTS = 40


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """After forty nights; every one made all vectors anew."""
    world = World(tmp_path)
    for night in range(NIGHTS):
        world.users.clear()
        world.items.clear()
        world.publish(MONDAY + night * DAY, f"m{night}", ["u1"], ["i1"])
    settings = Settings(
        name="t",
        warehouse=str(tmp_path),
        as_of=MONDAY + NIGHTS * DAY,
        source={"kind": "synthetic"},  # type: ignore[arg-type]
    )
    return Job("t", settings, Namespace())


def then(job: Job, days: float) -> str | None:
    found = past_publications(job, ["all", "buy"], job.settings.as_of - timedelta(days=days))
    assert "buy" not in found
    return found["all"].model_version if found else None


def test_the_newest_that_knew_nothing_from_the_instant_on(job: Job) -> None:
    assert then(job, 28) == f"m{NIGHTS - 28}"
    assert then(job, 28.5) == f"m{NIGHTS - 29}"
    assert then(job, NIGHTS) == "m0"
    assert then(job, NIGHTS + 0.1) is None
    assert then(job, -20) is None  # none of the week before


def test_after_maintenance_there_is_one_of_the_week_before(job: Job) -> None:
    for table in (USER_EMBEDDINGS, ITEM_EMBEDDINGS):
        kept = _published_versions(job, table)
        assert len(kept) <= 8  # not one a night
        vacuum(job.warehouse.path(table), 0, dry_run=False, keep=kept)
    for days in (28.0, 29, 30, 31, 32, 33, 34):
        found = then(job, days)
        assert found is not None
        assert 0 <= NIGHTS - days - int(found[1:]) <= 7


def test_vectors_that_are_gone_are_said_to_be(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    for table in (USER_EMBEDDINGS, ITEM_EMBEDDINGS):
        vacuum(job.warehouse.path(table), 0, dry_run=False)
    assert then(job, 28) is None
    assert "all: the vectors that were published before" in " ".join(capsys.readouterr().out.split())


def test_an_order_that_reads_vectors_of_another_space_stops_the_lists(job: Job) -> None:
    inputs = ListInputs(("all",), np.zeros(1), np.ones(1), vector_width=8)
    orders = {"o": ListRanker(inputs, [])}
    ranker = PublishedRanker("lists-1", orders, {"all": {"all": "o"}}, {}, {}, {"space": "s1"}, Path())
    why = f"lists-1 reads vectors of the space of s1, published are those of m{NIGHTS - 1}; run jobs/train_list_ranker"
    with pytest.raises(CheckpointError, match=why):
        require_space(job, ranker)
