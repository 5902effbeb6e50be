"""What lists cost by the number of users: `python -m benchmarks.list_cost --config FILE --copies 1 10`.

Makes the lists of a warehouse that has them, of all users and of so many copies of each, on Spark and in a bare loop of
the same functions over the same users (one process a core), without a model of sequences, and prints users/s of either,
their ratio, and the memory of the largest worker: it must not grow with the users. Figures are kept for
`docs/figures.md` (`make figures`).
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pyarrow.parquet as pq
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from benchmarks.markdown import table
from benchmarks.record import record
from precise_core.command import command_parser, overrides_of
from precise_core.config import load_config
from precise_core.intake.chosen_sizes import sized
from precise_core.recommendations.batches import CandidateMaker
from precise_core.recommendations.knowledge import known_at
from precise_core.recommendations.night import (
    catalog_of,
    current_ranker,
    gather,
    shipped_without_models,
    stored_neighbours,
)
from precise_core.recommendations.point_in_time import PointInTime
from precise_core.recommendations.precise_scores import PreciseScores
from precise_core.recommendations.ranker_files import PublishedRanker
from precise_core.recommendations.spark import Shipped, lists_of, recommended
from precise_core.run.job import Job
from precise_core.settings import Settings
from precise_core.warehouse.instants import micros
from schemas import columns as c

_MIB = 1 << 20
_BATCH_ROWS = 4096
RESULTS = Path(__file__).parent / "results" / "list_cost.jsonl"
_RATIO, _GROWN = 0.7, 1.1


class _Cost(NamedTuple):
    """Users/s on Spark and in the bare loop, and MiB of Spark's largest worker."""

    users: int
    on_spark: float
    bare: float
    mebibytes: float

    @property
    def ratio(self) -> float:
        return self.on_spark / self.bare


def main(argv: Sequence[str] | None = None) -> None:
    parser = command_parser("list_cost", __doc__)
    parser.prog = "python -m benchmarks.list_cost"
    parser.add_argument("--copies", type=int, nargs="+", default=[1, 10], help="copies of every user")
    arguments = parser.parse_args(argv)
    settings = sized(load_config(arguments.config, Settings, overrides_of(arguments)))
    job = Job("list_cost", settings, argparse.Namespace())
    log, ranker = gather(job), current_ranker(job)
    if ranker is None:
        raise SystemExit(f"{job.root}: no ranking model of lists; run the night first")
    histories, catalog = log.histories().persist(), catalog_of(log)
    known = known_at(job.spark, histories, log, catalog, micros(log.end), stored_neighbours(job, len(catalog)))
    sent = shipped_without_models(job, known, log)
    cores = job.spark.sparkContext.defaultParallelism
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        known.save(Path(scratch) / "known")
        for copies in arguments.copies:
            users = _copied(histories, copies)
            folder = Path(scratch) / f"users{copies}"
            users.repartition(cores).write.parquet(str(folder))
            read = job.spark.read.parquet(str(folder))
            number = read.count()

            def on_spark(frame: DataFrame = read) -> None:
                recommended(frame, sent, ranker.folder, job.spark).write.format("noop").mode("overwrite").save()

            def bare(files: Path = folder) -> None:
                parts = sorted(files.glob("*.parquet"))
                work = [(str(part), f"{scratch}/known", ranker.folder, sent) for part in parts]
                with multiprocessing.get_context("spawn").Pool(cores) as pool:
                    pool.starmap(_loop, work)

            bare_seconds, _ = _measured(bare)
            seconds, mebibytes = _measured(on_spark)
            rows.append(_Cost(number, number / seconds, number / bare_seconds, mebibytes))
            print(rows[-1], flush=True)
    heads = ("users", "users/s on Spark", "users/s in a bare loop", "ratio", "MiB of the largest worker")
    shown = [[f"{of.users:,}", f"{of.on_spark:,.0f}", f"{of.bare:,.0f}", f"{of.ratio:.2f}", f"{of.mebibytes:,.0f}"]
             for of in rows]  # fmt: skip
    print("\n".join(table(heads, shown, names=1)))
    _record(rows, arguments, len(log.bits), settings)


def _record(rows: Sequence[_Cost], arguments: argparse.Namespace, tasks: int, settings: Settings) -> None:
    config, copies = settings.recommendations, " ".join(map(str, arguments.copies))
    changed = "".join(f" --set {key}" for key in overrides_of(arguments) if not key.startswith("warehouse="))
    shared: dict[str, Any] = {
        "data": f"{arguments.config}, {tasks} tasks, at most {config.candidates:,} candidates a user and task, "
        f"load {os.getloadavg()[0]:.1f} at the end",
        "seed": settings.seed,
        "command": f"python -m benchmarks.list_cost --config {arguments.config} --copies {copies}{changed}",
    }
    for of in rows:
        name = f"lists of {of.users:,} users"
        record(RESULTS, f"{name}, on Spark", round(of.on_spark, 1), "users/s", None, None, **shared)
        record(RESULTS, f"{name}, bare loop", round(of.bare, 1), "users/s", None, None, **shared)
        goal = f"at least {_RATIO}"
        record(RESULTS, f"{name}, Spark over bare loop", round(of.ratio, 3), "", goal, of.ratio >= _RATIO, **shared)
        record(RESULTS, f"{name}, largest worker", round(of.mebibytes), "MiB", None, None, **shared)
    if len(rows) > 1:
        grown = rows[-1].mebibytes / rows[-2].mebibytes
        name = f"largest worker, {rows[-1].users:,} users over {rows[-2].users:,}"
        record(RESULTS, name, round(grown, 3), "x", f"at most {_GROWN} x", grown <= _GROWN, **shared)


def _copied(histories: DataFrame, copies: int) -> DataFrame:
    number = F.explode(F.sequence(F.lit(1), F.lit(copies))).alias("copy")
    rows = histories.select("*", number)
    return rows.withColumn(c.USER_ID, F.concat(c.USER_ID, F.lit("-"), F.col("copy").cast("string"))).drop("copy")


def _loop(file: str, known: str, ranker: Path, sent: Shipped) -> int:
    """One process: everything that a Spark worker does to its users, but Spark."""
    maker = CandidateMaker(PointInTime.open(Path(known)), sent.config, sent.bits)
    precise = PreciseScores({}, sent.recall, {}, {}, has_history=True)
    batches = pq.ParquetFile(file).iter_batches(batch_size=_BATCH_ROWS)
    return sum(rows.num_rows for rows in lists_of(batches, maker, precise, PublishedRanker.open(ranker), sent))


def _measured(work: Callable[[], Any]) -> tuple[float, float]:
    """Seconds, and MiB (resident) of the largest Python process below this one."""
    with _largest_child() as peak:
        started = time.monotonic()
        work()
        return time.monotonic() - started, peak[0] / _MIB


@contextmanager
def _largest_child() -> Any:
    peak, done = [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.2):
            for process in psutil.Process().children(recursive=True):
                try:
                    if "python" in process.name():
                        peak[0] = max(peak[0], process.memory_info().rss)
                except psutil.Error:
                    continue

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()


if __name__ == "__main__":
    main()
