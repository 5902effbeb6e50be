"""Pair scoring: share of memory bandwidth, and end to end beside pandas: `python -m benchmarks.inference.scoring`.

In a worker: bytes of item and user vectors that `gathered_scores` reads per second, one thread, over what the same
thread reads at most (a dot product of two long arrays). The item vectors are larger than a processor's caches. End to
end: users, items and pairs from Parquet to scores in Parquet, by Spark under both plans and by pandas with NumPy, on
the same files.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import SparkSession
from threadpoolctl import threadpool_limits

from benchmarks.inference.vectors import clustered, described
from benchmarks.record import record
from precise_core.pair_scores.scores import ScoringPlan, gathered_scores, score_pairs
from precise_core.warehouse.arrow_lists import float_lists
from precise_core.warehouse.config import SparkConfig
from precise_core.warehouse.session import get_session
from schemas import columns as c

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "inference_scoring.jsonl"
FOLDER = ROOT / "build" / "bench" / "scoring"
_GOAL_SHARE = 0.5
_PAIRS_PER_USER = 300
_LONG_ARRAY = 150_000_000  # floats; twice 0.6 GB
_PANDAS_BLOCK = 100_000  # pairs multiplied at a time
_TURNS = 3


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=1_000_000, help="item vectors in the worker")
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--pairs", type=int, default=5_000_000, help="pairs end to end")
    parser.add_argument("--cores", type=int, default=2, help="of Spark")
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where files are written and removed")
    parser.add_argument("--results", type=Path, default=RESULTS, help="file to append the figures to")
    arguments = parser.parse_args(argv)
    _in_a_worker(arguments)
    try:
        _end_to_end(arguments)
    finally:
        shutil.rmtree(arguments.folder, ignore_errors=True)


def _in_a_worker(arguments: argparse.Namespace) -> None:
    rng = np.random.default_rng(arguments.seed)
    read, copied = _bandwidth()
    users = 2000
    items_ND = rng.standard_normal((arguments.items, arguments.width), dtype=np.float32)
    users_GD = rng.standard_normal((users, arguments.width), dtype=np.float32)
    rows_P = rng.integers(arguments.items, size=users * _PAIRS_PER_USER)
    counts_G = np.full(users, _PAIRS_PER_USER)
    seconds = _fastest(lambda: gathered_scores(users_GD, counts_G, items_ND, rows_P))
    scoring = (len(rows_P) + users) * arguments.width * 4 / seconds
    size = f"{arguments.items:,} x {arguments.width}"
    data = f"{size} item vectors, {users:,} users with {_PAIRS_PER_USER} pairs, one thread"
    _record(arguments, "reading bandwidth", read / 1e9, "GB/s", None, None, data)
    _record(arguments, "copying bandwidth, read and written", copied / 1e9, "GB/s", None, None, data)
    _record(arguments, "pairs in a worker", len(rows_P) / seconds / 1e6, "M pairs/s", None, None, data)
    _record(arguments, "vectors read in a worker", scoring / 1e9, "GB/s", None, None, data)
    share = scoring / read
    goal = f"at least {_GOAL_SHARE}"
    _record(arguments, "share of reading bandwidth", share, "", goal, share >= _GOAL_SHARE, data)


def _bandwidth() -> tuple[float, float]:
    """Bytes per second that one thread reads, and that it copies (read and written)."""
    first, second = np.ones(_LONG_ARRAY, np.float32), np.ones(_LONG_ARRAY, np.float32)
    with threadpool_limits(1):
        read = 2 * first.nbytes / _fastest(lambda: np.dot(first, second))
    return read, 2 * first.nbytes / _fastest(lambda: np.copyto(second, first))


def _end_to_end(arguments: argparse.Namespace) -> None:
    items, users, width = 100_000, arguments.pairs // 100, arguments.width // 2
    _write_files(arguments.folder, items, users, width, arguments.pairs, arguments.seed)
    data = f"{arguments.pairs:,} pairs of {users:,} users; {described(items, width)}; Parquet to Parquet"
    spark = get_session(
        "bench", SparkConfig(master=f"local[{arguments.cores}]", driver_memory="4g", shuffle_partitions=8)
    )
    spark.range(1).count()  # the start of the session is not timed
    by_pandas = _timed(lambda: _by_pandas(arguments.folder))
    _record(arguments, "end to end, pandas + NumPy", arguments.pairs / by_pandas, "pairs/s", None, None, data)
    for plan in (ScoringPlan("broadcast", 0, 0), ScoringPlan("shuffle", 0, 0, buckets=4)):
        seconds = min(_timed(lambda plan=plan: _by_spark(spark, arguments.folder, plan)) for _ in range(2))  # type: ignore[misc]
        name = f"end to end, Spark, plan {plan.kind}, {arguments.cores} cores"
        _record(arguments, name, arguments.pairs / seconds, "pairs/s", None, None, data)
        _record(arguments, f"{name} / pandas", by_pandas / seconds, "", None, None, data)
    _compare(arguments.folder)
    spark.stop()


def _write_files(folder: Path, items: int, users: int, width: int, pairs: int, seed: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    names = {"items": (c.ITEM_ID, "item", items), "users": (c.USER_ID, "user", users)}
    for number, (name, (column, prefix, rows)) in enumerate(names.items()):
        ids = pa.array([f"{prefix}-{row:08d}" for row in range(rows)])
        table = pa.table({column: ids, c.EMBEDDING: float_lists(clustered(rows, width, seed + number))})
        if name == "users":
            as_of = pa.array([datetime(2024, 1, 1, tzinfo=UTC)] * rows, pa.timestamp("us", tz="UTC"))
            table = table.append_column(c.AS_OF, as_of)
        pq.write_table(table, folder / f"{name}.parquet", row_group_size=10_000)
    keys = np.unique(rng.integers(users, size=pairs) * items + rng.integers(items, size=pairs))
    user_ids = pa.array([f"user-{row:08d}" for row in range(users)]).take(pa.array(keys // items))
    item_ids = pa.array([f"item-{row:08d}" for row in range(items)]).take(pa.array(keys % items))
    order = pa.array(rng.permutation(len(keys)))  # as they come from a log: by nobody
    table = pa.table({c.USER_ID: user_ids.take(order), c.ITEM_ID: item_ids.take(order)})
    pq.write_table(table, folder / "pairs.parquet", row_group_size=500_000)


def _by_pandas(folder: Path) -> None:
    """What one would write by hand: rows of the vectors by an index of ids, products in blocks."""
    users, items, pairs = (pd.read_parquet(folder / f"{name}.parquet") for name in ("users", "items", "pairs"))
    users_UD, items_ND = np.stack(users[c.EMBEDDING].to_list()), np.stack(items[c.EMBEDDING].to_list())
    user_P = pd.Index(users[c.USER_ID]).get_indexer(pairs[c.USER_ID])
    item_P = pd.Index(items[c.ITEM_ID]).get_indexer(pairs[c.ITEM_ID])
    scores = np.empty(len(pairs), np.float32)
    for start in range(0, len(pairs), _PANDAS_BLOCK):
        part = slice(start, start + _PANDAS_BLOCK)
        scores[part] = np.einsum("pd,pd->p", users_UD[user_P[part]], items_ND[item_P[part]])
    pairs[c.SCORE] = scores
    pairs[c.AS_OF] = users[c.AS_OF].to_numpy()[user_P]
    pairs.to_parquet(folder / "by_pandas.parquet")


def _by_spark(spark: SparkSession, folder: Path, plan: ScoringPlan) -> None:
    users, items, pairs = (spark.read.parquet(str(folder / f"{name}.parquet")) for name in ("users", "items", "pairs"))
    scored = score_pairs(spark, pairs, users, items, plan)
    scored.write.mode("overwrite").parquet(str(folder / f"by_spark_{plan.kind}"))


def _compare(folder: Path) -> None:
    """Both did the same work.

    Raises:
        SystemExit: A plan's scores are not those of pandas.
    """
    expected = pd.read_parquet(folder / "by_pandas.parquet").sort_values([c.USER_ID, c.ITEM_ID])[c.SCORE].to_numpy()
    for plan in ("broadcast", "shuffle"):
        found = pd.read_parquet(folder / f"by_spark_{plan}").sort_values([c.USER_ID, c.ITEM_ID])[c.SCORE].to_numpy()
        if len(found) != len(expected) or not np.allclose(found, expected, atol=1e-5):
            raise SystemExit(f"plan {plan} and pandas disagree")


def _fastest(work: Callable[[], object]) -> float:
    return min(_timed(work) for _ in range(_TURNS))


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _record(
    arguments: argparse.Namespace, name: str, value: float, unit: str, goal: str | None, meets: bool | None, data: str
) -> None:
    print(f"{name}: {value:,.4g} {unit}", flush=True)
    command = "python -m benchmarks.inference.scoring"
    record(arguments.results, name, value, unit, goal, meets, data, arguments.seed, command)


if __name__ == "__main__":
    main()
