"""What a night costs beside its data: `python -m benchmarks.night_cost [--job ingest] [--events 72000]`.

Writes a log of clicks without a catalog or impressions (2,000 users, 3,000 items, 317 days by default; some rows
repeat, some cannot be used) as CSV, and runs a job, or the whole night, on it in a process of its own and an empty
warehouse; with `--config` the source of that file instead (`examples/your_data/mine.yaml`, say). Prints wall clock, CPU
seconds of the process tree, Spark jobs, files of `events`, and the machine's load.
Every `--root` is a checkout to run it with, in turns: ratios are of one moment. A night is followed by what each of its
jobs took.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from deltalake import DeltaTable

from benchmarks.markdown import table
from benchmarks.process_tree import Cost, run_watched
from benchmarks.record import record

RESULTS = Path(__file__).parent / "results" / "night_cost.jsonl"
ROOT = Path(__file__).resolve().parents[1]
_START = np.datetime64("2023-01-01", "s")
_REPEATED, _UNUSABLE = 0.2, 0.01  # shares of the rows
_TINY = "examples/your_data/mine.yaml"
_LOG = "log of 72,000 events over 317 days"
# Seconds, CPU seconds and Spark jobs at most.
_GOALS = {("ingest", _LOG): (15, 25, 20), ("run_night", _LOG): (80, None, None), ("run_night", _TINY): (45, None, None)}
_NIGHT = "run_night"
_HEADS = ("checkout", "seconds", "CPU s", "Spark jobs", "files of events", "peak GiB", "load")


class Run(NamedTuple):
    """What a run cost; ``by_job``: seconds and Spark jobs of each job of a night, in its order."""

    cost: Cost
    spark_jobs: int
    files: int
    by_job: dict[str, tuple[float, int]]


def main(argv: Sequence[str] | None = None) -> None:
    arguments = _parser().parse_args(argv)
    roots = arguments.root or [ROOT]
    found: dict[Path, list[Run]] = {root: [] for root in roots}
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        config = arguments.config or write_world(Path(folder), arguments)
        for _ in range(arguments.times):
            for root in roots:
                found[root].append(_run(root.resolve(), Path(folder), config, arguments))
                print(f"{root}: {_row(root, found[root][-1:])}", flush=True)
    print("\n".join(table(_HEADS, [_row(root, runs) for root, runs in found.items()], names=1)))
    if arguments.job == _NIGHT:
        print("\n".join(["", *_by_job(found)]))
    if roots == [ROOT]:
        _record(found[ROOT], arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--job", default="ingest", help="`run_night` for the whole night")
    parser.add_argument("--config", type=Path, help="instead of the log that is made up; found from each checkout")
    parser.add_argument("--events", type=int, default=72_000)
    parser.add_argument("--users", type=int, default=2_000)
    parser.add_argument("--items", type=int, default=3_000)
    parser.add_argument("--days", type=int, default=317)
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--times", type=int, default=1, help="runs of each checkout, of which the median is shown")
    parser.add_argument("--root", type=Path, action="append", help="a checkout, this one by default; repeatable")
    parser.add_argument("--set", action="append", default=[], metavar="a.b=c", help="override one key; repeatable")
    parser.add_argument("--keep", type=Path, help="folder in which the warehouses stay, to compare them")
    parser.add_argument("--folder", help="where the temporary files lie")
    parser.add_argument("--results", type=Path, default=RESULTS, help="file to append the figures to")
    return parser


def write_world(folder: Path, arguments: argparse.Namespace) -> Path:
    """The log and its configuration below ``folder``; returns the configuration's file."""
    log(arguments).to_csv(folder / "log.csv", index=False)
    end = _START + np.timedelta64(arguments.days, "D")
    config = {
        "name": "news",
        "warehouse": str(folder / "warehouse"),
        "as_of": f"{end - np.timedelta64(14, 'D')}Z",
        "source": {
            "kind": "files",
            "events": {
                "path": str(folder / "log.csv"), "user": "user", "item": "article", "time": "at",
                "scene": {"column": "page"}, "action": {"column": "did"},
            },
        },
        "tasks": {"click_front": {"scene": "front", "action": "click"}},
        "evaluation": {"test_days": 14},
    }  # fmt: skip
    file = folder / "news.yaml"
    file.write_text(json.dumps(config, indent=1), encoding="utf-8")
    return file


def log(arguments: argparse.Namespace) -> pd.DataFrame:
    """Rows in the order of time; a fifth of them repeat another, one in a hundred has no user."""
    draw, rows = np.random.default_rng(arguments.seed), arguments.events
    seconds = np.sort(draw.integers(0, arguments.days * 86_400, rows))
    frame = pd.DataFrame(
        {
            "user": np.char.add("reader-", draw.integers(0, arguments.users, rows).astype(str)),
            "article": np.char.add("article-", draw.integers(0, arguments.items, rows).astype(str)),
            "page": draw.choice(["front", "search", "mail"], rows, p=[0.6, 0.3, 0.1]),
            "did": draw.choice(["click", "share"], rows, p=[0.95, 0.05]),
            "at": np.datetime_as_string(_START + seconds.astype("timedelta64[s]"), timezone="UTC"),
            "referrer": np.char.add("https://news.example/", draw.integers(0, 500, rows).astype(str)),
        }
    )
    repeated = np.flatnonzero(draw.random(rows) < _REPEATED)
    repeated = repeated[repeated > 0]
    frame.iloc[repeated] = frame.iloc[repeated - 1].to_numpy()
    frame.loc[draw.random(rows) < _UNUSABLE, "user"] = ""
    return frame


def _run(root: Path, folder: Path, config: Path, arguments: argparse.Namespace) -> Run:
    warehouse = (arguments.keep or folder) / f"{root.name}-{len(list(folder.glob('*.done')))}"
    flags = [part for key in (f"warehouse={warehouse}", *arguments.set) for part in ("--set", key)]
    command = [sys.executable, f"jobs/{arguments.job}.py", "--config", str(config), *flags]
    cost = run_watched(command, folder=str(root), environment={"PYTHONPATH": str(root)})
    (folder / f"{warehouse.name}.done").touch()
    columns = ["job", "started_at", "seconds", "metrics"]
    rows = DeltaTable(str(warehouse / "tables" / "runs")).to_pyarrow_table(columns=columns).sort_by("started_at")
    jobs = {  # 0 Spark jobs: it needs none, or the checkout does not count them
        row["job"]: (row["seconds"], int(dict(row["metrics"]).get("spark_jobs", 0))) for row in rows.to_pylist()
    }
    files = len(DeltaTable(str(warehouse / "tables" / "events")).file_uris())
    return Run(cost, sum(number for _, number in jobs.values()), files, jobs)


def _by_job(found: Mapping[Path, Sequence[Run]]) -> list[str]:
    last = [runs[-1].by_job for runs in found.values()]
    heads = ["job"] + [f"{root.name}: {what}" for root in found for what in ("seconds", "Spark jobs")]
    rows = [
        [name, *(shown for jobs in last for shown in (f"{jobs[name][0]:.1f}", f"{jobs[name][1]}"))]
        for name in last[0]
        if name != _NIGHT and all(name in jobs for jobs in last)
    ]
    return table(heads, rows, names=1)


def _row(root: Path, runs: Sequence[Run]) -> list[str]:
    cost, loads = _median(runs), [run.cost.load for run in runs]
    shown = (f"{cost['seconds']:.1f}", f"{cost['cpu_seconds']:.1f}", f"{runs[-1].spark_jobs or '?'}")
    return [
        root.name,
        *shown,
        f"{runs[-1].files:,}",
        f"{cost['peak_gib']:.1f}",
        f"{min(loads):.1f} to {max(loads):.1f}",
    ]


def _median(runs: Sequence[Run]) -> dict[str, float]:
    names = ("seconds", "cpu_seconds", "peak_gib")
    return {name: statistics.median(getattr(run.cost, name) for run in runs) for name in names}


def _record(runs: Sequence[Run], arguments: argparse.Namespace) -> None:
    cost, loads = _median(runs), [run.cost.load for run in runs]
    if arguments.config:
        what, world, data = str(arguments.config), f"--config {arguments.config}", "its files"
    else:
        what, world = f"log of {arguments.events:,} events over {arguments.days} days", f"--events {arguments.events}"
        data = f"{arguments.users:,} users, {arguments.items:,} items, no catalog"
    shared: dict[str, Any] = {
        "data": f"{data}, load {min(loads):.1f} to {max(loads):.1f}",
        "seed": arguments.seed,
        "command": f"python -m benchmarks.night_cost --job {arguments.job} {world}",
    }
    measured = (
        ("", cost["seconds"], "s"),
        (": CPU seconds", cost["cpu_seconds"], "s"),
        (": Spark jobs", runs[-1].spark_jobs, ""),
    )
    goals = _GOALS.get((arguments.job, what), (None, None, None))
    for (name, value, unit), limit in zip(measured, goals, strict=True):
        goal, meets = (None, None) if limit is None else (f"at most {limit} {unit}".strip(), bool(value <= limit))
        named = f"{arguments.job}, {what}{name}"
        record(arguments.results, named, round(float(value), 1), unit, goal, meets, **shared)
    if arguments.job == _NIGHT:  # of the last run
        for name, (seconds, jobs) in runs[-1].by_job.items():
            if name != _NIGHT:
                of_job = shared | {"data": f"{shared['data']}, {jobs} Spark jobs"}
                record(arguments.results, f"{_NIGHT}, {what}: {name}", round(seconds, 1), "s", None, None, **of_job)


if __name__ == "__main__":
    main()
