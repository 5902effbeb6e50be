"""What is measured, each in a process of its own: `python -m benchmarks.inference.engines NAME --warehouse W ...`.

Prints one JSON object with `seconds` and what was counted. Starting Spark or torch and loading the model are not timed.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing as mp
import time
from argparse import Namespace
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pyspark.sql import DataFrame

from benchmarks.inference.world import change_some, settings_of
from jobs import embed_items as items_job
from jobs import embed_users as users_job
from precise_core.run.job import Job
from precise_core.settings import Settings
from precise_core.training.night import latest_checkpoint, save_item_catalog
from precise_core.vectors.encoding import encode_items, encode_users, load_catalog, load_encoder
from precise_core.vectors.spark import embed_items, embed_users
from precise_core.warehouse.arrow_lists import fixed_lists
from precise_core.warehouse.tables import Warehouse
from schemas import ITEM_EMBEDDINGS, ITEM_TOKENS, USER_EMBEDDINGS, USER_SEQUENCES, Table
from schemas import columns as c

PROCESSES = 2
_ARROW_BATCH = 10_000  # rows that Spark hands to a worker at once
_WARM_UP_ROWS = 2_000
_AS_OF = datetime(2024, 3, 1, tzinfo=UTC)


def spark_encoding(settings: Settings, _: Namespace) -> dict[str, Any]:
    """Delta in, vectors out and thrown away: what the jobs do before gate and commit."""
    job = Job("benchmark", settings, Namespace())
    checkpoint, parallelism = latest_checkpoint(job, "all"), job.spark.sparkContext.defaultParallelism
    catalog, length = save_item_catalog(job), checkpoint.manifest.model.encoder.max_length

    def users(rows: DataFrame) -> DataFrame:
        return embed_users(job.spark, rows.repartition(parallelism), checkpoint.folder, catalog, length, _AS_OF)

    def items(rows: DataFrame) -> DataFrame:
        return embed_items(job.spark, rows.repartition(parallelism), checkpoint.folder, _AS_OF)

    found: dict[str, Any] = {}
    for name, table, encode in (("users", USER_SEQUENCES, users), ("items", ITEM_TOKENS, items)):
        rows = job.read(table)
        found[f"{name}_rows"] = rows.count()
        _drain(encode(rows.limit(_WARM_UP_ROWS)))
        started = time.monotonic()
        _drain(encode(rows))
        found[f"{name}_seconds"] = time.monotonic() - started
    return found | {"seconds": found["users_seconds"] + found["items_seconds"]}


def loop_encoding(settings: Settings, _: Namespace) -> dict[str, Any]:
    """Two processes with a thread each over the same rows in memory, in the batches that Spark would make."""
    job = Job("benchmark", settings, Namespace())
    checkpoint = latest_checkpoint(job, "all")
    catalog = save_item_catalog(job)
    context, found = mp.get_context("spawn"), {}
    for name in ("users", "items"):
        barrier, times = context.Barrier(PROCESSES + 1), context.Queue()
        arguments = (name, settings.warehouse, str(checkpoint.folder), str(catalog), barrier, times)
        workers = [context.Process(target=_loop, args=(number, *arguments)) for number in range(PROCESSES)]
        for worker in workers:
            worker.start()
        barrier.wait()
        started = time.monotonic()
        rows = [times.get() for _ in workers]
        found[f"{name}_seconds"] = time.monotonic() - started
        found[f"{name}_rows"] = sum(rows)
        for worker in workers:
            worker.join()
    return found | {"seconds": found["users_seconds"] + found["items_seconds"]}


def jobs_cold_and_changed(settings: Settings, arguments: Namespace) -> dict[str, Any]:
    """Both jobs as a night runs them: everything, then the updates for a share of changed users and items."""
    spark = Job("benchmark", settings, Namespace()).spark
    house = Warehouse(settings.warehouse)
    found: dict[str, Any] = {"full": _both_jobs(settings)}
    change_some(spark, settings, arguments.share)
    found["changed"] = _both_jobs(settings)
    sizes = {table.name: _file_sizes(house, table) for table in (ITEM_EMBEDDINGS, USER_EMBEDDINGS)}
    return found | {"seconds": found["full"]["seconds"], "file_mib": sizes}


def lengths(settings: Settings, _: Namespace) -> dict[str, Any]:
    """Share of the positions of a batch of 256 that are padding, by what was sorted."""
    house = Warehouse(settings.warehouse)
    lengths_U = house.read_arrow(USER_SEQUENCES, house.version(USER_SEQUENCES), [c.LENGTH])[c.LENGTH].to_numpy()
    lengths_U = np.random.default_rng(0).permutation(lengths_U)
    blocks = [np.sort(lengths_U[start : start + _ARROW_BATCH]) for start in range(0, len(lengths_U), _ARROW_BATCH)]
    orders = {"nothing": lengths_U, "each Arrow batch": np.concatenate(blocks), "everything": np.sort(lengths_U)}
    return {"seconds": 0.0, "padding": {name: _padding(order) for name, order in orders.items()}}


def _both_jobs(settings: Settings) -> dict[str, Any]:
    found: dict[str, Any] = {"seconds": 0.0}
    for name, body in (("embed_items", items_job.main.body), ("embed_users", users_job.main.body)):
        job = Job(name, settings, Namespace(task=None, full=False))
        started = time.monotonic()
        body(job)
        found[name] = time.monotonic() - started
        found["seconds"] += found[name]
        found[f"{name}_encoded"] = job.metrics["encoded"]
        found["gates"] = found.get("gates", 0.0) + job.metrics.get("gate_seconds", 0.0)
        job.release()
    return found


def _file_sizes(house: Warehouse, table: Table) -> list[float]:
    from precise_core.warehouse.care import live_files

    return sorted(size / 2**20 for size in live_files(house.path(table)).values())


def _padding(lengths_U: np.ndarray, batch: int = 256) -> float:
    batches = [lengths_U[start : start + batch] for start in range(0, len(lengths_U), batch)]
    positions = sum(int(part.max()) * len(part) for part in batches)
    return 1 - int(lengths_U.sum()) / positions


def _drain(frame: DataFrame) -> None:
    frame.write.format("noop").mode("overwrite").save()


def _loop(number: int, name: str, warehouse: str, folder: str, catalog_file: str, barrier: Any, times: Any) -> None:
    torch.set_num_threads(1)
    _, model = load_encoder(folder)
    catalog, house = load_catalog(Path(catalog_file)), Warehouse(warehouse)
    encode: Callable[[slice], np.ndarray]
    if name == "users":
        column = house.read_arrow(USER_SEQUENCES, house.version(USER_SEQUENCES), [c.ITEM_INDICES])[c.ITEM_INDICES]
        lists = column.combine_chunks()
        values, offsets = lists.values.to_numpy(zero_copy_only=False), lists.offsets.to_numpy()
        sequences = [values[offsets[row] : offsets[row + 1]] for row in range(number, len(lists), PROCESSES)]
        rows, max_length = len(sequences), model.config.encoder.max_length
        encode = lambda part: encode_users(model, catalog, sequences[part], max_length)  # noqa: E731
    else:
        columns = [c.ITEM_INDEX, c.TOKEN_IDS, c.TOKEN_COUNT]
        table = house.read_arrow(ITEM_TOKENS, house.version(ITEM_TOKENS), columns)
        mine = slice(number, None, PROCESSES)
        width = model.max_token_length
        tokens = fixed_lists(table[c.TOKEN_IDS].combine_chunks(), width)[mine]
        indices, counts = table[c.ITEM_INDEX].to_numpy()[mine], table[c.TOKEN_COUNT].to_numpy()[mine]
        rows = len(indices)
        encode = lambda part: encode_items(model, indices[part], tokens[part], counts[part])  # noqa: E731
    encode(slice(0, min(rows, _WARM_UP_ROWS)))
    barrier.wait()
    for start in range(0, rows, _ARROW_BATCH):
        encode(slice(start, start + _ARROW_BATCH))
    times.put(rows)


ENGINES: dict[str, Callable[[Settings, Namespace], dict[str, Any]]] = {
    "spark": spark_encoding,
    "loop": loop_encoding,
    "jobs": jobs_cold_and_changed,
    "lengths": lengths,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=ENGINES)
    parser.add_argument("--warehouse", type=Path, required=True)
    parser.add_argument("--users", type=int, required=True)
    parser.add_argument("--share", type=float, default=0.01)
    arguments = parser.parse_args()
    found = ENGINES[arguments.name](settings_of(arguments.warehouse, arguments.users), arguments)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
