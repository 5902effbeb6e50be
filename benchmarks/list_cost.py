"""What lists cost by the number of users: `python -m benchmarks.list_cost --config FILE --copies 1 10`.

Makes the lists of a warehouse that has them, of all users and of so many copies of each, on Spark and in a bare loop of
the same functions over the same users (one process a core), without a model of sequences, and prints users/s of either,
their ratio, and the memory of the largest worker: it must not grow with the users.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from benchmarks.markdown import table
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
            rows.append(
                [
                    *(f"{number:,}", f"{number / seconds:,.0f}", f"{number / bare_seconds:,.0f}"),
                    *(f"{bare_seconds / seconds:.2f}", f"{mebibytes:,.0f}"),
                ]
            )
    heads = ("users", "users/s on Spark", "users/s in a bare loop", "ratio", "MiB of the largest worker")
    print("\n".join(table(heads, rows, names=1)))


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
