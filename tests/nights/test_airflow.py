"""The DAGs of examples/airflow, by a real Airflow in an environment of its own (`make test-airflow`)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from precise_core.consume.publications import published_now
from tests.night import ROOT, arrow_table
from tests.nights.test_airflow_jobs import EXAMPLE, JOBS, MINE

AIRFLOW = ROOT / "build" / "airflow-venv" / "bin" / "airflow"
NEWCOMER = "recipe no,name,in short,kind,course,changed,withdrawn\n31,Pear Tart,Thin pears,cake,dessert,2024-03-28,no\n"

pytestmark = pytest.mark.airflow
Airflow = Callable[..., str]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example of own data, whose files may come one by one."""
    root = tmp_path_factory.mktemp("airflow")
    config = yaml.safe_load(MINE.read_text("utf-8"))
    for kind in ("events", "items"):
        file = ROOT / config["source"][kind]["path"]
        shutil.copy(file, root)
        config["source"][kind]["path"] = str(root / f"{file.stem}*.csv")
    config["warehouse"] = str(root / "warehouse")
    (root / "mine.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def airflow(world: Path) -> Airflow:
    """Airflow with a database of its own."""
    settings = {
        "AIRFLOW_HOME": str(world / "home"),
        "AIRFLOW__CORE__DAGS_FOLDER": str(EXAMPLE),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "PRECISE_CONFIG": str(world / "mine.yaml"),
    }

    def call(*arguments: str) -> str:
        command, env = [str(AIRFLOW), *arguments], {**os.environ, **settings}
        done = subprocess.run(command, cwd=world, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
        return done.stdout

    call("db", "migrate")
    return call


def test_a_night_and_an_hour_run(airflow: Airflow, world: Path) -> None:
    airflow("dags", "test", "precise_night", "2024-03-29T00:00:00+00:00")
    warehouse = world / "warehouse"
    config = yaml.safe_load((world / "mine.yaml").read_text("utf-8"))
    assert done(warehouse, hours=set()) == JOBS.jobs_of_a_night(config)
    assert (warehouse.parent / "report.html").is_file()
    (world / "catalog-2.csv").write_text(NEWCOMER, encoding="utf-8")
    airflow("dags", "test", "precise_items", "2024-03-29T10:00:00+00:00")
    assert done(warehouse, hours={"10"})[len(JOBS.jobs_of_a_night(config)) :] == JOBS.jobs_of_an_hour(config)
    published = published_now(warehouse)["all"]
    vectors = arrow_table(warehouse, "item_embeddings").to_pylist()
    versions = {row["model_version"] for row in vectors if row["item_id"] == "31"}
    assert published["model_version"] in versions


def done(warehouse: Path, hours: set[str]) -> list[str]:
    """The jobs that succeeded, in their order, each with the instant that Airflow ran it for."""
    runs = sorted(arrow_table(warehouse, "runs").to_pylist(), key=lambda run: run["started_at"])
    assert {run["status"] for run in runs} == {"succeeded"}
    night = len(JOBS.jobs_of_a_night(yaml.safe_load((warehouse.parent / "mine.yaml").read_text("utf-8"))))
    assert {json.loads(run["configuration"])["as_of"][11:13] for run in runs[night:]} == hours
    assert {json.loads(run["configuration"])["as_of"][:13] for run in runs[:night]} == {"2024-03-29T00"}
    return [str(run["job"]) for run in runs]
