"""The text file of Prometheus, read by Prometheus' own parser, and the alerts on it."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

import schemas
from precise_core.config import load_config
from precise_core.config.yaml_text import read_yaml
from precise_core.errors import ConfigError
from precise_core.monitoring.config import MonitoringConfig
from precise_core.monitoring.textfile import FAMILIES, exposition, write_textfile
from precise_core.settings import Settings
from schemas import columns as c
from tests.fake_warehouse import AS_OF, figures_of, put, settings_of
from tests.night import CONFIG, ROOT, run, said

ALERTS = ROOT / "examples" / "prometheus" / "alerts.yaml"
ODD_TASK = 'say "hi"\\\n'


def a_run(job: str, minutes: int, *, status: str = "succeeded", **more: Any) -> dict[str, Any]:
    started = AS_OF + timedelta(minutes=minutes)
    base = {c.RUN_ID: f"{job}-{minutes}", c.JOB: job, "status": status, "started_at": started, "seconds": 30.0}
    return base | {"configuration": json.dumps({"as_of": AS_OF.isoformat()})} | more


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A night that was refused after a good one."""
    root = tmp_path_factory.mktemp("warehouse")
    rows = {"rows_in": 100, "rows_out": 93, "rows_rejected": 7}
    refused = {"drift/all/neighbour_overlap": 0.04, "gate_seconds": 1.0}
    put(
        root,
        schemas.RUNS,
        [
            a_run("ingest", 0, **rows),
            a_run("ingest", 5, status="failed", rows_in=3),
            a_run("build_index", 6, metrics=[("index_recall/all", 0.98)]),
            a_run("publish_models", 1, metrics=[("drift/all/neighbour_overlap", 0.8)]),
            a_run("publish_models", 9, status="failed", metrics=list(refused.items())),
        ],
    )
    put(root, schemas.EVENTS, [{c.EVENT_ID: str(n), c.EVENT_DATE: AS_OF.date()} for n in range(93)])
    put(root, schemas.PUBLISHED_MODELS, [{c.TASK: "all", c.AS_OF: AS_OF}, {c.TASK: ODD_TASK, c.AS_OF: AS_OF}])
    gain = figures_of("recommendations", "all", {"recommendations": -0.02}, metric="ndcg_gain")
    put(root, schemas.EVALUATION_METRICS, [row | {"ci_low": -0.03, "ci_high": -0.01} for row in gain])
    return root


@pytest.fixture(scope="module")
def found(warehouse: Path) -> dict[str, Metric]:
    return {family.name: family for family in text_string_to_metric_families(exposition(warehouse, "demo"))}


def value(found: dict[str, Metric], name: str, **labels: str) -> float:
    (sample,) = [one for one in found[name].samples if labels.items() <= one.labels.items()]
    assert sample.labels["environment"] == "demo"
    return float(sample.value)


def test_prometheus_reads_how_the_night_went(found: dict[str, Metric]) -> None:
    assert set(found) == {family.name for family in FAMILIES}
    assert all(family.type == "gauge" and family.documentation for family in found.values())
    assert value(found, "precise_run_succeeded", job="ingest") == 0
    assert value(found, "precise_run_succeeded", job="build_index") == 1
    assert value(found, "precise_run_last_success_seconds", job="ingest") == AS_OF.timestamp() + 30
    assert value(found, "precise_run_duration_seconds", job="ingest") == 30
    # Of the run that took something, not of the one that failed.
    assert [value(found, "precise_run_rows", job="ingest", kind=k) for k in ("in", "out", "rejected")] == [100, 93, 7]
    assert value(found, "precise_table_rows", table="events") == 93
    assert value(found, "precise_table_as_of_seconds", table="events") == AS_OF.timestamp()
    assert value(found, "precise_published_as_of_seconds", task=ODD_TASK) == AS_OF.timestamp()
    assert value(found, "precise_index_recall", task="all") == 0.98
    assert value(found, "precise_drift", task="all", figure="neighbour_overlap") == 0.04  # why it was refused
    assert value(found, "precise_ndcg_gain", task="all", user_filter="all") == -0.02
    assert value(found, "precise_ndcg_gain_high", task="all", user_filter="all") == -0.01


def test_every_alert_is_on_metrics_that_are_written_and_stands_in_the_docs(found: dict[str, Metric]) -> None:
    rules = [rule for group in read_yaml(ALERTS.read_text("utf-8"))["groups"] for rule in group["rules"]]
    page = (ROOT / "docs" / "operations.md").read_text("utf-8")
    asked = {rule["alert"]: set(re.findall(r"\bprecise_\w+", rule["expr"])) for rule in rules}
    assert len(asked) == len(rules) >= 6
    for alert, names in asked.items():
        assert names and names <= set(found), alert
        assert f"`{alert}`" in page, alert
    for rule in rules:
        metrics = [found[name] for name in asked[rule["alert"]]]
        labels = {name for metric in metrics for sample in metric.samples for name in sample.labels}
        used = re.findall(r"\$labels\.(\w+)", json.dumps(rule)) + re.findall(r"(\w+)=~?\"", rule["expr"])
        assert set(used) <= labels, rule["alert"]


def test_every_metric_stands_in_the_docs() -> None:
    page = (ROOT / "docs" / "operations.md").read_text("utf-8")
    assert [family.name for family in FAMILIES if f"`{family.name}`" not in page] == []


def test_a_job_that_failed_tells_the_monitor(tmp_path: Path) -> None:
    file = tmp_path / "collector" / "precise.prom"
    assert run("train_list_ranker", tmp_path / "w", "--set", f"monitoring.prometheus_file={file}") == 2
    assert 'precise_run_succeeded{environment="synthetic",job="train_list_ranker"} 0.0\n' in file.read_text("utf-8")
    assert [other.name for other in file.parent.iterdir()] == [file.name]


def test_a_monitor_that_cannot_be_told_stops_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "taken").write_text("a file")
    file = tmp_path / "taken" / "precise.prom"
    assert run("train_list_ranker", tmp_path / "w", "--set", f"monitoring.prometheus_file={file}") == 2
    assert f"warning: monitoring.prometheus_file {file}: not written, " in said(capsys)


def test_a_row_that_an_older_state_wrote_stops_nothing(tmp_path: Path) -> None:
    put(tmp_path / "w", schemas.RUNS, [a_run("ingest", 0, configuration=json.dumps({"no": "as_of"}))])
    monitoring = MonitoringConfig(prometheus_file=str(tmp_path / "precise.prom"))
    warning = write_textfile(settings_of(tmp_path / "w", monitoring=monitoring))
    assert warning == f"monitoring.prometheus_file {tmp_path}/precise.prom: not written, KeyError: 'as_of'"
    assert not (tmp_path / "precise.prom").exists()


def test_an_address_with_a_password_is_refused_without_showing_it() -> None:
    for key, variable in (
        ("monitoring.mlflow_uri", "MLFLOW_TRACKING_PASSWORD"),
        ("spark.lineage", "spark-defaults.conf"),
    ):
        with pytest.raises(ConfigError, match=variable) as told:
            load_config(CONFIG, Settings, [f"{key}=http://me:hidden@host"])
        assert "hidden" not in str(told.value)


def test_a_file_that_no_collector_reads_is_refused() -> None:
    with pytest.raises(ValueError, match=r"precise.txt.*must end in \.prom"):
        MonitoringConfig(prometheus_file="precise.txt")
