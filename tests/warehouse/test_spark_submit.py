"""Jobs as the platform team starts them: plain spark-submit, ./spark-submit.sh, and more than one JVM."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from precise_core.warehouse.tables import Warehouse
from schemas import RECALL_CANDIDATES, USER_EMBEDDINGS, USER_SEQUENCES
from tests.night import CONFIG, ROOT, copy_of

BIN = Path(sys.executable).parent
CLUSTER = ("--master", "local-cluster[2,1,1024]")
JOBS = sorted(file.stem for file in (ROOT / "jobs").glob("*.py") if file.stem != "__init__")


def submit(command: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command from the project root with the environment active."""
    environment = {
        **os.environ,
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "VIRTUAL_ENV": str(BIN.parent),
        "SPARK_LOCAL_IP": "127.0.0.1",
    }
    # The session of the test process must not leak into a process of its own.
    for name in ("PYSPARK_GATEWAY_PORT", "PYSPARK_GATEWAY_SECRET", "SPARK_HOME", "PYTHONPATH"):
        environment.pop(name, None)
    return subprocess.run(
        [str(command), *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


def job(name: str, warehouse: Path, *more: str) -> list[str]:
    return [f"jobs/{name}.py", "--config", str(CONFIG.relative_to(ROOT)), "--set", f"warehouse={warehouse}", *more]


def test_plain_spark_submit_gives_the_same_table(night: Path, tmp_path: Path) -> None:
    warehouse = copy_of(night, tmp_path / "warehouse")
    version = Warehouse(str(warehouse)).version(USER_SEQUENCES)
    done = submit(BIN / "spark-submit", *job("build_sequences", warehouse))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "unchanged" in done.stdout  # byte for byte what the session of the tests had built
    assert Warehouse(str(warehouse)).version(USER_SEQUENCES) == version


@pytest.mark.parametrize(
    ("name", "table"),
    [
        ("build_sequences", USER_SEQUENCES),
        pytest.param("embed_users", USER_EMBEDDINGS, marks=pytest.mark.faults),
        pytest.param("recall", RECALL_CANDIDATES, marks=pytest.mark.faults),
    ],
)
def test_a_job_on_two_executors_gives_the_same_table(night: Path, tmp_path: Path, name: str, table) -> None:  # type: ignore[no-untyped-def]
    warehouse = copy_of(night, tmp_path / "warehouse")
    rows = Warehouse(str(warehouse)).read_arrow(table, Warehouse(str(warehouse)).version(table)).num_rows
    flags = ("--full",) if table is USER_EMBEDDINGS else ()  # otherwise there would be nothing to encode
    done = submit(ROOT / "spark-submit.sh", *CLUSTER, *job(name, warehouse), *flags)
    assert done.returncode == 0, done.stdout + done.stderr
    assert Warehouse(str(warehouse)).read_arrow(table, Warehouse(str(warehouse)).version(table)).num_rows == rows
    if table is not USER_EMBEDDINGS:
        assert "unchanged" in done.stdout


@pytest.mark.faults  # minutes
def test_universal_training_on_two_ranks_of_a_cluster(night: Path, tmp_path: Path) -> None:
    warehouse = copy_of(night, tmp_path / "warehouse")
    more = ("--set", "universal.ranks=2", "--set", "universal.epochs=1")
    done = submit(ROOT / "spark-submit.sh", *CLUSTER, *job("train_universal", warehouse, *more))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all: checkpoint universal-all-" in done.stdout


def test_the_wrapper_says_what_is_missing(tmp_path: Path) -> None:
    script = tmp_path / "spark-submit.sh"
    script.write_bytes((ROOT / "spark-submit.sh").read_bytes())
    script.chmod(0o755)
    done = subprocess.run(
        [str(script), "jobs/ingest.py"], env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "make install" in done.stderr


@pytest.mark.parametrize("name", JOBS)
def test_every_job_prints_its_help_and_stays_thin(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    import importlib

    with pytest.raises(SystemExit) as stopped:
        importlib.import_module(f"jobs.{name}").main(["--help"])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    assert "--config" in shown and f"jobs/{name}.py" in shown
