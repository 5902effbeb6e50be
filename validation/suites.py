"""What a suite is: the checks of one table beyond its declaration, and the columns they read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pyspark.sql import DataFrame

from schemas import Table
from validation.checks import Check


def nothing(frame: DataFrame) -> DataFrame:
    """For tables whose columns say everything."""
    return frame


@dataclass(frozen=True)
class TableSuite:
    """What a table must be beyond its declaration.

    Args:
        table: The table.
        checks: Further checks; keyword arguments are what they depend on, such as the ``width`` of a vector.
        derive: Adds the columns that the checks read.
    """

    table: Table
    checks: Callable[..., list[Check]] = lambda: []
    derive: Callable[[DataFrame], DataFrame] = nothing
