"""Encoding that is killed: a lost worker costs its task, a lost job what was not committed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from precise_core.warehouse.tables import Warehouse
from schemas import ITEM_EMBEDDINGS
from schemas import columns as c
from tests import vector_world as world
from tests.night import ROOT, job_of_its_own, own_process, run, wait_until

pytestmark = pytest.mark.faults


def test_a_killed_worker_costs_its_task_and_no_vector(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.dying_encoder", str(tmp_path)]
    done = subprocess.run(
        command, cwd=ROOT, env=own_process(), capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads((tmp_path / "told.json").read_text())
    assert told == {"killed": True, "users": world.USERS, "same": True}


def test_a_killed_job_goes_on_with_what_is_missing(tmp_path: Path, spark: SparkSession) -> None:
    warehouse = tmp_path / "warehouse"
    assert spark is not None
    world.build(warehouse)
    version = world.train(warehouse, seed=1)
    house, small = Warehouse(str(warehouse)), ("--set", "encoding.part_mib=0.0002")  # seven parts

    def has_a_part() -> bool:  # version 0 has no rows
        return house.exists(ITEM_EMBEDDINGS) and house.version(ITEM_EMBEDDINGS) >= 2

    with job_of_its_own("embed_items", warehouse, *small) as process:
        wait_until(process, has_a_part, pause_seconds=0.05)
    done = {row[c.ITEM_ID]: row for row in world.read(warehouse, ITEM_EMBEDDINGS)}
    assert 0 < len(done) < len(world.INDICES), "killed too early or too late"
    assert run("embed_items", warehouse, *small) == 0
    assert world.metric(warehouse, "embed_items", "encoded") == len(world.INDICES) - len(done)
    rows = world.read(warehouse, ITEM_EMBEDDINGS, model_version=version)
    assert sorted(row[c.ITEM_ID] for row in rows) == sorted(f"i{index}" for index in world.INDICES)
    assert all(row == done[row[c.ITEM_ID]] for row in rows if row[c.ITEM_ID] in done)  # what was there stayed
