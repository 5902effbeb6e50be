"""One writer per warehouse: on a local folder Delta's log is only safe within one JVM."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from precise_core.errors import WarehouseBusyError

_held: set[str] = set()


@contextmanager
def warehouse_lock(root: str) -> Iterator[None]:
    """Hold the warehouse for this process; the kernel lets go when the process ends, however it ends.

    Re-entrant within the process: a night holds it while its jobs ask again. A URI (`s3://...`) has no lock here;
    there the log store arbitrates.

    Raises:
        WarehouseBusyError: Another process holds it; the message names its process id.
    """
    if "://" in root or root in _held:
        yield
        return
    file = Path(root) / ".lock"
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a+") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            handle.seek(0)
            raise WarehouseBusyError(
                f"warehouse {root} is in use by process {handle.read().strip() or 'unknown'}; wait for it to end"
            ) from error
        handle.seek(0)
        handle.truncate()
        handle.write(str(os.getpid()))
        handle.flush()
        _held.add(root)
        try:
            yield
        finally:
            _held.discard(root)
