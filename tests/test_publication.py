"""Readers see the old complete version until the new one is complete; what lies too far from it is not published."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from precise_core.errors import CheckpointError, MissingTableError
from precise_core.runtime.job import Job
from precise_core.runtime.published import published_checkpoint, published_tasks
from precise_core.spark.warehouse import Warehouse
from schemas import ITEM_EMBEDDINGS, PUBLISHED_MODELS, USER_EMBEDDINGS, VALIDATION_RESULTS
from schemas import columns as c
from tests import vector_world as world
from tests.fake_warehouse import settings_of
from tests.night import copy_of, run, said


def in_use(warehouse: Path) -> str:
    """What a reader gets that starts now."""
    return published_checkpoint(Job("recall", settings_of(warehouse), Namespace()), "all").model_version


@pytest.fixture(scope="module")
def published(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    warehouse = tmp_path_factory.mktemp("publication") / "warehouse"
    assert spark is not None
    world.build(warehouse)
    version = world.train(warehouse, seed=1)
    for job in ("embed_items", "embed_users", "build_index", "publish_models"):
        assert run(job, warehouse) == 0
    return warehouse, version


def test_before_the_first_publication_readers_are_told_what_to_run(tmp_path: Path) -> None:
    world.build(tmp_path)
    job = Job("recall", settings_of(tmp_path), Namespace())
    with pytest.raises(MissingTableError, match=r"run jobs/publish_models\.py first"):
        published_tasks(job)


def test_what_is_published_says_what_it_was_checked_against(published: tuple[Path, str]) -> None:
    warehouse, version = published
    (row,) = world.read(warehouse, PUBLISHED_MODELS)
    assert (row[c.TASK], row[c.MODEL_VERSION], row["previous_version"]) == ("all", version, None)
    house, versions = Warehouse(str(warehouse)), dict(row["table_versions"])
    for table in (ITEM_EMBEDDINGS, USER_EMBEDDINGS):
        assert versions[table.name] == house.version(table)
    assert row[c.TOKENIZER_ID] == "toy-tokenizer"
    job = Job("recall", settings_of(warehouse), Namespace())
    assert published_tasks(job) == ["all"]
    with pytest.raises(CheckpointError, match="no model is published for 'share', only for all"):
        published_checkpoint(job, "share")


def test_a_new_checkpoint_is_read_when_all_of_it_is_there_and_near_enough(
    published: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    warehouse, old = copy_of(published[0], tmp_path / "warehouse"), published[1]
    new = world.train(warehouse, seed=2, previous=old)
    missing = {"item_embeddings": "embed_items", "user_embeddings": "embed_users", "index": "build_index"}
    for what, job in missing.items():
        assert run("publish_models", warehouse) == 2
        out = said(capsys)
        assert (what in out and f"{job}.py first" in out) or "no SHA256SUMS" in out
        assert in_use(warehouse) == old
        assert run(job, warehouse) == 0
    assert run("publish_models", warehouse) == 2  # two random models have nothing in common
    out = said(capsys)
    assert "table published_models: " in out and "nothing was written" in out and "cosine" in out
    assert in_use(warehouse) == old
    verdicts = [row for row in world.read(warehouse, VALIDATION_RESULTS) if row["table_name"] == "published_models"]
    assert {row["column"] for row in verdicts if not row["success"]} >= {"item_cosine"}
    assert run("publish_models", warehouse, "--accept-drift") == 0
    assert in_use(warehouse) == new
    (row,) = world.read(warehouse, PUBLISHED_MODELS)
    assert row["previous_version"] == old
    house = Warehouse(str(warehouse))
    version = house.version(PUBLISHED_MODELS)
    assert run("publish_models", warehouse) == 0  # to itself it is near; nothing to commit
    assert house.version(PUBLISHED_MODELS) == version
