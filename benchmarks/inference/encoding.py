"""Batch encoding: `python -m benchmarks.inference.encoding [--users N] [--items N] [--share S]`.

Writes a warehouse of N users of the synthetic world and measures, each in a process of its own: encoding on Spark
beside a bare torch loop with the same batches and as many processes; `embed_items` and `embed_users` as a night runs
them, with gates and commits, over everything and then where a share of the users and items has changed; the memory of
the worker processes, also with a tenth of the users; and the padding that is left where each Arrow batch is sorted.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.data.measure import ROOT, Measured, run_module
from benchmarks.record import record

RESULTS = ROOT / "benchmarks" / "results" / "encoding.jsonl"
LEAST_OF_LOOP = 0.9
MOST_OF_FULL = 0.05
MOST_GROWTH = 1.25  # of the workers' memory, from a tenth of the users to all of them


def main(argv: Sequence[str] | None = None) -> None:
    arguments = _parser().parse_args(argv)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        tenth = _world(Path(folder) / "tenth", max(1000, arguments.users // 10), arguments)
        small = _measure("jobs", tenth, arguments)
        whole = _world(Path(folder) / "whole", arguments.users, arguments)
        engines = {name: _measure(name, whole, arguments) for name in ("loop", "spark", "lengths", "jobs")}
    _record(arguments, engines, small)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=200_000)
    parser.add_argument("--items", type=int, default=50_000)
    parser.add_argument("--share", type=float, default=0.01, help="users and items that change until the next night")
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--folder", help="where the temporary warehouses lie; about 1 KB a user")
    parser.add_argument("--results", type=Path, default=RESULTS, help="file to append the figures to")
    return parser


def _world(warehouse: Path, users: int, arguments: argparse.Namespace) -> tuple[Path, int]:
    flags = {"warehouse": warehouse, "users": users, "items": arguments.items, "seed": arguments.seed}
    given = [part for name, value in flags.items() for part in (f"--{name}", str(value))]
    subprocess.run(
        [sys.executable, "-m", "benchmarks.inference.world", *given], cwd=ROOT, check=True, stdout=subprocess.DEVNULL
    )
    return warehouse, users


def _measure(name: str, world: tuple[Path, int], arguments: argparse.Namespace) -> Measured:
    flags = ("--warehouse", str(world[0]), "--users", str(world[1]), "--share", str(arguments.share))
    measured = run_module("benchmarks.inference.engines", name, *flags)
    print(f"{name}, {world[1]:,} users: {measured.reported}; Python {measured.workers_gib:.2f} GiB", flush=True)
    return measured


def _record(arguments: argparse.Namespace, engines: dict[str, Measured], small: Measured) -> None:
    size = f"{arguments.users:,} users, {arguments.items:,} items"
    shared: dict[str, Any] = {
        "data": f"synthetic world, {size}, 30 events per user, D = 128, 2 layers, L = 50, 2 cores",
        "seed": arguments.seed,
        "command": f"python -m benchmarks.inference.encoding --users {arguments.users} --items {arguments.items}",
    }

    def figure(name: str, value: float, unit: str, goal: str | None = None, meets: bool | None = None) -> None:
        record(arguments.results, f"{name}, {size}", value, unit, goal, meets, **shared)

    spark, loop = engines["spark"].reported, engines["loop"].reported
    for what in ("users", "items"):
        speeds = {name: found[f"{what}_rows"] / found[f"{what}_seconds"] for name, found in (("s", spark), ("l", loop))}
        ratio = speeds["s"] / speeds["l"]
        figure(f"encoding {what} on Spark", speeds["s"], f"{what}/s")
        figure(f"encoding {what} in a bare torch loop", speeds["l"], f"{what}/s")
        figure(f"{what}: Spark / loop", ratio, "", f"at least {LEAST_OF_LOOP}", ratio >= LEAST_OF_LOOP)
    for order, share in engines["lengths"].reported["padding"].items():
        figure(f"padding in batches of 256, sorted by length: {order}", share, "")
    jobs = engines["jobs"]
    full, changed = jobs.reported["full"], jobs.reported["changed"]
    figure("embed_items and embed_users, everything, with gates and commits", full["seconds"], "s")
    figure(f"the same, {arguments.share:.0%} of users and items changed", changed["seconds"], "s")
    ratio = changed["seconds"] / full["seconds"]
    figure(f"{arguments.share:.0%} changed / everything", ratio, "", f"at most {MOST_OF_FULL}", ratio <= MOST_OF_FULL)
    figure("largest file of user_embeddings", max(jobs.reported["file_mib"]["user_embeddings"]), "MiB")
    figure("peak memory of all Python processes, jobs", jobs.workers_gib, "GiB")
    figure("peak memory of JVM and Python together, jobs", jobs.peak_gib, "GiB")
    growth = jobs.workers_gib / small.workers_gib
    name = "Python's peak memory / that with a tenth of the users"
    figure(name, growth, "", f"at most {MOST_GROWTH} (bounded)", growth <= MOST_GROWTH)


if __name__ == "__main__":
    main()
