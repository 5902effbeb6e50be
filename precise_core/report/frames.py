"""Rows of a pandas frame by column name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd


def records(frame: pd.DataFrame) -> Iterator[Any]:
    """Named tuples, one per row; untyped, because the columns of a frame are known only when it is read."""
    return iter(frame.itertuples(index=False))
