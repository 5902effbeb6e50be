"""Makes what a plan needs and finds out whether all of it is sound, in a process of its own.

Answers are not slowed by it, and the memory that it takes goes back to the machine with the process.
"""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import shutil
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from precise_core.artefacts import INDEXES, SERVING
from precise_core.errors import CheckpointError, EnvironmentProblem
from precise_core.index.index import VectorIndex
from precise_core.serving.item_parts import write_catalog, write_popularity
from precise_core.serving.plan import Part, Plan
from precise_core.serving.user_parts import write_histories, write_lists, write_vectors
from precise_core.store.local import atomic_folder
from precise_core.store.sums import verify_sums, write_sums
from precise_core.warehouse.locks import reader_lease
from precise_core.warehouse.reader import TableReader

_NICENESS = 10  # whoever answers requests goes first; with 19 a busy server never takes over
_WRITERS: dict[str, Callable[[TableReader, dict[str, Any], Path], None]] = {
    "vectors": write_vectors,
    "histories": write_histories,
    "lists": write_lists,
    "catalog": write_catalog,
    "popularity": write_popularity,
}


def prepared_elsewhere(warehouse: Path, plan: Plan, known: Collection[str]) -> None:
    """``prepare`` in a process of its own; raises what it raises.

    Raises:
        EnvironmentProblem: The process was killed.
    """
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawn, initializer=os.nice, initargs=(_NICENESS,)) as pool:
        try:
            pool.submit(prepare, warehouse, plan, known).result()
        except BrokenProcessPool as error:
            raise EnvironmentProblem(
                "the process that prepared the publication was killed; is memory short?"
            ) from error


def prepare(warehouse: Path, plan: Plan, known: Collection[str]) -> None:
    """Make the parts that are missing or damaged, and verify all others and the indexes by their sums.

    Parts are copies of published rows: a damaged one is made again. An index is itself what is published: a damaged one
    is refused.

    Args:
        known: Names of parts and indexes that the server has verified already.

    Raises:
        CheckpointError: An index is missing, incomplete or was changed.
        VersionMixError: An index is of another checkpoint than the one it is published for.
        DataError: Rows that are published cannot be read.
        EnvironmentProblem: A part cannot be written; nothing of it is left.
    """
    for index_version, model_version in plan.indexes.items():
        if index_version not in known:
            VectorIndex.open(warehouse / INDEXES / index_version, model_version)
    wanted = [part for part in plan.parts.values() if part.name not in known]
    damaged = [part for part in wanted if not _is_sound(part.folder(warehouse))]  # several servers at a time
    if not damaged:
        return
    with _alone(warehouse), reader_lease(warehouse, "serve"):
        tables = TableReader(warehouse)
        for part in damaged:
            if not _is_sound(part.folder(warehouse)):  # another server may have made it since
                _write(tables, part, warehouse)


def remove_parts(warehouse: Path, keep: Collection[str] = ()) -> int:
    """Remove all parts but those to ``keep``, and what a killed process has left; how many folders that were.

    A server that has them mapped answers from them until it has taken over the next publication.
    """
    if not (warehouse / SERVING).is_dir():
        return 0
    with _alone(warehouse):
        old = [folder for folder in (warehouse / SERVING).iterdir() if folder.is_dir() and folder.name not in keep]
        for folder in old:
            shutil.rmtree(folder)
    return len(old)


def _write(tables: TableReader, part: Part, warehouse: Path) -> None:
    try:
        with atomic_folder(part.folder(warehouse)) as folder:
            _WRITERS[part.kind](tables, part.about, folder)
            write_sums(folder)
    except OSError as error:
        raise EnvironmentProblem(
            f"{part.folder(warehouse)}: cannot be made: {error}; is its disk full, or a file of the table damaged?"
        ) from error


def _is_sound(folder: Path) -> bool:
    try:
        verify_sums(folder)
    except (CheckpointError, OSError):
        return False
    return True


@contextmanager
def _alone(warehouse: Path) -> Iterator[None]:
    """One process at a time makes or removes parts of a warehouse."""
    folder = warehouse / SERVING
    folder.mkdir(exist_ok=True)
    with (folder / ".lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
