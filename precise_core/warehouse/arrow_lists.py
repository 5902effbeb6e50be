"""Arrow list columns and NumPy arrays, without a Python object per row."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pyarrow as pa


def float_lists(values_ND: np.ndarray) -> pa.ListArray:
    """Rows of a matrix as an Arrow list column, without a Python object per row."""
    rows, width = values_ND.shape
    offsets = pa.array(np.arange(0, (rows + 1) * width, max(width, 1), dtype=np.int32)[: rows + 1])
    return pa.ListArray.from_arrays(offsets, pa.array(np.ascontiguousarray(values_ND).reshape(-1)))


def fixed_lists(column: pa.ListArray, width: int) -> np.ndarray:
    """An Arrow list column whose lists all have ``width`` elements, as a matrix; honours the offsets of a slice."""
    return column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), width)


def ragged_rows(column: pa.ListArray) -> list[np.ndarray]:
    """The lists of an Arrow column as views into one buffer; honours the offsets of a slice."""
    values = column.values.to_numpy(zero_copy_only=False)
    offsets = column.offsets.to_numpy()
    return [values[start:end] for start, end in pairwise(offsets)]
