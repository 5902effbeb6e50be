"""Back to a named run: data, vocabulary, model, vectors and index together, or not at all."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from precise_core.artefacts import artefacts_in_use
from precise_core.consume.publications import published_now
from precise_core.index.index import VectorIndex
from precise_core.warehouse.care import live_files
from precise_core.warehouse.tables import Warehouse
from schemas import RUNS, TABLES
from schemas import columns as c
from tests.night import copy_of, job_of_its_own, run, said, wait_until
from tests.nights.test_night import read

pytestmark = pytest.mark.faults

_BOOKKEEPING = {"runs", "validation_results"}


def content(warehouse: Path) -> dict[str, Any]:
    """The live files of every table, what is in use, and what the published indexes hold."""
    tables = {
        table.name: live_files(str(warehouse / "tables" / table.name))
        for table in TABLES
        if table.name not in _BOOKKEEPING and (warehouse / "tables" / table.name).exists()
    }
    indexes = {
        task: sorted(VectorIndex.open(index_of(warehouse, task), row[c.MODEL_VERSION]).item_ids)
        for task, row in published_now(warehouse).items()
    }
    tables = {name: files for name, files in tables.items() if files}
    return {"tables": tables, "in use": artefacts_in_use(warehouse), "indexes": indexes}


def index_of(warehouse: Path, task: str) -> Path:
    """The folder of the index that is published for a task."""
    return warehouse / "indexes" / published_now(warehouse)[task][c.INDEX_VERSION]


def last_night(warehouse: Path) -> str:
    house = Warehouse(str(warehouse))
    runs = [row for row in house.read_arrow(RUNS, house.version(RUNS)).to_pylist() if row["job"] == "run_night"]
    return str(max(runs, key=lambda row: row["started_at"])["run_id"])


LATER = ("--set", "source.users=160", "--set", "source.items=210", "--set", "seed=18")
# Enough of a second night to move every kind of thing: tables, vocabulary, checkpoints, vectors, indexes.
SECOND_NIGHT = ("ingest", "tokenize_items", "build_sequences", "build_windows", "train_universal", "embed_items",
                "build_index")  # fmt: skip


@pytest.fixture(scope="module")
def two_nights(night: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The night, and most of another one on a grown world that trained another model."""
    warehouse = copy_of(night, tmp_path_factory.mktemp("nights") / "warehouse")
    for job in SECOND_NIGHT:
        assert run(job, warehouse, *LATER, "--set", "universal.epochs=1") == 0
    return warehouse


def test_everything_moves_back_together(
    night: Path, two_nights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    warehouse, to_run = copy_of(two_nights, tmp_path / "warehouse"), last_night(night)
    before = content(warehouse)
    assert before != content(night)
    assert run("rollback", warehouse, "--to-run", to_run, "--dry-run") == 0
    assert content(warehouse) == before and "nothing was changed" in said(capsys)

    assert run("rollback", warehouse, "--to-run", to_run) == 0
    assert content(warehouse) == content(night)
    assert set(read(warehouse, "runs")["run_id"]) > set(read(two_nights, "runs")["run_id"])  # history stays
    assert run("recall", warehouse) == 0  # vectors, index and vocabulary fit each other

    # A rollback is a run like any other: one can go back to before it.
    second = read(two_nights, "runs").sort_values("started_at")["run_id"].iloc[-1]
    assert run("rollback", warehouse, "--to-run", second) == 0
    assert content(warehouse) == before


@pytest.mark.parametrize("is_removed", [False, True])
def test_an_hours_new_items_go_with_their_index(night: Path, tmp_path: Path, is_removed: bool) -> None:
    """They come into another index of the checkpoint in use; the one of before is found, or built again."""
    warehouse = copy_of(night, tmp_path / "warehouse")
    before = index_of(warehouse, "all")
    for job in ("ingest", "tokenize_items", "embed_items", "build_index", "publish_models"):
        assert run(job, warehouse, "--set", "source.items=210") == 0
    assert content(warehouse)["indexes"] != content(night)["indexes"]
    if is_removed:  # as `maintain_tables` would
        shutil.rmtree(before)
    assert run("rollback", warehouse, "--to-run", last_night(night)) == 0
    assert content(warehouse) == content(night)


def test_a_damaged_state_is_not_gone_back_to(
    night: Path, two_nights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    warehouse, to_run = copy_of(two_nights, tmp_path / "warehouse"), last_night(night)
    before = content(warehouse)
    old = artefacts_in_use(night)["checkpoint:all"]
    weights = warehouse / "checkpoints" / old / "model.safetensors"
    good = weights.read_bytes()
    weights.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    assert run("rollback", warehouse, "--to-run", to_run) == 2
    assert "model.safetensors: changed since it was written" in said(capsys)
    weights.write_bytes(good)
    (gone, *_) = set(live_files(str(night / "tables" / "items"))) - set(live_files(str(warehouse / "tables" / "items")))
    (warehouse / "tables" / "items" / gone).unlink()
    assert run("rollback", warehouse, "--to-run", to_run) == 2
    assert re.search(r"table items: version \d+ needs .*\.parquet, which is gone", said(capsys))
    assert content(warehouse) == before
    assert run("ingest", warehouse, *LATER) == 0  # no journal holds anybody up


def test_an_unknown_run_is_refused_with_the_nights_there_are(night: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("rollback", night, "--to-run", "run_night-nowhere") == 2
    assert f"no such run; the last nights are {last_night(night)}" in said(capsys)


def test_a_killed_rollback_is_finished_by_the_same_command(
    night: Path, two_nights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    warehouse, to_run = copy_of(two_nights, tmp_path / "warehouse"), last_night(night)
    begun = (warehouse / "rollback.json").exists
    with job_of_its_own("rollback", warehouse, "--to-run", to_run) as process:
        wait_until(process, begun, pause_seconds=0.002)
    assert (warehouse / "rollback.json").exists(), "killed too late"
    assert content(warehouse) != content(night)
    assert run("recall", warehouse) == 2  # nobody works on a state between two
    assert f"a rollback to {to_run} was interrupted" in said(capsys)
    assert run("rollback", warehouse, "--to-run", to_run) == 0
    assert content(warehouse) == content(night)
    assert run("recall", warehouse) == 0
