"""The same sequences by other engines, in one run: `python -m benchmarks.data.peers --peers build/peers/replay_spark`.

Every engine reads the same Parquet files and writes its sequences as Parquet, on two cores; the outputs must be equal,
row for row, in any order. `--peers` is an environment with RePlay, PySpark and Polars (benchmarks/data/README.md);
without it, those two are left out.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.data.measure import ROOT, Measured, content_of, run_module
from benchmarks.data.sequences import FOLDER, MAX_LENGTH, data_of, ensure_world
from benchmarks.record import record

RESULTS = ROOT / "benchmarks" / "results" / "data_peers.jsonl"
_OURS = "precise"
_NAMES = {
    "duckdb": "DuckDB",
    "polars": "Polars",
    _OURS: "PRECISE",
    "spark_sql": "plain Spark SQL",
    "replay": "RePlay on Spark",
}
_FOREIGN = ("polars", "replay")  # run in the environment of --peers
# Our speed over theirs, at least.
_GOALS = {"spark_sql": 2.0, "replay": 2.0, "polars": 1 / 1.5}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, default=ROOT / "build" / "peers" / "replay_spark", help="environment")
    parser.add_argument("--millions", type=int, default=1, help="events")
    parser.add_argument("--engines", nargs="+", choices=list(_NAMES), default=list(_NAMES))
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the world is written")
    parser.add_argument("--keep", action="store_true", help="do not remove the world afterwards")
    parser.add_argument("--results", type=Path, default=RESULTS, help="file to append the figures to")
    arguments = parser.parse_args(argv)
    foreign = arguments.peers / "bin" / "python"
    engines = runnable(arguments.engines, foreign)
    world = ensure_world(arguments.folder, arguments.millions, arguments.seed)
    found: dict[str, tuple[Measured, tuple[int, int, int]]] = {}
    for engine in engines:
        python = str(foreign) if engine in _FOREIGN else sys.executable
        found[engine] = run_engine_once(engine, world, arguments.folder / engine, python)
        measured = found[engine][0]
        speed = arguments.millions * 1e6 / measured.seconds
        print(f"{_NAMES[engine]:>16}: {speed:>12,.0f} events/s, peak {measured.peak_gib:.2f} GiB", flush=True)
    if not arguments.keep:
        shutil.rmtree(world)
    contents = {engine: content for engine, (_, content) in found.items()}
    if len(set(contents.values())) > 1:
        raise SystemExit(f"the engines' rows differ (rows, xor, sum of hashes): {contents}")
    print(f"the same {next(iter(contents.values()))[0]:,} rows from all of them")
    command = f"python -m benchmarks.data.peers --millions {arguments.millions}"
    measurements = {engine: measured for engine, (measured, _) in found.items()}
    _record(arguments.results, arguments.millions, measurements, arguments.seed, command)


def runnable(engines: Sequence[str], foreign: Path) -> list[str]:
    """The engines whose environment is there; of every other one it is said how to make it."""
    missing = [engine for engine in engines if engine in _FOREIGN and not foreign.is_file()]
    for engine in missing:
        print(f"{_NAMES[engine]:>16}: left out, there is no {foreign}: benchmarks/data/README.md says how to make it")
    return [engine for engine in engines if engine not in missing]


def run_engine_once(engine: str, world: Path, out: Path, python: str) -> tuple[Measured, tuple[int, int, int]]:
    """Time and memory of one build, and what came out of it."""
    shutil.rmtree(out, ignore_errors=True)
    os.environ["POLARS_MAX_THREADS"] = "2"
    arguments = ("--world", str(world), "--out", str(out), "--max-length", str(MAX_LENGTH))
    measured = run_module(f"benchmarks.data.engine_{engine}", *arguments, python=python)
    content = content_of(out)
    shutil.rmtree(out)
    return measured, content


def _record(results: Path, millions: int, found: dict[str, Measured], seed: int, command: str) -> None:
    data = data_of(millions)
    for engine, measured in found.items():
        name = f"{_NAMES[engine]}, {millions} M events"
        record(results, name, millions * 1e6 / measured.seconds, "events/s", None, None, data, seed, command)
        record(results, f"{name}: peak memory", measured.peak_gib, "GiB", None, None, data, seed, command)
    for engine, least in _GOALS.items():
        if engine in found and _OURS in found:
            ratio = found[engine].seconds / found[_OURS].seconds
            name, goal = f"speed of PRECISE / {_NAMES[engine]}, {millions} M events", f"at least {least:.2g} x"
            record(results, name, ratio, "x", goal, ratio >= least, data, seed, command)


if __name__ == "__main__":
    main()
