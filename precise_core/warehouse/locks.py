"""Who works on a warehouse: one writer, and readers whose files VACUUM must not remove.

On a local folder both are locked by the kernel while the process lives, and released when it ends, however it ends:
Delta's log is only safe there within one JVM. In an object store they give signs of life (``heartbeats``).
"""

from __future__ import annotations

import fcntl
import json
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from deltalake import DeltaTable

from precise_core.artefacts import READERS, TABLES
from precise_core.errors import WarehouseBusyError
from precise_core.store import is_remote, store_at
from precise_core.warehouse.heartbeats import Beats, remote_lease, remote_leases, remote_lock
from precise_core.warehouse.holders import LOCK_FILE, Holder, Lease, read_holder, read_lease

_BEGINNING_SECONDS = 60  # a lease is written within moments of its file; longer, and its writer was killed

_held: dict[str, Beats | None] = {}


@contextmanager
def warehouse_lock(root: str) -> Iterator[Holder | None]:
    """Hold the warehouse for this process.

    Yields the previous holder where it ended without releasing it (killed, or the machine went down), else None.
    Re-entrant within the process: a night holds it while its jobs request it again.

    Raises:
        WarehouseBusyError: Another process holds it, or one on another host never released it; the message names it.
    """
    if root in _held:
        yield None
        return
    with _remote(root) if is_remote(root) else _local(root) as (stale, _held[root]):
        try:
            yield stale
        finally:
            del _held[root]


def require_held(root: str) -> None:
    """To be called before a commit: refuse it where this process has lost the lock of the warehouse.

    The kernel takes none away, and without a lock (a server, a benchmark) there is nothing to lose.

    Raises:
        WarehouseBusyError: It was silent for so long that another process has taken over.
    """
    if beats := _held.get(root):
        beats.ask()


@contextmanager
def reader_lease(root: str | Path, name: str, pinned: Mapping[str, int] | None = None) -> Iterator[Lease]:
    """Be registered as a reader of the warehouse while the block runs.

    Args:
        name: What reads, for the message of a refused clean-up.
        pinned: Table -> version, where an older version than the newest is read.
    """
    lease = Lease(name=name, pinned=dict(pinned or {}))
    with remote_lease(store_at(root), lease) if is_remote(root) else _local_lease(Path(root), lease):
        yield lease


def leases(root: str | Path) -> tuple[list[Lease], list[Lease]]:
    """Living readers other than this process, and readers that were killed.

    On a local folder a reader on another host counts as living, and so does one whose lease is still empty while it is
    new or locked.
    """
    return remote_leases(store_at(root)) if is_remote(root) else _local_leases(Path(root))


def needed_since(lease: Lease, root: str | Path) -> datetime:
    """Files removed from their table after this instant may still be read under the lease."""
    instants = [lease.started_at]
    for table, version in lease.pinned.items():
        path = f"{root}/{TABLES}/{table}"
        history = DeltaTable(path).history() if DeltaTable.is_deltatable(path) else []
        later = [commit for commit in history if commit["version"] > version]
        instants += [datetime.fromtimestamp(commit["timestamp"] / 1000, UTC) for commit in later]
    return min(instants)


@contextmanager
def _remote(root: str) -> Iterator[tuple[Holder | None, Beats | None]]:
    with remote_lock(store_at(root), Holder()) as held:
        yield held


@contextmanager
def _local(root: str) -> Iterator[tuple[Holder | None, Beats | None]]:
    file = Path(root) / LOCK_FILE
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()
    with file.open("r+", encoding="utf-8") as handle:
        _lock(handle, root)
        stale = read_holder(handle.read())
        if stale is not None and not stale.is_on_this_host:
            raise WarehouseBusyError(
                f"warehouse {root} was last held by {stale}, which never let go, and from {socket.gethostname()} it "
                f"cannot be seen whether it still runs; when it does not, remove {file} and start again"
            )
        _write(handle, json.dumps(vars(Holder())))
        try:
            yield stale, None
        finally:
            _write(handle, "")


def _lock(handle: IO[str], root: str) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = read_holder(handle.read()) or "another process that has not yet said who it is"
        raise WarehouseBusyError(f"warehouse {root} is in use by {holder}; wait for it to end") from error
    except OSError as error:
        raise WarehouseBusyError(
            f"warehouse {root}: its file system has no locks ({error.strerror}), so two writers could not be kept "
            "apart; mount it with locks (NFS 4, or without `nolock`)"
        ) from error


@contextmanager
def _local_lease(root: Path, lease: Lease) -> Iterator[None]:
    file = root / lease.place
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("x", encoding="utf-8") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)

        def save() -> None:
            with file.open("r+", encoding="utf-8") as stream:  # never replaced: the lock lies on this very file
                _write(stream, json.dumps(lease.content))

        lease.save = save
        save()
        try:
            yield
        finally:
            file.unlink(missing_ok=True)


def _local_leases(root: Path) -> tuple[list[Lease], list[Lease]]:
    living: list[Lease] = []
    stale: list[Lease] = []
    for file in sorted((root / READERS).glob("*.json")):
        try:
            with file.open(encoding="utf-8") as handle:
                began = datetime.fromtimestamp(file.stat().st_mtime, UTC)
                lease = read_lease(handle.read(), f"{READERS}/{file.name}", began)
                if not lease.is_this:
                    (stale if not _is_vouched_for(lease, began) and _is_free(handle) else living).append(lease)
        except FileNotFoundError:  # ended at this very moment
            continue
    return living, stale


def _is_vouched_for(lease: Lease, began: datetime) -> bool:
    """Whether a lease counts as living although its lock is free."""
    if lease.pid == 0:  # empty
        return (datetime.now(UTC) - began).total_seconds() < _BEGINNING_SECONDS
    return not lease.is_on_this_host


def _is_free(handle: IO[str]) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _write(handle: IO[str], text: str) -> None:
    handle.seek(0)
    handle.write(text)
    handle.truncate()  # afterwards, so that a concurrent reader never finds an empty file
    handle.flush()
