"""Rows between file and batch: what a reader delivers, and the pools that are shuffled as a whole.

A reader, ``read_arrow_rows`` here or ``petastorm_rows.read_rows``, delivers the rows of the files in their order, from
row number ``first_row`` on, in portions of any size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import pyarrow as pa

from precise_core.errors import DataError
from precise_core.warehouse.arrow_lists import fixed_lists, list_lengths
from precise_core.warehouse.reader import open_parquet
from schemas import columns as c

_ROWS_PER_PORTION = 8192  # fits a cache; larger ones decode slower, and a row group may hold millions

Rows = dict[str, np.ndarray]
RowReader = Callable[[list[str], list[str], int], Iterator[Rows]]


def row_count(rows: Rows) -> int:
    """Rows of a portion."""
    return len(next(iter(rows.values())))


def without_first(portions: Iterable[Rows], count: int) -> Iterator[Rows]:
    """The portions without their first ``count`` rows."""
    for rows in portions:
        dropped = min(count, row_count(rows))
        count -= dropped
        yield {name: values[dropped:] for name, values in rows.items()} if dropped else rows


def newest_since(portions: Iterable[Rows], since: int) -> Iterator[Rows]:
    """The rows whose newest event is at or after the epoch second ``since``.

    Windows are left-padded: the last entry is the newest event.
    """
    for rows in portions:
        _require_whole_numbers(c.EVENT_TS, rows[c.EVENT_TS])
        is_new = rows[c.EVENT_TS][:, -1] >= since
        yield {name: values[is_new] for name, values in rows.items()}


def pools(portions: Iterable[Rows], size: int) -> Iterator[Rows]:
    """The same rows as int64, ``size`` at a time; the last pool may be smaller.

    One set of buffers is reused, which spares the memory and the page faults of new ones: a pool is valid until the
    next one is requested.
    """
    buffers: Rows = {}
    filled = 0
    for rows in portions:
        buffers = buffers or {name: np.empty((size, *values.shape[1:]), np.int64) for name, values in rows.items()}
        _require_alike(rows, buffers)
        taken, count = 0, row_count(rows)
        while taken < count:
            step = min(size - filled, count - taken)
            for name, values in rows.items():
                buffers[name][filled : filled + step] = values[taken : taken + step]
            taken, filled = taken + step, filled + step
            if filled == size:
                yield buffers
                filled = 0
    if filled:
        yield {name: values[:filled] for name, values in buffers.items()}


def _require_alike(rows: Rows, buffers: Rows) -> None:
    for name, values in rows.items():
        _require_whole_numbers(name, values)
        if values.shape[1:] != buffers[name].shape[1:]:
            found, expected = values.shape[1:], buffers[name].shape[1:]
            raise DataError(f"column {name}: lists of one length are needed, found {found} after {expected}")


def _require_whole_numbers(name: str, values: np.ndarray) -> None:
    if values.dtype.kind not in "iu":
        raise DataError(f"column {name}: whole numbers are needed, without nulls; found {values.dtype}")


def read_arrow_rows(files: list[str], columns: list[str], first_row: int) -> Iterator[Rows]:
    """Row group by row group, by pyarrow alone; groups before ``first_row`` are counted from the footer, not decoded.

    pyarrow 14 cannot verify page checksums: a damaged page is found only where it does not decode.

    Raises:
        DataError: A file cannot be read, or lists differ in length; the message names the file.
    """
    for uri in files:
        try:
            with open_parquet(uri) as file:
                counts = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
                first_group = 0
                while first_group < len(counts) and first_row >= counts[first_group]:
                    first_row -= counts[first_group]
                    first_group += 1
                groups = list(range(first_group, len(counts)))
                if not groups:
                    continue
                batches = file.iter_batches(_ROWS_PER_PORTION, row_groups=groups, columns=columns)
                portions = ({name: _values(batch[name], name) for name in columns} for batch in batches)
                yield from without_first(portions, first_row)
                first_row = 0
        except (OSError, pa.ArrowException, DataError) as error:
            raise DataError(f"cannot read {uri}: {error}") from error


def _values(column: pa.Array, name: str) -> np.ndarray:
    """Numbers as a vector, lists of one length as a matrix."""
    if not pa.types.is_list(column.type):
        return column.to_numpy(zero_copy_only=False)
    if len(lengths := list_lengths(column)) > 1:
        raise DataError(f"column {name}: lists of one length are needed, found {lengths[:5]}")
    return fixed_lists(column)
