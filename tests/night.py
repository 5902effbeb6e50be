"""Run jobs of the small synthetic world from tests."""

from __future__ import annotations

import importlib
import shutil
from pathlib import Path

import pyarrow as pa

from precise_core.spark.warehouse import Warehouse
from schemas import TABLES

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "conf" / "synthetic.yaml"


def run(job: str, warehouse: Path, *arguments: str, config: Path = CONFIG) -> int:
    """Exit code of a job run in this process against ``warehouse``."""
    main = importlib.import_module(f"jobs.{job}").main
    return int(main(["--config", str(config), "--set", f"warehouse={warehouse}", *arguments]))


def copy_of(warehouse: Path, target: Path) -> Path:
    """A warehouse of one's own to break; the tables and their history come along."""
    shutil.copytree(warehouse, target)
    return target


def arrow_table(warehouse: Path, name: str) -> pa.Table:
    """The newest version of a table, without Spark."""
    house, declared = Warehouse(str(warehouse)), next(table for table in TABLES if table.name == name)
    return house.read_arrow(declared, house.version(declared))
