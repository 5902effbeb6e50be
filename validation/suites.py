"""Suites: the checks of one table beyond its declaration, and the derived columns they read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pyspark.sql import DataFrame

from schemas import Table
from validation.checks import Check


@dataclass(frozen=True)
class TableSuite:
    """The checks of a table beyond its declaration.

    Args:
        checks: Further checks; keyword arguments are what they depend on, such as the ``width`` of a vector.
        derive: Adds the columns that the checks read.
    """

    table: Table
    checks: Callable[..., list[Check]] = lambda: []
    derive: Callable[[DataFrame], DataFrame] = lambda frame: frame
