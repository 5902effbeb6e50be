"""Arrow list columns and NumPy arrays, without a Python object per row."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def float_lists(values_ND: np.ndarray) -> pa.ListArray:
    """Rows of a matrix as an Arrow list column."""
    rows, width = values_ND.shape
    offsets = pa.array(np.arange(0, (rows + 1) * width, max(width, 1), dtype=np.int32)[: rows + 1])
    return pa.ListArray.from_arrays(offsets, pa.array(np.ascontiguousarray(values_ND).reshape(-1)))


def list_lengths(column: pa.ListArray | pa.ChunkedArray) -> list[int]:
    """The different lengths of a column's lists, sorted, nulls aside; more than one means that it is no matrix."""
    return sorted(length for length in pc.unique(pc.list_value_length(column)).to_pylist() if length is not None)


def fixed_lists(column: pa.ListArray | pa.ChunkedArray, width: int | None = None) -> np.ndarray:
    """A list column without nulls as a matrix; honours the offsets of a slice.

    Args:
        column: Its lists have one length (``list_lengths``).
        width: That length; where it is not known, a column without rows becomes a matrix of 0 columns.
    """
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    values = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in chunks]
    flat = values[0] if len(values) == 1 else np.concatenate(values or [np.empty(0)])
    if width is None:
        width = len(flat) // len(column) if len(column) else 0
    return flat.reshape(len(column), width)


def ragged_rows(column: pa.ListArray) -> list[np.ndarray]:
    """The lists of an Arrow column as views into one buffer; honours the offsets of a slice."""
    values = column.values.to_numpy(zero_copy_only=False)
    offsets = column.offsets.to_numpy()
    return [values[start:end] for start, end in pairwise(offsets)]
