"""What the gates cost: `python -m benchmarks.data.gates [--millions 1]`.

Runs `ingest` and `build_sequences` on the synthetic world. The rows a gate reads are counted right before it, so that
they lie there as they do when the job goes on to write them: its seconds are its own. They are compared with the
seconds of the whole job.
"""

from __future__ import annotations

import argparse
import importlib
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

from pyspark.sql import DataFrame

from benchmarks.data.measure import ROOT
from benchmarks.data.sequences import FOLDER, MAX_LENGTH, data_of
from benchmarks.data.world import end_of, source_of
from benchmarks.record import record
from schemas import Table
from validation.gate import GateResult, gate

RESULTS = ROOT / "benchmarks" / "results" / "data_gates.jsonl"
_GOAL = 0.15  # of the job's time


class TimedGate:
    """The gate, and how long it took in all."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self, table: Table, frame: DataFrame, **arguments: Any) -> GateResult:
        frame.count()
        start = time.perf_counter()
        result = gate(table, frame, **arguments)
        self.seconds += time.perf_counter() - start
        return result


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--millions", type=int, default=1, help="events")
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the warehouse is written")
    parser.add_argument("--results", type=Path, default=RESULTS, help="file to append the figures to")
    arguments = parser.parse_args(argv)
    warehouse = arguments.folder / "gates"
    flags = flags_of(warehouse, arguments.millions, arguments.seed)
    command = f"python -m benchmarks.data.gates --millions {arguments.millions}"
    shutil.rmtree(warehouse, ignore_errors=True)
    try:
        for job in ("ingest", "tokenize_items", "build_sequences"):
            seconds, of_gate = run_timed(job, flags)
            if not of_gate:
                continue
            share = of_gate / seconds
            print(f"{job}: {seconds:.1f} s, its gates {of_gate:.1f} s, {share:.1%}", flush=True)
            name, data = f"{job}, {arguments.millions} M events", data_of(arguments.millions)
            record(arguments.results, name, seconds, "s", None, None, data, arguments.seed, command)
            goal, is_met = f"below {_GOAL}", share < _GOAL
            record(arguments.results, f"{name}: gates' share", share, "", goal, is_met, data, arguments.seed, command)
    finally:
        shutil.rmtree(warehouse, ignore_errors=True)


def run_timed(name: str, flags: Sequence[str]) -> tuple[float, float]:
    """Seconds of a job and of its gates in it.

    Raises:
        SystemExit: The job failed.
    """
    job, timed = importlib.import_module(f"jobs.{name}"), TimedGate()
    start = time.perf_counter()
    with patch.object(job, "gate", timed) if hasattr(job, "gate") else patch.dict({}):
        if job.main(list(flags)):
            raise SystemExit(f"{name} failed")
    return time.perf_counter() - start, timed.seconds


def flags_of(warehouse: Path, millions: int, seed: int) -> list[str]:
    """The world of ``source_of`` as flags of a job."""
    source = source_of(millions * 1_000_000, seed)
    settings = {
        "warehouse": warehouse,
        "as_of": end_of(source).isoformat(),
        "source.users": source.users,
        "source.items": source.items,
        "source.days": source.days,
        "source.events_per_user": source.events_per_user,
        "source.impressions_per_user": 0,
        "source.seed": seed,
        "sequences.max_length": MAX_LENGTH,
        "sequences.buckets": 16,
        "spark.driver_memory": "8g",
        "spark.shuffle_partitions": 8,
    }
    flags = [f"{key}={value}" for key, value in settings.items()]
    return ["--config", str(ROOT / "conf" / "synthetic.yaml"), *(part for flag in flags for part in ("--set", flag))]


if __name__ == "__main__":
    main()
