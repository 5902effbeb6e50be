"""Rows read by Petastorm; nothing else here imports it.

Its shuffling is not used: it is the same every epoch, or not reproducible.
"""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
from petastorm import make_batch_reader

from precise_core.errors import DataError
from precise_core.feed.readers import Rows, read_arrow_rows, without_first
from precise_core.warehouse.reader import footer_rows

_FILES_PER_READER = 16  # opening a reader costs milliseconds


def read_rows(files: list[str], columns: list[str], first_row: int) -> Iterator[Rows]:
    """Row group by row group; files before ``first_row`` are counted from their footers and not read."""
    while first_row and files and first_row >= (rows := footer_rows(files[0])):
        first_row -= rows
        files = files[1:]
    # To Petastorm what follows these marks is no part of a path; the other reader gives the same rows.
    is_cut = any(mark in file for file in files for mark in "#?;")
    found = read_arrow_rows(files, columns, first_row=0) if is_cut else _read(files, columns)
    yield from without_first(found, first_row)


def _read(files: list[str], columns: list[str]) -> Iterator[Rows]:
    """The dummy pool reads in the calling thread, in order."""
    fields = [f"^{name}$" for name in columns]
    for start in range(0, len(files), _FILES_PER_READER):
        group = files[start : start + _FILES_PER_READER]
        try:
            with make_batch_reader(
                group, schema_fields=fields, reader_pool_type="dummy", shuffle_row_groups=False, num_epochs=1
            ) as reader:
                for rows in reader:
                    yield {name: getattr(rows, name) for name in columns}
        except (OSError, pa.ArrowException, RuntimeError) as error:
            raise DataError(f"cannot read {group}: {error}") from error
