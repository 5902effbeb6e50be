"""Ids as a file that is mapped: which row of a part belongs to an id.

A dictionary of a million ids would take each process more memory than the ids themselves.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from precise_core.errors import DataError

_HASHES_FILE, _IDS_FILE = "hashes.npy", "ids.arrow"
_COLUMN = "id"


class KeyIndex:
    """Ids ordered by a hash of 64 bits; ids of one hash stand beside each other and are compared."""

    def __init__(self, folder: Path) -> None:
        self._hashes_U = mapped_array(folder / _HASHES_FILE)
        self._ids = one_chunk(mapped_table(folder / _IDS_FILE)[_COLUMN])

    def __len__(self) -> int:
        return len(self._hashes_U)

    def row(self, key: str) -> int:
        """Row of an id, -1 where it is not there."""
        wanted = np.uint64(_hash(key))
        at = int(np.searchsorted(self._hashes_U, wanted))
        while at < len(self._hashes_U) and self._hashes_U[at] == wanted:
            if self._ids[at].as_py() == key:
                return at
            at += 1
        return -1


def write_keys(folder: Path, ids: pa.Array) -> np.ndarray:
    """Write the ids, each of which occurs once, for ``KeyIndex``; returns their order there."""
    hashes_U = np.fromiter(map(_hash, ids.to_pylist()), np.uint64, len(ids))
    order_U = np.argsort(hashes_U, kind="stable")
    np.save(folder / _HASHES_FILE, hashes_U[order_U])
    write_table(folder / _IDS_FILE, pa.table({_COLUMN: pc.take(ids, pa.array(order_U))}))
    return order_U


def mapped_array(file: Path) -> np.ndarray:
    return np.load(file, mmap_mode="r", allow_pickle=False)


def mapped_table(file: Path) -> pa.Table:
    """An Arrow file of one batch, whose values stay where they are."""
    return pa.ipc.open_file(pa.memory_map(str(file))).read_all()


def one_chunk(column: pa.ChunkedArray) -> pa.Array:
    """The values of a column of a ``combined`` table; a chunked column is slow to take single values from.

    Raises:
        DataError: It has several chunks: its lists have more values than one can hold.
    """
    if column.num_chunks > 1:
        raise DataError(f"{len(column):,} rows of {column.type}: more than 2^31 values of one task cannot be served")
    return column.chunk(0) if column.num_chunks else pa.array([], column.type)


def combined(table: pa.Table) -> pa.Table:
    """Columns in one piece each; texts get offsets of 64 bits, with 32 a piece would end at 2 GiB."""
    large = [field.with_type(pa.large_string()) if pa.types.is_string(field.type) else field for field in table.schema]
    return table.cast(pa.schema(large)).combine_chunks()


def write_table(file: Path, table: pa.Table) -> None:
    """Write what ``mapped_table`` opens."""
    whole = combined(table)
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, whole.schema) as writer:
        writer.write_table(whole, max_chunksize=max(whole.num_rows, 1))


def _hash(key: str) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little")
