"""Trainings in MLflow: nothing without it, a warning where it fails, and what a real store then holds."""

from __future__ import annotations

import json
import socket
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import schemas
from precise_core.artefacts import LIST_RANKERS, rankers_in_use
from precise_core.monitoring.config import MonitoringConfig
from precise_core.monitoring.tracking import Training, log_training
from schemas import columns as c
from tests.fake_warehouse import AS_OF, put
from tests.night import run, said
from tests.recommendations.ranked_lists import rows

QUICK = {"epochs": 2, "models": 1, "deep_widths": [8], "least_lists": 1}
SETS = ("--set", f"recommendations.ranker={json.dumps(QUICK)}")
TRAINING = Training(
    name="dcn-1",
    parameters={"dcn": {"width": 8}, "text": "x" * 7000, "odd (name)": None},
    curves=[{"epoch": 1.0, "loss": 0.5}, {"epoch": 2.0, "loss": 0.25}],
    figures={"validation_log_loss": 0.25},
    tags={"job": "train_ranker"},
)


def put_candidates(warehouse: Path) -> None:
    """Lists of the period before, without anything published: the order of lists is learned without Spark."""
    for split, seed in ((c.TRAIN, 0), (c.VALIDATION, 1)):
        table = pa.table(rows(seed, lists=24, candidates=10))
        common: dict[str, Any] = {c.SPLIT: split, c.AS_OF: AS_OF - timedelta(days=7)}
        put(warehouse, schemas.CANDIDATE_FEATURES, [common | row for row in table.to_pylist()])


def test_without_an_address_a_training_imports_no_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_candidates(tmp_path)
    (tmp_path / "mlflow.py").write_text("")  # there would be one
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "mlflow", raising=False)
    assert run("train_list_ranker", tmp_path, *SETS) == 0
    assert "mlflow" not in sys.modules
    assert rankers_in_use(tmp_path, LIST_RANKERS).keys() == {"lists"}


def test_a_missing_package_is_one_line_and_costs_no_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    put_candidates(tmp_path)
    monkeypatch.setitem(sys.modules, "mlflow", None)  # as where it is not installed
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    assert run("train_list_ranker", tmp_path, *SETS, "--set", f"monitoring.mlflow_uri={uri}") == 0
    out = said(capsys)
    version = rankers_in_use(tmp_path, LIST_RANKERS)["lists"]
    assert f"warning: monitoring.mlflow_uri: {version} is not logged, " in out and "'.[tracking]'" in out
    assert uri not in out


@pytest.mark.tracking
def test_a_training_is_a_run_with_parameters_curves_and_figures(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    put_candidates(tmp_path)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    assert run("train_list_ranker", tmp_path, *SETS, "--set", f"monitoring.mlflow_uri={uri}") == 0
    client = MlflowClient(uri)
    (found,) = client.search_runs([client.get_experiment_by_name("synthetic").experiment_id])
    version = rankers_in_use(tmp_path, LIST_RANKERS)["lists"]
    assert found.info.run_name == found.data.tags["checkpoint"] == version and found.info.status == "FINISHED"
    assert found.data.tags["job"] == "train_list_ranker" and found.data.tags["run_id"].startswith("train_list_ranker-")
    assert found.data.params["ranker.epochs"] == "2" and found.data.params["ranker.deep_widths"] == "[8]"
    curve = client.get_metric_history(found.info.run_id, "list/train_loss")
    assert len(curve) == 2 and curve[0].value != curve[1].value
    assert any(name.startswith("kept/ndcg/all/") for name in found.data.metrics)


@pytest.mark.tracking
def test_long_values_and_odd_names_are_taken(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    config = MonitoringConfig(mlflow_uri=uri, mlflow_experiment="other")
    assert log_training(config, "demo", TRAINING) is None
    client = MlflowClient(uri)
    (found,) = client.search_runs([client.get_experiment_by_name("other").experiment_id])
    assert found.data.params["dcn.width"] == "8" and found.data.params["odd _name_"] == "None"
    assert len(found.data.params["text"]) == 6000
    assert [point.step for point in client.get_metric_history(found.info.run_id, "loss")] == [1, 2]
    assert found.data.metrics["kept/validation_log_loss"] == 0.25


@pytest.mark.tracking
def test_a_run_that_breaks_off_is_marked_as_failed(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    config = MonitoringConfig(mlflow_uri=f"sqlite:///{tmp_path}/mlflow.db")
    warning = log_training(config, "demo", replace(TRAINING, curves=[{"epoch": 1.0, "loss": "not a number"}]))
    assert warning and "dcn-1 is not logged, ValueError" in warning
    client = MlflowClient(config.mlflow_uri)
    (found,) = client.search_runs([client.get_experiment_by_name("demo").experiment_id])
    assert found.info.status == "FAILED" and found.data.params["dcn.width"] == "8"


@pytest.mark.tracking
def test_a_server_that_is_down_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.socket() as free:  # nobody listens
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    warning = log_training(MonitoringConfig(mlflow_uri=f"http://127.0.0.1:{port}"), "demo", TRAINING)
    assert warning and "dcn-1 is not logged" in warning
