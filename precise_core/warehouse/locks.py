"""One writer per warehouse: on a local folder Delta's log is only safe within one JVM."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from precise_core.errors import WarehouseBusyError

LOCK_FILE = ".lock"

_held: set[str] = set()


@dataclass(frozen=True)
class Holder:
    """Who writes a warehouse, as the lock file says it: for people to find the process."""

    pid: int
    host: str
    command: str
    since: str

    @classmethod
    def this_process(cls) -> Holder:
        command = " ".join([Path(sys.argv[0]).name, *_without_users(sys.argv[1:])])[:500]
        return cls(os.getpid(), socket.gethostname(), command, f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC")

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} ({self.command}), since {self.since}"


def _without_users(arguments: Sequence[str]) -> list[str]:
    """The arguments without the value of any ``--user-id``, however abbreviated: the file outlives a killed erasure."""
    shown, is_value = list[str](), False
    for argument in arguments:
        flag, equals, _ = argument.partition("=")
        names_user = not is_value and len(flag) > len("--") and "--user-id".startswith(flag)
        shown.append("..." if is_value else f"{flag}=..." if names_user and equals else argument)
        is_value = names_user and not equals
    return shown


@contextmanager
def warehouse_lock(root: str) -> Iterator[Holder | None]:
    """Hold the warehouse for this process; the kernel lets go when the process ends, however it ends.

    Yields the holder before this one where it ended without letting go (killed, or the machine went down), else None.
    Re-entrant within the process: a night holds it while its jobs ask again. A URI (`s3://...`) has no lock here;
    there the log store arbitrates.

    Raises:
        WarehouseBusyError: Another process holds it, or one on another host never let go; the message names it.
    """
    if "://" in root or root in _held:
        yield None
        return
    file = Path(root) / LOCK_FILE
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a+") as handle:
        _lock(handle, root)
        stale = _read(handle)
        _refuse_other_host(stale, file)
        _write(handle, json.dumps(asdict(Holder.this_process())))
        _held.add(root)
        try:
            yield stale
        finally:
            _held.discard(root)
            _write(handle, "")


def _lock(handle: IO[str], root: str) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = _read(handle) or "another process that has not yet said who it is"
        raise WarehouseBusyError(f"warehouse {root} is in use by {holder}; wait for it to end") from error
    except OSError as error:
        raise WarehouseBusyError(
            f"warehouse {root}: its file system has no locks ({error.strerror}), so two writers could not be kept "
            "apart; mount it with locks (NFS 4, or without `nolock`)"
        ) from error


def _refuse_other_host(stale: Holder | None, file: Path) -> None:
    """The kernel vouches for processes of this host only; on some shares a lock never leaves its host."""
    if stale is None or stale.host == socket.gethostname():
        return
    raise WarehouseBusyError(
        f"warehouse {file.parent} was last held by {stale}, which never let go, and from {socket.gethostname()} it "
        f"cannot be seen whether it still runs; when it does not, remove {file} and start again"
    )


def _read(handle: IO[str]) -> Holder | None:
    handle.seek(0)
    try:
        return Holder(**json.loads(handle.read()))
    except (ValueError, TypeError):  # empty: let go of as it should be
        return None


def _write(handle: IO[str], text: str) -> None:
    handle.seek(0)
    handle.truncate()
    handle.write(text)
    handle.flush()
