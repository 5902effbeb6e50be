"""What can be checked of examples/airflow without Airflow: its lists of jobs, and how it asks for new files."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from datetime import timedelta
from pathlib import Path
from types import ModuleType

import pytest

import schemas
from jobs import run_night
from precise_core.config import load_config
from precise_core.config.yaml_text import read_yaml
from precise_core.intake.read import has_impressions, source_fingerprint
from precise_core.settings import Settings
from schemas import columns as c
from tests.fake_warehouse import AS_OF, put
from tests.night import ROOT

EXAMPLE = ROOT / "examples" / "airflow"
MINE = ROOT / "examples" / "your_data" / "mine.yaml"
CONFIGS = [MINE, *sorted((ROOT / "conf").glob("*.yaml"))]


def module_of(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLE / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


JOBS = module_of("precise_jobs")


def test_the_night_of_airflow_is_run_night() -> None:
    assert tuple(link.name for link in run_night.NIGHT) == JOBS.NIGHT
    assert JOBS.RANKING == run_night.RANKING
    assert [job for job in JOBS.NIGHT if job in JOBS.ITEMS] == list(JOBS.ITEMS)


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_the_jobs_of_a_configuration(file: Path) -> None:
    settings, config = load_config(file, Settings), read_yaml(file.read_text("utf-8"))
    ranked = has_impressions(settings.source)
    assert [job for job in JOBS.NIGHT if ranked or job not in run_night.RANKING] == JOBS.jobs_of_a_night(config)
    assert ("embed_tokens" in JOBS.jobs_of_an_hour(config)) == settings.model.fusion.reads_states


def test_the_page_names_the_jobs_of_an_hour() -> None:
    page = (ROOT / "docs" / "operations.md").read_text("utf-8")
    told = page[page.index("## Every night, every hour") :]
    named = re.findall(r"`(\w+)`", told[told.index("new items need") : told.index(", in this order")])
    assert named == JOBS.jobs_of_an_hour({})
    assert all(f"`{mode}`" in told for mode in JOBS.READS_TEXTS)


def test_what_no_ingest_or_no_night_has_seen_is_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sensor, file = module_of("new_files"), tmp_path / "clicks.csv"
    flags = {"warehouse": str(tmp_path / "w"), "source.events.path": str(tmp_path / "clicks*.csv")}
    sets = [f"{key}={json.dumps(value)}" for key, value in flags.items()]
    command = ["new_files.py", "--config", str(MINE), *(f"--set={one}" for one in sets)]

    def asked(*more: str) -> int:
        monkeypatch.setattr(sys, "argv", [*command, *more])
        return int(sensor.main())

    file.write_text("a log\n")
    assert asked() == asked("--night") == 0  # nothing was ever taken
    taken = source_fingerprint(load_config(MINE, Settings, sets).source)
    run = {c.JOB: "ingest", "started_at": AS_OF, "input_fingerprint": json.dumps({"source": taken})}
    put(tmp_path / "w", schemas.RUNS, [run | {"status": "succeeded"}, run | {"job": "recall", "status": "failed"}])
    assert asked() == sensor.NOTHING_NEW
    assert asked("--night") == 0  # the hourly path took it, or the night has failed since
    for minutes, status, night in ((5, "failed", 0), (10, "succeeded", sensor.NOTHING_NEW)):
        report = {c.JOB: "build_report", "started_at": AS_OF + timedelta(minutes=minutes), "status": status}
        put(tmp_path / "w", schemas.RUNS, [report])
        assert (asked(), asked("--night")) == (sensor.NOTHING_NEW, night)
    put(tmp_path / "w", schemas.RUNS, [run | {"status": "succeeded", "started_at": AS_OF + timedelta(minutes=20)}])
    assert (asked(), asked("--night")) == (sensor.NOTHING_NEW, 0)  # the hourly path, after a night
    (tmp_path / "clicks-2.csv").write_text("more of it\n")
    assert asked() == asked("--night") == 0
    command[2] = str(tmp_path / "none.yaml")
    assert asked() == sensor.FAILED and "none.yaml" in capsys.readouterr().out
