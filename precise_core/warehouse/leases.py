"""Readers of a warehouse write down that they read, so that no VACUUM takes files from under them.

<warehouse>/readers/<token>.json    who reads which versions since when; locked by the kernel while the reader lives
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from deltalake import DeltaTable

from precise_core.artefacts import READERS

_BEGINNING_SECONDS = 60  # a lease is written within moments of its file; longer, and its writer was killed


@dataclass
class Lease:
    """One reader: ``pinned`` are the versions it reads, by table; every newer file it may need is younger than it."""

    name: str
    pid: int
    host: str
    started_at: datetime
    pinned: dict[str, int] = field(default_factory=dict)
    file: Path | None = None

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} ({self.name}), since {self.started_at:%Y-%m-%d %H:%M:%S} UTC"

    def pin(self, table: str, version: int) -> None:
        """Write down that ``table`` is read at ``version``."""
        self.pinned[table] = version
        self._save()

    def _save(self) -> None:
        if self.file is None:
            return
        described = {
            "name": self.name,
            "pid": self.pid,
            "host": self.host,
            "started_at": self.started_at.isoformat(),
            "pinned": self.pinned,
        }
        with self.file.open("r+", encoding="utf-8") as handle:  # never replaced: the lock lies on this very file
            handle.write(json.dumps(described))
            handle.truncate()


@contextmanager
def reader_lease(root: str | Path, name: str, pinned: Mapping[str, int] | None = None) -> Iterator[Lease]:
    """Be known as a reader of the warehouse while the block runs.

    Args:
        root: The warehouse.
        name: What reads, for the message that whoever wants to clean up will see.
        pinned: Table -> version, where an older version than the newest is read.
    """
    folder = Path(root) / READERS
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{uuid.uuid4().hex}.json"
    with file.open("x", encoding="utf-8") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        lease = Lease(name, os.getpid(), socket.gethostname(), datetime.now(UTC), dict(pinned or {}), file)
        lease._save()
        try:
            yield lease
        finally:
            file.unlink(missing_ok=True)


def leases(root: str | Path) -> tuple[list[Lease], list[Lease]]:
    """Readers that live, and readers that ended without a word (killed).

    A reader on another host counts as living: its kernel cannot be asked from here. This process is no reader to
    itself. One that has not yet said who it is counts as living while it is new or holds its lock.
    """
    living: list[Lease] = []
    stale: list[Lease] = []
    for file in sorted((Path(root) / READERS).glob("*.json")):
        try:
            with file.open(encoding="utf-8") as handle:
                lease, is_vouched_for = _read(handle, file)
                if lease.host == socket.gethostname() and lease.pid == os.getpid():
                    continue
                (stale if not is_vouched_for and _is_free(handle) else living).append(lease)
        except FileNotFoundError:  # ended at this very moment
            continue
    return living, stale


def _read(handle: IO[str], file: Path) -> tuple[Lease, bool]:
    """A lease, and whether it counts as living even where its lock is free."""
    try:
        lease = _described(json.loads(handle.read()), file)
    except ValueError:
        began = datetime.fromtimestamp(file.stat().st_mtime, UTC)
        is_new = (datetime.now(UTC) - began).total_seconds() < _BEGINNING_SECONDS
        return Lease("a reader that has not yet said who it is", 0, "?", began, file=file), is_new
    return lease, lease.host != socket.gethostname()


def needed_since(lease: Lease, root: str | Path) -> datetime:
    """Files removed from their table after this instant may still be read under the lease."""
    instants = [lease.started_at]
    for table, version in lease.pinned.items():
        path = Path(root) / "tables" / table
        history = DeltaTable(str(path)).history() if DeltaTable.is_deltatable(str(path)) else []
        later = [commit for commit in history if commit["version"] > version]
        instants += [datetime.fromtimestamp(commit["timestamp"] / 1000, UTC) for commit in later]
    return min(instants)


def _described(entry: dict[str, Any], file: Path) -> Lease:
    started_at = datetime.fromisoformat(entry.pop("started_at"))
    return Lease(started_at=started_at, file=file, **entry)


def _is_free(handle: IO[str]) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
