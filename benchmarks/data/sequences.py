"""Full build of `all` and two target tasks: `python -m benchmarks.data.sequences [--millions 1 10]`.

For each size, once as the world is and once with one user who has half of all events, each in a process of its own:
events per second from Parquet to Parquet, and the peak memory of the JVM and of the Python processes. The start of the
session is not timed.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.data.measure import ROOT, Measured, run_module
from benchmarks.record import record

RESULTS = ROOT / "benchmarks" / "results" / "data_sequences.jsonl"
FOLDER = ROOT / "build" / "bench"
MAX_LENGTH = 500
_MOST_MORE_MEMORY = 1.2  # with the heavy user over without
_MOST_GROWTH = 1.25  # seconds per event, over those of the size before


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--millions", type=int, nargs="+", default=[1, 10], help="events, ascending")
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the worlds are written, about 30 B an event")
    parser.add_argument("--keep", action="store_true", help="do not remove the worlds afterwards")
    parser.add_argument("--results", type=Path, default=RESULTS, help="file to append the figures to")
    arguments = parser.parse_args(argv)
    command = f"python -m benchmarks.data.sequences --millions {' '.join(map(str, arguments.millions))}"
    before: tuple[int, float] | None = None
    for millions in arguments.millions:
        plain, skewed = (
            build_once(arguments.folder, millions, arguments.seed, is_skewed=is_skewed, keep=arguments.keep)
            for is_skewed in (False, True)
        )
        _record_size(arguments.results, millions, plain, skewed, arguments.seed, command)
        if before:
            _record_growth(arguments.results, before, (millions, plain.seconds), arguments.seed, command)
        before = millions, plain.seconds


def build_once(folder: Path, millions: int, seed: int, *, is_skewed: bool, keep: bool) -> Measured:
    """Measure one build; the world is written beforehand, by a process of its own."""
    world = ensure_world(folder, millions, seed, is_skewed=is_skewed)
    out = folder / "sequences"
    shutil.rmtree(out, ignore_errors=True)
    arguments = ("--world", str(world), "--out", str(out), "--max-length", str(MAX_LENGTH))
    measured = run_module("benchmarks.data.engine_precise", *arguments)
    shutil.rmtree(out)
    if not keep:
        shutil.rmtree(world)
    print(
        f"{world.name}: {millions * 1e6 / measured.seconds:,.0f} events/s, peak {measured.peak_gib:.2f} GiB "
        f"(JVM {measured.jvm_gib:.2f}, Python {measured.workers_gib:.2f})",
        flush=True,
    )
    return measured


def ensure_world(folder: Path, millions: int, seed: int, *, is_skewed: bool = False) -> Path:
    """The folder of a world, written by a process of its own where it is not there."""
    arguments = ["--folder", str(folder), "--millions", str(millions), "--seed", str(seed)]
    command = [sys.executable, "-m", "benchmarks.data.world", *arguments, *(["--skewed"] if is_skewed else [])]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return Path(done.stdout.strip().splitlines()[-1])


def data_of(millions: int, *, is_skewed: bool = False) -> str:
    """The data of a figure in words."""
    heavy = ", half of them by one user" if is_skewed else ""
    return f"synthetic world, {millions:,} M events{heavy}, N = {MAX_LENGTH}, 3 tasks, driver memory 8 GB"


def _record_size(results: Path, millions: int, plain: Measured, skewed: Measured, seed: int, command: str) -> None:
    for measured, is_skewed in ((plain, False), (skewed, True)):
        name = f"full build, {millions} M events" + (", one user has half" if is_skewed else "")
        data, speed = data_of(millions, is_skewed=is_skewed), millions * 1e6 / measured.seconds
        record(results, name, speed, "events/s", None, None, data, seed, command)
        peaks = {"all": measured.peak_gib, "JVM": measured.jvm_gib, "Python": measured.workers_gib}
        for part, gib in peaks.items():
            record(results, f"{name}: peak memory, {part}", gib, "GiB", None, None, data, seed, command)
    ratio = skewed.peak_gib / plain.peak_gib
    name, goal = f"peak memory with the heavy user / without, {millions} M events", f"at most {_MOST_MORE_MEMORY}"
    record(results, name, ratio, "", goal, ratio <= _MOST_MORE_MEMORY, data_of(millions), seed, command)


def _record_growth(results: Path, before: tuple[int, float], now: tuple[int, float], seed: int, command: str) -> None:
    ratio = (now[1] / now[0]) / (before[1] / before[0])
    name, goal = f"seconds per event, {now[0]} M / {before[0]} M events", f"at most {_MOST_GROWTH} (linear)"
    record(results, name, ratio, "", goal, ratio <= _MOST_GROWTH, data_of(now[0]), seed, command)


if __name__ == "__main__":
    main()
