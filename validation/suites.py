"""What a suite is: the checks of one table, the columns they need, and the tables it refers to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from pyspark.sql import DataFrame

from schemas import Table
from validation.checks import Check, declared
from validation.derived import nothing


class Suite(Protocol):
    """What the gate needs to know of a table; a module of its own or a ``TableSuite``."""

    @property
    def suite(self) -> Callable[..., list[Check]]: ...

    @property
    def derive(self) -> Callable[[DataFrame], DataFrame]: ...


@dataclass(frozen=True)
class TableSuite:
    """A suite without a module of its own.

    Args:
        table: The table.
        suite: Its checks; keyword arguments are what they depend on.
        derive: Adds the columns that the checks read.
    """

    table: Table
    suite: Callable[..., list[Check]]
    derive: Callable[[DataFrame], DataFrame] = nothing


@dataclass(frozen=True)
class Reference:
    """Every value of ``column`` occurs as ``other_column`` of the table ``other``."""

    table: Table
    column: str
    other: Table
    other_column: str

    @property
    def name(self) -> str:
        """The derived column that is true where it holds."""
        return f"{self.column}_is_in_{self.other.name}"


def declared_only(table: Table) -> TableSuite:
    """The suite of a table that says no more than its declaration."""
    return TableSuite(table, lambda: declared(table))
