"""Who works on a warehouse: one writer, and readers whose files VACUUM must not remove.

<warehouse>/.lock                   who writes: on a local folder Delta's log is only safe within one JVM
<warehouse>/readers/<token>.json    who reads which versions since when

Both are locked by the kernel while the process lives, and released when it ends, however it ends.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from deltalake import DeltaTable

from precise_core import artefacts
from precise_core.artefacts import READERS
from precise_core.errors import WarehouseBusyError

LOCK_FILE = ".lock"

_BEGINNING_SECONDS = 60  # a lease is written within moments of its file; longer, and its writer was killed
_SECONDS = "%Y-%m-%d %H:%M:%S UTC"

_held: set[str] = set()


@dataclass(kw_only=True)
class _Process:
    """Who holds a file of the warehouse, as the file says it: for people to find the process."""

    pid: int = field(default_factory=os.getpid)
    host: str = field(default_factory=socket.gethostname)

    @property
    def is_on_this_host(self) -> bool:
        """The kernel vouches for processes of this host only; on some shares a lock never leaves its host."""
        return self.host == socket.gethostname()

    def _described(self, what: str, since: str) -> str:
        return f"process {self.pid} on {self.host} ({what}), since {since}"


@dataclass(kw_only=True)
class Holder(_Process):
    """Who writes the warehouse."""

    command: str
    since: str

    def __str__(self) -> str:
        return self._described(self.command, self.since)


@dataclass(kw_only=True)
class Lease(_Process):
    """One reader: ``pinned`` are the versions it reads, by table; every newer file it may need is younger than it."""

    name: str
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    pinned: dict[str, int] = field(default_factory=dict)
    file: Path | None = None

    def __str__(self) -> str:
        return self._described(self.name, f"{self.started_at:{_SECONDS}}")

    def pin(self, table: str, version: int) -> None:
        """Write down that ``table`` is read at ``version``."""
        self.pinned[table] = version
        self._save()

    def _save(self) -> None:
        if self.file is not None:
            content = {**vars(self), "started_at": self.started_at.isoformat()}
            content.pop("file")
            with self.file.open("r+", encoding="utf-8") as handle:  # never replaced: the lock lies on this very file
                _write(handle, json.dumps(content))


@contextmanager
def warehouse_lock(root: str) -> Iterator[Holder | None]:
    """Hold the warehouse for this process.

    Yields the previous holder where it ended without releasing it (killed, or the machine went down), else None.
    Re-entrant within the process: a night holds it while its jobs request it again. A URI (`s3://...`) has no lock
    here; there the log store arbitrates.

    Raises:
        WarehouseBusyError: Another process holds it, or one on another host never released it; the message names it.
    """
    if "://" in root or root in _held:
        yield None
        return
    file = Path(root) / LOCK_FILE
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()
    with file.open("r+", encoding="utf-8") as handle:
        _lock(handle, root)
        stale = _read_holder(handle)
        if stale is not None and not stale.is_on_this_host:
            raise WarehouseBusyError(
                f"warehouse {root} was last held by {stale}, which never let go, and from {socket.gethostname()} it "
                f"cannot be seen whether it still runs; when it does not, remove {file} and start again"
            )
        command = " ".join([Path(sys.argv[0]).name, *_without_users(sys.argv[1:])])[:500]
        _write(handle, json.dumps(vars(Holder(command=command, since=f"{datetime.now(UTC):{_SECONDS}}"))))
        _held.add(root)
        try:
            yield stale
        finally:
            _held.discard(root)
            _write(handle, "")


@contextmanager
def reader_lease(root: str | Path, name: str, pinned: Mapping[str, int] | None = None) -> Iterator[Lease]:
    """Be registered as a reader of the warehouse while the block runs.

    Args:
        name: What reads, for the message of a refused clean-up.
        pinned: Table -> version, where an older version than the newest is read.
    """
    folder = Path(root) / READERS
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{uuid.uuid4().hex}.json"
    with file.open("x", encoding="utf-8") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        lease = Lease(name=name, pinned=dict(pinned or {}), file=file)
        lease._save()
        try:
            yield lease
        finally:
            file.unlink(missing_ok=True)


def leases(root: str | Path) -> tuple[list[Lease], list[Lease]]:
    """Living readers other than this process, and readers that were killed.

    A reader on another host counts as living, and so does one whose lease is still empty while it is new or locked.
    """
    living: list[Lease] = []
    stale: list[Lease] = []
    for file in sorted((Path(root) / READERS).glob("*.json")):
        try:
            with file.open(encoding="utf-8") as handle:
                lease, is_vouched_for = _read_lease(handle, file)
                if lease.is_on_this_host and lease.pid == os.getpid():
                    continue
                (stale if not is_vouched_for and _is_free(handle) else living).append(lease)
        except FileNotFoundError:  # ended at this very moment
            continue
    return living, stale


def needed_since(lease: Lease, root: str | Path) -> datetime:
    """Files removed from their table after this instant may still be read under the lease."""
    instants = [lease.started_at]
    for table, version in lease.pinned.items():
        path = str(Path(root) / artefacts.TABLES / table)
        history = DeltaTable(path).history() if DeltaTable.is_deltatable(path) else []
        later = [commit for commit in history if commit["version"] > version]
        instants += [datetime.fromtimestamp(commit["timestamp"] / 1000, UTC) for commit in later]
    return min(instants)


def _without_users(arguments: Sequence[str]) -> list[str]:
    """The arguments without the value of any ``--user-id``, however abbreviated: the file outlives a killed erasure."""
    shown, is_value = list[str](), False
    for argument in arguments:
        flag, equals, _ = argument.partition("=")
        names_user = not is_value and len(flag) > len("--") and "--user-id".startswith(flag)
        shown.append("..." if is_value else f"{flag}=..." if names_user and equals else argument)
        is_value = names_user and not equals
    return shown


def _lock(handle: IO[str], root: str) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = _read_holder(handle) or "another process that has not yet said who it is"
        raise WarehouseBusyError(f"warehouse {root} is in use by {holder}; wait for it to end") from error
    except OSError as error:
        raise WarehouseBusyError(
            f"warehouse {root}: its file system has no locks ({error.strerror}), so two writers could not be kept "
            "apart; mount it with locks (NFS 4, or without `nolock`)"
        ) from error


def _is_free(handle: IO[str]) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read_holder(handle: IO[str]) -> Holder | None:
    try:
        return Holder(**json.loads(handle.read()))
    except (ValueError, TypeError):  # empty: released as it should be
        return None


def _read_lease(handle: IO[str], file: Path) -> tuple[Lease, bool]:
    """A lease, and whether it counts as living although its lock is free."""
    try:
        content = json.loads(handle.read())
    except ValueError:
        began = datetime.fromtimestamp(file.stat().st_mtime, UTC)
        is_new = (datetime.now(UTC) - began).total_seconds() < _BEGINNING_SECONDS
        name = "a reader that has not yet said who it is"
        return Lease(pid=0, host="?", name=name, started_at=began, file=file), is_new
    lease = Lease(**content | {"started_at": datetime.fromisoformat(content["started_at"]), "file": file})
    return lease, not lease.is_on_this_host


def _write(handle: IO[str], text: str) -> None:
    handle.seek(0)
    handle.write(text)
    handle.truncate()  # afterwards, so that a concurrent reader never finds an empty file
    handle.flush()
