"""Readers see the old complete version until the new one is complete; what lies too far from it is not published."""

from __future__ import annotations

import shutil
from argparse import Namespace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from precise_core.errors import CheckpointError, HistoryGoneError, MissingTableError
from precise_core.index.index import VectorIndex
from precise_core.publication.night import (
    drift_facts,
    publication_follows,
    published_checkpoint,
    published_index,
    published_tasks,
    published_vectors,
    valid_from,
)
from precise_core.run.job import Job
from precise_core.store.sums import write_sums
from precise_core.training.night import latest_checkpoint
from precise_core.warehouse.tables import Warehouse
from schemas import ITEM_EMBEDDINGS, ITEM_TOKENS, PUBLISHED_MODELS, USER_EMBEDDINGS, VALIDATION_RESULTS, Table
from schemas import columns as c
from tests import vector_world as world
from tests.fake_warehouse import settings_of
from tests.night import copy_of, run, said


def reader(warehouse: Path) -> Job:
    """A job that starts now."""
    return Job("recall", settings_of(warehouse), Namespace())


def in_use(warehouse: Path) -> str:
    """What a reader gets that starts now."""
    return published_checkpoint(reader(warehouse), "all").model_version


def served(warehouse: Path, table: Table = ITEM_EMBEDDINGS) -> dict[str, list[float]]:
    """The vectors that a reader gets that starts now."""
    rows = published_vectors(reader(warehouse), "all", table).collect()
    return {row[table.key[0]]: row[c.EMBEDDING] for row in rows}


@pytest.fixture(scope="module")
def published(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    assert spark is not None
    warehouse, version = world.encoded(tmp_path_factory.mktemp("publication") / "warehouse")
    for job in ("build_index", "publish_models"):
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


def test_vectors_that_were_refused_are_served_to_nobody(
    published: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Garbage in every title: the vectors of the checkpoint in use are encoded anew, in place, and refused."""
    warehouse, version = copy_of(published[0], tmp_path / "warehouse"), published[1]
    before, folder = served(warehouse), published_index(reader(warehouse), "all")
    world.change(warehouse, ITEM_TOKENS, [world.tokens(index, "garbage") for index in world.INDICES])
    assert run("embed_items", warehouse) == 0
    newest = {row[c.ITEM_ID]: row[c.EMBEDDING] for row in world.read(warehouse, ITEM_EMBEDDINGS)}
    assert newest.keys() == before.keys() and newest != before
    capsys.readouterr()
    assert run("publish_models", warehouse) == 2  # the index holds as many vectors, but others
    assert f"no index of {version} holds the {len(newest)} vectors" in said(capsys)
    assert run("build_index", warehouse) == 0
    refuse, keep_nothing = ("gates.drift.smallest_cosine=0.99999", "tables.min_retention_hours=0")
    assert run("publish_models", warehouse, "--set", refuse) == 2
    assert run("maintain_tables", warehouse, "--retention-hours", "0", "--set", keep_nothing) == 0
    assert served(warehouse) == before and published_index(reader(warehouse), "all") == folder
    index = VectorIndex.open(folder, version)
    assert dict(zip(index.item_ids, index.vectors_ND.tolist(), strict=True)) == before
    assert run("publish_models", warehouse, "--accept-drift", "--set", refuse) == 0
    assert served(warehouse) == newest and published_index(reader(warehouse), "all") != folder


def test_what_is_published_and_gone_is_named_with_what_to_run(published: tuple[Path, str], tmp_path: Path) -> None:
    warehouse, version = copy_of(published[0], tmp_path / "warehouse"), published[1]
    shutil.rmtree(published_index(reader(warehouse), "all"))
    with pytest.raises(CheckpointError, match=r"published for 'all': run jobs/build_index\.py and jobs/publish_mod"):
        published_index(reader(warehouse), "all")
    assert run("build_index", warehouse) == 0 == run("publish_models", warehouse)
    assert published_index(reader(warehouse), "all").is_dir()
    shutil.rmtree(warehouse / "checkpoints" / version)
    with pytest.raises(CheckpointError, match=rf"{version}: no such folder; it is published for 'all': put the folder"):
        published_checkpoint(reader(warehouse), "all")


def test_an_index_of_other_query_vectors_is_another_index(
    published: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    warehouse, version = copy_of(published[0], tmp_path / "warehouse"), published[1]
    before = published_index(reader(warehouse), "all")
    rows = world.read(warehouse, ITEM_EMBEDDINGS)
    world.make(warehouse, ITEM_EMBEDDINGS, [row | {c.QUERY_EMBEDDING: row[c.EMBEDDING]} for row in rows])
    capsys.readouterr()
    assert run("publish_models", warehouse) == 2 and f"no index of {version} holds" in said(capsys)
    assert run("build_index", warehouse) == 0 == run("publish_models", warehouse)
    index = VectorIndex.open(published_index(reader(warehouse), "all"), version)
    assert (index.seed_queries_ND == index.vectors_ND).all()  # type: ignore[union-attr]
    assert (VectorIndex.open(before, version).seed_queries_ND != index.vectors_ND).any()


def test_what_was_published_before_there_were_query_vectors_is_served_until_the_next(
    published: tuple[Path, str], tmp_path: Path
) -> None:
    warehouse = copy_of(published[0], tmp_path / "warehouse")
    before, folder = served(warehouse), published_index(reader(warehouse), "all")
    folder = folder.rename(folder.with_name("older"))  # its name was another, without query vectors in the hash
    (row,) = world.read(warehouse, PUBLISHED_MODELS)
    versions = dict(row["table_versions"]) | {ITEM_EMBEDDINGS.name: world.without_queries(warehouse)}
    older = row | {"table_versions": list(versions.items()), c.INDEX_VERSION: folder.name}
    world.make(warehouse, PUBLISHED_MODELS, [older])
    (folder / "seed_queries.npy").unlink()
    write_sums(folder)
    assert served(warehouse) == before and published_index(reader(warehouse), "all") == folder
    assert run("embed_items", warehouse) == 0
    assert served(warehouse) == before
    assert run("build_index", warehouse) == 0 == run("publish_models", warehouse)
    after = published_index(reader(warehouse), "all")
    assert VectorIndex.open(after, in_use(warehouse)).seed_queries_ND is not None


def test_a_publication_is_valid_from_when_it_was_made_but_in_a_night_of_the_past() -> None:
    midnight = datetime(2024, 3, 5, tzinfo=UTC)
    for hours in (4, 7 * 24):
        assert valid_from(midnight, midnight + timedelta(hours=hours)) == midnight + timedelta(hours=hours)
    assert valid_from(midnight, midnight - timedelta(hours=2)) == midnight  # run before midnight
    assert valid_from(midnight, midnight + timedelta(days=400)) == midnight


def test_an_erasure_reaches_what_is_published_and_publishes_nothing_else(
    published: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    warehouse = copy_of(published[0], tmp_path / "warehouse")
    before = served(warehouse, USER_EMBEDDINGS)
    with publication_follows(reader(warehouse)):
        world.change(warehouse, USER_EMBEDDINGS, [], gone=["u1"])
    assert served(warehouse, USER_EMBEDDINGS) == {user: vector for user, vector in before.items() if user != "u1"}
    turned = [row | {c.EMBEDDING: [1.0] * 16} for row in world.read(warehouse, USER_EMBEDDINGS)]
    world.make(warehouse, USER_EMBEDDINGS, turned)  # encoded, not published
    with publication_follows(reader(warehouse)):
        world.change(warehouse, USER_EMBEDDINGS, [], gone=["u2"])
    assert served(warehouse, USER_EMBEDDINGS)["u2"] == before["u2"]
    assert "the published vectors are older than those in the table; run jobs/publish_models.py" in said(capsys)


def test_a_published_version_that_is_gone_is_named_and_not_compared_with_itself(
    published: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    warehouse = copy_of(published[0], tmp_path / "warehouse")
    next((warehouse / "tables" / "item_embeddings").rglob("*.parquet")).unlink()
    with pytest.raises(HistoryGoneError, match=r"item_embeddings: version \d+, in which .* run jobs/publish_models"):
        published_vectors(reader(warehouse), "all", ITEM_EMBEDDINGS)
    job = reader(warehouse)
    facts = drift_facts(job, "all", latest_checkpoint(job, "all"))
    assert "user_cosine" in facts and not {"item_cosine", "item_norm_change", "neighbour_overlap"} & facts.keys()
    assert "item vectors not compared, their published version of item_embeddings is gone" in said(capsys)
