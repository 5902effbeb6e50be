"""Run a command and watch it: wall clock, peak memory of its JVM and of its other processes, its last line as JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from benchmarks.process_tree import ProcessTree

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Measured:
    """``seconds`` as the command itself reports them; peaks in GiB of resident memory, shared pages counted once
    per process."""

    seconds: float
    jvm_gib: float
    workers_gib: float
    peak_gib: float
    reported: dict[str, Any]


def run_module(module: str, *arguments: str, python: str = sys.executable) -> Measured:
    """Run ``python -m module`` from the root of the repository.

    Raises:
        RuntimeError: It failed; the message ends with what it wrote last.
    """
    command = [python, "-m", module, *arguments]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    watch = ProcessTree(process.pid)
    watch.start()
    out, err = process.communicate()
    watch.stop()
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}: {err[-2000:]}")
    reported = json.loads(out.strip().splitlines()[-1])
    return Measured(reported["seconds"], watch.jvm_gib, watch.others_gib, watch.peak_gib, reported)


def content_of(out: Path) -> tuple[int, int, int]:
    """Rows of a folder of sequences, and two sums over the hashes of the rows that do not depend on their order."""
    query = f"""
        SELECT count(*), bit_xor(h), sum(h::HUGEINT)
        FROM (
            SELECT hash(user_id, task, item_indices, scenes, list_transform(event_ts, lambda t: epoch_us(t))) AS h
            FROM read_parquet('{out}/**/*.parquet', hive_partitioning = true)
        )"""
    database = duckdb.connect()
    database.execute("SET threads = 2")
    rows, together, total = database.execute(query).fetchall()[0]
    return int(rows), int(together or 0), int(total or 0)
