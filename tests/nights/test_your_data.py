"""Own data by YAML alone: the example of docs/your_data.md as written, and with parts of it missing."""

from __future__ import annotations

import json
from pathlib import Path

import duckdb
import pandas as pd
import pytest
import yaml
from deltalake import DeltaTable

from tests.night import ROOT, run

EXAMPLE = ROOT / "examples" / "your_data"


def read(warehouse: Path, name: str) -> pd.DataFrame:
    files = DeltaTable(str(warehouse / "tables" / name)).file_uris()
    return duckdb.read_parquet(files, hive_partitioning=True).df()


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # the example's paths are relative to it, as the page says


def test_the_example_of_the_page_runs_a_whole_night(spark, tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    assert spark is not None
    warehouse = tmp_path / "warehouse"
    assert run("run_night", warehouse, config=EXAMPLE / "mine.yaml") == 0
    out = capsys.readouterr().out
    assert "the source has no impressions" in out
    # What the page's file leaves out is chosen by the log, and every job of the night has the same.
    assert "sizes, universal: universal.patience" in out and "universal.epochs" not in out
    runs = read(warehouse, "runs")
    assert {json.loads(run["configuration"])["universal"]["max_minutes"] for _, run in runs.iterrows()} == {10}
    rejected = read(warehouse, "events_rejected")["reason"].value_counts().to_dict()
    assert sum(rejected.values()) == 7
    assert {"invalid_time", "unknown_item", "duplicate_event"} <= set(rejected)
    metrics = read(warehouse, "evaluation_metrics")
    assert {"PRECISE-UT", "item_knn"} <= set(metrics["system"])
    # Everybody has lists, and they are measured.
    assert "labels from the" in out
    lists = read(warehouse, "recommendations")
    events = read(warehouse, "events")
    before = events[events["event_ts"] < lists["as_of"].iloc[0]]
    assert set(before["user_id"]) <= set(lists["user_id"]) and "(anybody)" in set(lists["user_id"])
    assert set(lists["task"]) == {"all", "open_in_search", "save"} and lists["reason"].str.len().min() > 0
    gains = metrics[metrics["metric"] == "ndcg_gain"]
    assert set(gains["task"]) == set(lists["task"]) and gains["reference"].notna().all()
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "NDCG@10 of the published lists" in page[: page.index("<nav")]


@pytest.mark.faults  # minutes
def test_a_log_alone_without_text_scenes_or_actions(spark, tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    assert spark is not None
    config = yaml.safe_load((EXAMPLE / "mine.yaml").read_text(encoding="utf-8"))
    events = config["source"]["events"]
    config["source"] = {
        "kind": "files",
        "events": {key: value for key, value in events.items() if key not in ("scene", "action", "value")},
    }
    config["tasks"] = {}
    file = tmp_path / "log_only.yaml"
    file.write_text(yaml.safe_dump(config), encoding="utf-8")
    warehouse = tmp_path / "warehouse"
    assert run("run_night", warehouse, config=file) == 0
    out = capsys.readouterr().out
    assert "no item has text: fusion mode `id`" in out
    assert set(read(warehouse, "events")["scene"]) == {"default"}
    assert len(read(warehouse, "user_embeddings")) > 0


def test_a_wrong_column_is_named_before_anything_is_written(spark, tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    assert spark is not None
    warehouse = tmp_path / "warehouse"
    assert run("ingest", warehouse, "--set", "source.events.user=nobody", config=EXAMPLE / "mine.yaml") == 2
    out = capsys.readouterr().out.replace("\n", " ")
    assert "clicks.csv" in out and "nobody" in out
    assert not (warehouse / "tables" / "events").exists()
