"""Bad input and broken runs: one clear message, a non-zero exit, and nothing half-written."""

from __future__ import annotations

from pathlib import Path

import pytest

from precise_core.config import load_config
from precise_core.operations.chain import is_up_to_date
from precise_core.settings import Settings
from precise_core.warehouse.tables import Warehouse
from schemas import EVENTS, RECALL_CANDIDATES
from tests.night import CONFIG, copy_of, run, said


def test_a_wrong_config_path(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("ingest", tmp_path, config=tmp_path / "nowhere.yaml") == 2
    assert "nowhere.yaml: no such file" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "needs"),
    [
        ("tokenize_items", "run jobs/ingest.py first"),
        ("build_sequences", "run jobs/ingest.py first"),
        ("train_universal", "run jobs/build_windows.py first"),
        ("embed_items", "run jobs/train_universal.py first"),
        ("train_targeted", "run jobs/train_universal.py first"),
        ("train_ranker", "run jobs/publish_models.py first"),
    ],
)
def test_a_job_run_too_early_names_the_job_before_it(tmp_path, capsys, name, needs) -> None:  # type: ignore[no-untyped-def]
    assert run(name, tmp_path / "empty") == 2
    assert needs in capsys.readouterr().out.replace("\n", " ")


def test_an_unknown_task_and_an_unknown_scene(night: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("train_targeted", copy_of(night, tmp_path / "copy"), "--task", "sahre") == 2
    assert "--task sahre: unknown; allowed are click_articles, share" in capsys.readouterr().out.replace("\n", " ")
    assert run("ingest", tmp_path / "new", "--set", "tasks.share.scene=attic") == 2
    out = capsys.readouterr().out
    assert "attic" in out and "articles" in out
    assert not Warehouse(str(tmp_path / "new")).exists(EVENTS)


def test_a_checkpoint_changed_on_disk_stops_before_spark(
    night: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    warehouse = copy_of(night, tmp_path / "warehouse")
    weights = next((warehouse / "checkpoints").glob("universal-all-[0-9a-f]*/model.safetensors"))
    for file in (warehouse / "checkpoints").glob("universal-all-[0-9a-f]*/model.safetensors"):
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(data)
    assert run("embed_items", warehouse) == 2
    out = capsys.readouterr().out.replace("\n", "")
    assert weights.name in out and "changed" in out


def test_a_failed_run_is_written_down(night: Path, tmp_path: Path) -> None:
    warehouse = copy_of(night, tmp_path / "warehouse")
    assert run("train_targeted", warehouse, "--task", "nobody") == 2
    from schemas import RUNS

    house = Warehouse(str(warehouse))
    runs = house.read_arrow(RUNS, house.version(RUNS)).to_pandas().sort_values("started_at")
    assert runs.iloc[-1]["status"] == "failed"
    assert "nobody" in runs.iloc[-1]["error"]


def test_evaluation_before_there_is_anything_to_evaluate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("evaluate", tmp_path / "empty") == 2
    assert "run jobs/ingest.py first" in capsys.readouterr().out.replace("\n", " ")


def test_a_checkpoint_that_nobody_has_published_is_not_read(night: Path, tmp_path: Path) -> None:
    warehouse = copy_of(night, tmp_path / "warehouse")
    house = Warehouse(str(warehouse))
    before = house.version(RECALL_CANDIDATES)
    assert run("train_universal", warehouse, "--set", "seed=18", "--set", "universal.epochs=1") == 0
    assert run("recall", warehouse) == 0
    assert house.version(RECALL_CANDIDATES) == before  # the candidates of the published version, as they were


def test_an_index_that_is_gone_is_not_up_to_date(night: Path, tmp_path: Path) -> None:
    settings = load_config(CONFIG, Settings, [f"warehouse={night}"])
    assert is_up_to_date(settings, "build_index")
    (night / "indexes").rename(tmp_path / "indexes")
    try:
        assert not is_up_to_date(settings, "build_index")
    finally:
        (tmp_path / "indexes").rename(night / "indexes")


def test_a_warehouse_must_be_a_folder_or_lie_in_an_object_store(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("ingest", "hdfs://host/x") == 2
    assert "hdfs://host/x: no warehouse lies in such a place" in said(capsys)
