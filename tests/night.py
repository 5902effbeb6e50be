"""Run jobs of the small synthetic world from tests."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import write_deltalake

from precise_core.warehouse.tables import Warehouse
from schemas import TABLES
from schemas import columns as c

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "conf" / "synthetic.yaml"


def run(job: str, warehouse: Path | str, *arguments: str, config: Path = CONFIG) -> int:
    """Exit code of a job run in this process against ``warehouse``."""
    main = importlib.import_module(f"jobs.{job}").main
    return int(main(["--config", str(config), "--set", f"warehouse={json.dumps(str(warehouse))}", *arguments]))


def copy_of(warehouse: Path, target: Path) -> Path:
    """A warehouse of one's own to break; the tables and their history come along."""
    shutil.copytree(warehouse, target)
    return target


def with_newcomers(warehouse: Path, gone: str, newcomer: str) -> None:
    """Delete an item and show the newcomer something; `later` is shown something at the very instant of the night."""
    items = arrow_table(warehouse, "items")
    is_deleted = pa.array([item == gone for item in items[c.ITEM_ID].to_pylist()])
    changed = items.set_column(items.schema.get_field_index(c.IS_DELETED), items.field(c.IS_DELETED), is_deleted)
    write_deltalake(str(warehouse / "tables" / "items"), changed, mode="overwrite")
    impressions = arrow_table(warehouse, "impressions")
    earliest = impressions.sort_by(c.IMPRESSION_TS).slice(0, 1).to_pylist()[0]
    shown = earliest | {c.IMPRESSION_ID: "new", c.USER_ID: newcomer}
    later = shown | {c.IMPRESSION_ID: "later", c.USER_ID: "later", c.IMPRESSION_TS: datetime(2024, 2, 20, tzinfo=UTC)}
    rows = pa.Table.from_pylist([shown, later], schema=impressions.schema)
    write_deltalake(str(warehouse / "tables" / "impressions"), rows, mode="append")


def arrow_table(warehouse: Path, name: str) -> pa.Table:
    """The newest version of a table, without Spark."""
    house, declared = Warehouse(str(warehouse)), next(table for table in TABLES if table.name == name)
    return house.read_arrow(declared, house.version(declared))


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """What was printed, without the line breaks of the console."""
    return " ".join(capsys.readouterr().out.split())


def own_process() -> dict[str, str]:
    """The environment of a process that starts a JVM of its own."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PYSPARK_GATEWAY")}
    return kept | {"PYTHONPATH": str(ROOT)}


@contextmanager
def job_of_its_own(name: str, warehouse: Path, *flags: str, config: Path = CONFIG) -> Iterator[subprocess.Popen[str]]:
    """A job in a process, and a JVM, of its own; killed with all it started when the block ends."""
    command = [sys.executable, f"jobs/{name}.py", "--config", str(config), "--set", f"warehouse={warehouse}", *flags]
    with subprocess.Popen(
        command, cwd=ROOT, env=own_process(), text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def wait_until(process: subprocess.Popen[str], is_time: Callable[[], bool], pause_seconds: float = 0.01) -> None:
    """Look again and again until it is time; no longer than the process lives, or four minutes."""
    deadline = time.monotonic() + 240
    while process.poll() is None and not is_time() and time.monotonic() < deadline:
        time.sleep(pause_seconds)
