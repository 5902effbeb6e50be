"""Rows read by pyarrow alone, a few thousand at a time.

pyarrow 14 cannot verify page checksums; a damaged page is found only where it does not decode.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from precise_core.errors import DataError
from precise_core.feed.readers import Rows, without_first
from precise_core.warehouse.reader import open_parquet

_ROWS_PER_PORTION = 8192  # fits a cache; larger ones decode slower, and a row group may hold millions


def read_rows(files: list[str], columns: list[str], first_row: int) -> Iterator[Rows]:
    """Row group by row group; groups before ``first_row`` are counted from the footer and not decoded.

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
    lengths = np.diff(column.offsets.to_numpy())
    if len(lengths) and (lengths != lengths[0]).any():
        raise DataError(f"column {name}: lists of one length are needed, found {np.unique(lengths)[:5].tolist()}")
    return column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1)
