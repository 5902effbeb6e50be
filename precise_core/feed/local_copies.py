"""Files of a pinned version on this machine's disk: an epoch reads every one of them, and Petastorm reads no object
store with the pyarrow that it needs."""

from __future__ import annotations

import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from precise_core.errors import DataError
from precise_core.warehouse.places import file_of, store_errors

_AT_ONCE = 8  # the answer of a store takes longer than the bytes
_CHUNK_BYTES = 8 << 20


class LocalCopies:
    """The same files by local URIs, in their order: copies of those in an object store, local ones as they are.

    The copies are in a folder of their own below `TMPDIR`; it goes with this object, or when the process ends. Nothing
    of a user stays behind for an erasure to look for.

    Raises:
        DataError: The disk is full, or a file ended too early.
        StoreError: The store refuses.
    """

    def __init__(self, uris: list[str]) -> None:
        self.uris = uris
        if all(uri.startswith("file://") for uri in uris):
            return
        self._folder = tempfile.TemporaryDirectory(prefix="precise-feed-")
        targets = [Path(self._folder.name) / f"{number:06}.parquet" for number in range(len(uris))]
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(_fetch, uris, targets))
        self.uris = [f"file://{target}" for target in targets]


def _fetch(uri: str, target: Path) -> None:
    filesystem, path = file_of(uri)
    try:
        with store_errors(uri):
            expected = filesystem.get_file_info(path).size
            with filesystem.open_input_stream(path) as stream, target.open("wb") as file:
                shutil.copyfileobj(stream, file, _CHUNK_BYTES)
    except OSError as error:
        raise DataError(f"{uri}: cannot be fetched to {target.parent} (TMPDIR names its place): {error}") from error
    if target.stat().st_size != expected:
        raise DataError(f"{uri}: {target.stat().st_size} of its {expected} bytes have come; start the job again")
