"""What a rollback goes back to and what it refuses, on a warehouse made by hand: no Spark, a second per test."""

from __future__ import annotations

import argparse
import re
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from precise_core.artefacts import LIST_RANKERS, RANKERS, artefacts_in_use, put_rankers_in_use
from precise_core.consume.publications import published_now
from precise_core.index.config import IndexConfig
from precise_core.index.index import build_index
from precise_core.operations.maintenance import unused_artefacts
from precise_core.operations.rollback import begin, state_after, whole_state
from precise_core.recommendations.names import ALL_LISTS
from precise_core.run.job import Job
from precise_core.training.checkpoint import put_in_use, take_out_of_use
from precise_core.warehouse.care import content_changed, live_files
from precise_core.warehouse.erasure_list import ErasureList
from precise_core.warehouse.tables import Warehouse
from schemas import (
    ITEM_EMBEDDINGS,
    ITEM_VOCABULARY,
    ITEMS,
    PAIR_SCORES,
    PUBLISHED_MODELS,
    RECOMMENDATIONS,
    RUNS,
    VALIDATION_RESULTS,
)
from schemas import columns as c
from tests.fake_warehouse import AS_OF, put, rows_with_defaults, settings_of
from tests.night import run, said
from tests.training.test_checkpoints import make_model, write

TABLES = (ITEMS, ITEM_VOCABULARY, ITEM_EMBEDDINGS, PAIR_SCORES, RECOMMENDATIONS)


def job_of(warehouse: Path, name: str, **arguments: Any) -> Job:
    return Job(name, settings_of(warehouse), argparse.Namespace(**arguments))


def train(warehouse: Path, seed: int) -> str:
    checkpoint = write(warehouse / "checkpoints", make_model(seed=seed))
    put_in_use(warehouse / "checkpoints", "all", checkpoint)
    return checkpoint.model_version


def embed(warehouse: Path, items: list[str], version: str) -> None:
    """Vectors and index of one checkpoint over ``items``."""
    vectors = np.random.default_rng(len(items)).normal(size=(len(items), 8)).astype(np.float32)
    rows = [
        {c.ITEM_ID: item, c.MODEL_VERSION: version, c.EMBEDDING: vector.tolist(), c.ITEM_INDEX: number + 2}
        for number, (item, vector) in enumerate(zip(items, vectors, strict=True))
    ]
    put(warehouse, ITEM_EMBEDDINGS, rows)
    index = build_index(
        items, np.arange(2, len(items) + 2), vectors, model_version=version, config=IndexConfig(), seed=1
    )
    index.save(warehouse / "indexes" / version)


def publish(warehouse: Path) -> None:
    """What is in use for `all` is published."""
    version = artefacts_in_use(warehouse)["checkpoint:all"]
    row = {c.TASK: "all", c.MODEL_VERSION: version, c.AS_OF: AS_OF, "table_versions": {}, c.TOKENIZER_ID: "t"}
    row |= {c.RUN_ID: "r", "published_at": AS_OF, c.VALID_FROM: AS_OF, c.INDEX_VERSION: version}
    Warehouse(str(warehouse)).replace_records(PUBLISHED_MODELS, [row])


def use_rankers(warehouse: Path, versions: dict[str, str], kind: str = RANKERS) -> None:
    for version in versions.values():
        folder = warehouse / kind / version
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "SHA256SUMS").write_text("")
    put_rankers_in_use(warehouse, versions, kind)


def use_lists(warehouse: Path, version: str, item: str) -> None:
    """The ranking model of lists, and what it made."""
    use_rankers(warehouse, {ALL_LISTS: version}, LIST_RANKERS)
    row = {c.USER_ID: "u", c.TASK: "all", c.LIST: "all", c.RANK: 1, c.ITEM_ID: item, c.SCORE: 0.5}
    row |= {c.MODEL_VERSION: version}
    Warehouse(str(warehouse)).replace_records(RECOMMENDATIONS, rows_with_defaults(RECOMMENDATIONS, [row]).to_pylist())


def end_of(job: Job, at: datetime, status: str = "succeeded") -> str:
    job.record(status, at, 60.0, None)
    return job.run_id


@pytest.fixture
def nights(tmp_path: Path) -> tuple[Path, str]:
    """Two nights that differ in everything, and the run_id of the first."""
    warehouse = tmp_path / "warehouse"
    put(warehouse, ITEMS, [{c.ITEM_ID: item} for item in "ab"])
    put(warehouse, ITEM_VOCABULARY, [{c.ITEM_ID: item, c.ITEM_INDEX: row} for row, item in enumerate("ab", 2)])
    embed(warehouse, ["a", "b"], train(warehouse, seed=1))
    publish(warehouse)
    use_rankers(warehouse, {"DCN": "dcn-1"})
    use_lists(warehouse, "lists-1", "a")
    first = job_of(warehouse, "run_night")
    whole_state(first)
    run_id = end_of(first, datetime(2024, 3, 1, tzinfo=UTC))
    put(warehouse, ITEMS, [{c.ITEM_ID: "n"}])
    put(warehouse, ITEM_VOCABULARY, [{c.ITEM_ID: "n", c.ITEM_INDEX: 4}])
    embed(warehouse, ["a", "b", "n"], train(warehouse, seed=2))
    put(
        warehouse, PAIR_SCORES, [{c.ITEM_ID: "n", c.SCORE: 0.5, c.MODEL_VERSION: "v"}]
    )  # a table that the first night did not have
    publish(warehouse)
    use_rankers(warehouse, {"DCN": "dcn-2", "DCN + PRECISE-UT": "dcn+all-2"})
    use_lists(warehouse, "lists-2", "n")
    second = job_of(warehouse, "run_night")
    whole_state(second)
    end_of(second, datetime(2024, 3, 2, tzinfo=UTC))
    return warehouse, run_id


def published(warehouse: Path) -> dict[str, str]:
    return {task: row[c.MODEL_VERSION] for task, row in published_now(warehouse).items()}


def test_what_is_published_moves_too_and_names_vectors_at_every_moment(
    nights: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    warehouse, run_id = nights
    house = Warehouse(str(warehouse))
    second = next(night for night in _nights(warehouse) if night != run_id)
    new = published(warehouse)["all"]
    capsys.readouterr()
    assert run("rollback", warehouse, "--to-run", run_id) == 0
    old = published(warehouse)["all"]
    assert old != new and old == artefacts_in_use(warehouse)["checkpoint:all"]
    out = capsys.readouterr().out
    assert out.index("published_models: as in") < out.index("item_embeddings: as in")  # its vectors were there already
    assert house.read_arrow(ITEM_EMBEDDINGS, house.version(ITEM_EMBEDDINGS), where={c.MODEL_VERSION: new}).num_rows == 0
    assert run("rollback", warehouse, "--to-run", second) == 0
    assert published(warehouse)["all"] == new
    out = capsys.readouterr().out
    assert out.index("published_models: as in") > out.index("item_embeddings: as in")


def content(warehouse: Path) -> dict[str, Any]:
    files = {table.name: live_files(str(warehouse / "tables" / table.name)) for table in TABLES
             if (warehouse / "tables" / table.name).exists()}  # fmt: skip
    return {"files": files, "in use": artefacts_in_use(warehouse)}


def test_everything_moves_back_and_forth(nights: tuple[Path, str], capsys: pytest.CaptureFixture[str]) -> None:
    warehouse, run_id = nights
    house, before = Warehouse(str(warehouse)), content(warehouse)
    assert run("rollback", warehouse, "--to-run", run_id, "--dry-run") == 0
    assert content(warehouse) == before and "nothing was changed" in said(capsys)
    assert run("rollback", warehouse, "--to-run", run_id) == 0
    assert house.read_arrow(ITEM_VOCABULARY, house.version(ITEM_VOCABULARY))[c.ITEM_ID].to_pylist() == ["a", "b"]
    assert house.read_arrow(PAIR_SCORES, house.version(PAIR_SCORES)).num_rows == 0
    in_use = artefacts_in_use(warehouse)
    assert in_use["ranker:DCN"] == "dcn-1" and "ranker:DCN + PRECISE-UT" not in in_use
    lists = house.read_arrow(RECOMMENDATIONS, house.version(RECOMMENDATIONS), [c.ITEM_ID, c.MODEL_VERSION]).to_pylist()
    assert lists == [{c.ITEM_ID: "a", c.MODEL_VERSION: "lists-1"}] and in_use["list_ranker:lists"] == "lists-1"
    assert in_use["checkpoint:all"] != before["in use"]["checkpoint:all"]
    assert content_changed(house.path(ITEMS), 1)  # what was made from it is not up to date
    runs = house.read_arrow(RUNS, house.version(RUNS)).to_pylist()
    assert [row["job"] for row in runs].count("run_night") == 2  # history stays
    second = max((row for row in runs if row["job"] == "run_night"), key=lambda row: row["started_at"])["run_id"]
    assert run("rollback", warehouse, "--to-run", second) == 0
    assert content(warehouse) == before
    # To where everything is already: no commit.
    versions = [house.version(table) for table in TABLES]
    assert run("rollback", warehouse, "--to-run", second) == 0
    assert [house.version(table) for table in TABLES] == versions


def test_an_interrupted_rollback_holds_others_up_until_it_is_finished(
    nights: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    warehouse, run_id = nights
    job = job_of(warehouse, "rollback", to_run=run_id)
    begin(job, state_after(job, run_id))
    assert run("maintain_tables", warehouse) == 2
    assert f"a rollback to {run_id} was interrupted" in said(capsys)
    assert run("rollback", warehouse, "--to-run", "another") == 2
    assert "finish that one first" in said(capsys)
    assert run("rollback", warehouse, "--to-run", run_id) == 0
    assert not (warehouse / "rollback.json").exists()
    assert run("maintain_tables", warehouse, "--dry-run") == 0


def test_where_anything_is_missing_nothing_moves(nights: tuple[Path, str], capsys: pytest.CaptureFixture[str]) -> None:
    warehouse, run_id = nights
    before = content(warehouse)
    house = Warehouse(str(warehouse))
    (gone,) = live_files(house.path(ITEMS), 0)
    file = Path(house.path(ITEMS)) / gone
    data = file.read_bytes()
    file.unlink()
    assert run("rollback", warehouse, "--to-run", run_id) == 2
    assert re.search(r"table items: version 0 needs .*parquet, which is gone", said(capsys))
    file.write_bytes(data[:-1])
    assert run("rollback", warehouse, "--to-run", run_id) == 2
    assert "which has another size" in said(capsys)
    file.write_bytes(data)
    index = next((warehouse / "indexes").iterdir()) / "vectors.npy"
    (good := index.read_bytes()) and index.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    both = {run("rollback", warehouse, "--to-run", night) for night in _nights(warehouse)}
    assert both == {0, 2} and "vectors.npy" in said(capsys)  # one of the two nights used this index
    index.write_bytes(good)
    assert content(warehouse)["files"].keys() == before["files"].keys()
    assert not (warehouse / "rollback.json").exists()


def _nights(warehouse: Path) -> list[str]:
    house = Warehouse(str(warehouse))
    runs = house.read_arrow(RUNS, house.version(RUNS)).to_pylist()
    return [row["run_id"] for row in runs if row["job"] == "run_night"]


def test_the_state_after_a_single_job_is_put_together_from_the_runs_before(nights: tuple[Path, str]) -> None:
    warehouse, _ = nights
    ranker = job_of(warehouse, "train_ranker")
    ranker.artefacts = {"ranker:DCN": "dcn-3"}
    end_of(ranker, datetime(2024, 3, 2, 1, tzinfo=UTC))
    reader = job_of(warehouse, "recall")
    reader.input_versions = {ITEM_EMBEDDINGS.name: 0}  # published vectors, older than the newest
    end_of(reader, datetime(2024, 3, 2, 1, 30, tzinfo=UTC))
    take_out_of_use(warehouse / "checkpoints", "share")
    targeted = job_of(warehouse, "train_targeted")
    targeted.artefacts = {"checkpoint:share": ""}  # there was nothing to learn: none is in use
    targeted_id = end_of(targeted, datetime(2024, 3, 2, 2, tzinfo=UTC))
    failed = job_of(warehouse, "ingest")
    failed.output_versions = {"items": 7}
    end_of(failed, datetime(2024, 3, 2, 3, tzinfo=UTC), status="failed")
    state = state_after(job_of(warehouse, "rollback"), targeted_id)
    assert state.tables == {table.name: 1 - (table == PAIR_SCORES) for table in (*TABLES, PUBLISHED_MODELS)}
    assert "checkpoint:share" not in state.artefacts
    rankers = {key: version for key, version in state.artefacts.items() if key.startswith("ranker:")}
    assert rankers == {"ranker:DCN": "dcn-3"}


def test_what_a_run_read_belongs_to_its_state_although_its_writer_was_killed(nights: tuple[Path, str]) -> None:
    warehouse, _ = nights
    put(warehouse, ITEMS, [{c.ITEM_ID: "k"}])  # by a run that left no row
    reader = job_of(warehouse, "tokenize_items")
    assert reader.pin(ITEMS) == 2
    run_id = end_of(reader, datetime(2024, 3, 2, 4, tzinfo=UTC))
    assert state_after(job_of(warehouse, "rollback"), run_id).tables[ITEMS.name] == 2


def test_the_version_of_a_table_made_anew_is_not_taken_for_the_old_one(
    nights: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    warehouse, run_id = nights
    folder = warehouse / "tables" / ITEMS.name
    shutil.rmtree(folder)
    for item in "xy":  # as many versions as there were
        put(warehouse, ITEMS, [{c.ITEM_ID: item}])
    before = content(warehouse)
    assert run("rollback", warehouse, "--to-run", run_id) == 2
    assert "table items: it was made anew since (its folder was removed), so version 0, which run" in said(capsys)
    shutil.rmtree(folder)
    assert run("rollback", warehouse, "--to-run", run_id) == 2
    assert "table items: it is gone, so version 0" in said(capsys)
    assert {**before["files"], "items": {}} == {"items": {}} | content(warehouse)["files"]


def test_an_unknown_run_a_failed_one_and_one_before_an_erasure(
    nights: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    warehouse, run_id = nights
    assert run("rollback", warehouse, "--to-run", "nowhere") == 2
    assert f"no such run; the last nights are {run_id}" in said(capsys)
    failed = end_of(job_of(warehouse, "ingest"), datetime(2024, 3, 3, tzinfo=UTC), status="failed")
    assert run("rollback", warehouse, "--to-run", failed) == 2
    assert "that run failed" in said(capsys)
    ErasureList.of(warehouse).add(["somebody"])
    assert run("rollback", warehouse, "--to-run", run_id) == 2
    assert "going back would bring them back" in said(capsys)


def test_artefacts_in_use_recent_or_made_from_are_kept(nights: tuple[Path, str]) -> None:
    warehouse, _ = nights
    house = Warehouse(str(warehouse))
    runs = house.read_arrow(RUNS, house.version(RUNS)).to_pylist()
    assert unused_artefacts(warehouse, runs, keep=2) == []
    names = {folder.name for folder in unused_artefacts(warehouse, runs, keep=1)}
    old = {folder.name for folder in (warehouse / "checkpoints").glob("universal-*")} - set(
        artefacts_in_use(warehouse).values()
    )
    assert names == {*old, "dcn-1", "lists-1"}
    (warehouse / "checkpoints" / ".x.tmp").mkdir()
    for number in range(3):
        (warehouse / "catalogs" / f"v{number}").mkdir(parents=True)
    unused = unused_artefacts(warehouse, runs, keep=2)
    assert [folder.parent.name for folder in unused] == ["catalogs"]  # half-written since a moment: somebody is at it
    assert VALIDATION_RESULTS.name not in state_after(job_of(warehouse, "rollback"), _nights(warehouse)[0]).tables
