"""Makes what a plan needs and finds out whether all of it is sound, in a process of its own.

Answers are not slowed by it, and the memory that it takes goes back to the machine with the process.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import repeat
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pyarrow as pa

from precise_core.artefacts import INDEXES, SERVING
from precise_core.errors import CheckpointError, EnvironmentProblem
from precise_core.serving.checked import NOBODY, Checked
from precise_core.serving.item_parts import write_catalog, write_popularity
from precise_core.serving.plan import Part, Plan
from precise_core.serving.user_parts import write_histories, write_lists, write_vectors
from precise_core.store import Place, below, copy_of, fetched, store_at
from precise_core.store.local import atomic_folder, locked
from precise_core.store.sums import write_sums
from precise_core.warehouse.locks import reader_lease
from precise_core.warehouse.reader import TableReader

_NICENESS = 10  # whoever answers requests goes first; with 19 a busy server never takes over
_END_WITH_PARENT = 1  # PR_SET_PDEATHSIG of Linux: of the thread that started it
_READERS = 4  # folders that a worker verifies at a time while it answers nothing
_WRITERS: dict[str, Callable[[TableReader, dict[str, Any], Path], None]] = {
    "vectors": write_vectors,
    "histories": write_histories,
    "lists": write_lists,
    "catalog": write_catalog,
    "popularity": write_popularity,
}


def prepared_elsewhere(warehouse: Place, plan: Plan, known: Collection[str]) -> None:
    """``prepare`` in a process of its own, of one of a server's workers; raises what it raises.

    Without anything ``known`` this worker answers nothing yet: what only has to be verified is verified here, which
    saves the start of a process.

    Raises:
        EnvironmentProblem: The process was killed.
    """
    checked = Checked.from_environment()
    if not known:
        unsound = {part.name for part in _unsound(warehouse, plan, known, checked, _READERS)}
        if not unsound:
            return
        known = _names(plan) - unsound
    with checked.alone(_folders(warehouse, plan, known)) as is_done:
        if not is_done:
            _in_a_process(warehouse, plan, known, checked)


def _in_a_process(*work: Any) -> None:
    """One that ends when this one does, however that comes about."""
    spawn = multiprocessing.get_context("spawn")
    receiver, sender = spawn.Pipe(duplex=False)
    process = spawn.Process(target=_prepare_and_tell, args=(sender, *work), daemon=True)
    process.start()
    sender.close()
    try:
        error = receiver.recv()
    except EOFError as ended:
        raise EnvironmentProblem("the process that prepared the publication was killed; is memory short?") from ended
    finally:
        process.join()
    if error is not None:
        raise error


def _prepare_and_tell(sender: Connection, *work: Any) -> None:
    """``prepare``; what it raises is sent, and None where it raises nothing."""
    os.nice(_NICENESS)
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))  # whoever has to answer is not made to wait for it
    pa.set_cpu_count(1)  # nor on every core at once
    ctypes.CDLL(None).prctl(_END_WITH_PARENT, signal.SIGKILL)
    parent = multiprocessing.parent_process()
    if parent is None or os.getppid() != parent.pid:
        return  # it ended before that
    try:
        prepare(*work)
    except Exception as error:
        sender.send(error)
    else:
        sender.send(None)


def prepare(warehouse: Place, plan: Plan, known: Collection[str], checked: Checked = NOBODY) -> None:
    """Make the parts that are missing or damaged, and verify all others and the indexes by their sums.

    Parts are copies of published rows: a damaged one is made again. An index is itself what is published: a damaged one
    is refused.

    Args:
        known: Names of parts and indexes that the server has verified already.
        checked: What other workers of the server have verified.

    Raises:
        CheckpointError: An index is missing, incomplete or was changed.
        DataError: Rows that are published cannot be read.
        EnvironmentProblem: A part cannot be written; nothing of it is left.
    """
    unsound = _unsound(warehouse, plan, known, checked)
    if not unsound:
        return
    with _alone(warehouse), reader_lease(warehouse, "serve"):
        tables = TableReader(warehouse)
        for part in unsound:
            folder = part.folder(warehouse)
            if not _is_sound(folder, checked):  # another server may have made it since
                _write(tables, part, folder)
                checked.add(folder)


def remove_parts(warehouse: Place, keep: Collection[str] = ()) -> int:
    """Remove all parts but those to ``keep``, and what a killed process has left; how many folders that were.

    A server that has them mapped answers from them until it has taken over the next publication.
    """
    folder = _parts(warehouse)
    if not folder.is_dir():
        return 0
    with _alone(warehouse):
        old = [part for part in folder.iterdir() if part.is_dir() and part.name not in keep]
        for part in old:
            shutil.rmtree(part)
    return len(old)


def _unsound(warehouse: Place, plan: Plan, known: Collection[str], checked: Checked, at_a_time: int = 1) -> list[Part]:
    """The parts that are missing or damaged; indexes that are raise."""
    indexes = [below(warehouse, INDEXES, name) for name in plan.indexes if name not in known]
    parts = [part for part in plan.parts.values() if part.name not in known]
    with ThreadPoolExecutor(at_a_time) as pool:
        of_indexes = pool.map(checked.require_sound, pool.map(fetched, indexes))
        of_parts = pool.map(_is_sound, [part.folder(warehouse) for part in parts], repeat(checked))
        list(of_indexes)
        return [part for part, is_sound in zip(parts, of_parts, strict=True) if not is_sound]


def _names(plan: Plan) -> set[str]:
    return plan.parts.keys() | plan.indexes.keys()


def _folders(warehouse: Place, plan: Plan, known: Collection[str]) -> list[Path]:
    folders = [part.folder(warehouse) for part in plan.parts.values()]
    folders += [copy_of(below(warehouse, INDEXES, name)) for name in plan.indexes]
    return [folder for folder in folders if folder.name not in known]


def _write(tables: TableReader, part: Part, folder: Path) -> None:
    try:
        with atomic_folder(folder) as target:
            _WRITERS[part.kind](tables, part.about, target)
            write_sums(target)
    except OSError as error:
        raise EnvironmentProblem(
            f"{folder}: cannot be made: {error}; is its disk full, or a file of the table damaged?"
        ) from error


def _is_sound(folder: Path, checked: Checked) -> bool:
    try:
        checked.require_sound(folder)
    except (CheckpointError, OSError):
        return False
    return True


@contextmanager
def _alone(warehouse: Place) -> Iterator[None]:
    """One process at a time makes or removes parts of a warehouse."""
    folder = _parts(warehouse)
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / ".lock"):
        yield


def _parts(warehouse: Place) -> Path:
    return store_at(warehouse).scratch / SERVING
