"""Checks, and those that follow from a table's declaration."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from great_expectations import expectations as gxe
from great_expectations.expectations.expectation import ColumnMapExpectation, Expectation

from schemas import Table
from validation import derived

Level = Literal["fail", "warn"]

# Before it, an epoch second would be negative or the 0 that pads training windows.
EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
# Spark orders NaN above every number, so an upper end refuses NaN and infinity alike.
LARGEST = sys.float_info.max


@dataclass(frozen=True)
class Check:
    """One expectation, its meaning in words, and whether breaking it stops the job (``fail``) or not (``warn``)."""

    expectation: Expectation
    says: str
    level: Level = "fail"

    @property
    def name(self) -> str:
        """Great Expectations name of the rule."""
        return self.expectation.expectation_type

    @property
    def column(self) -> str:
        """The column it looks at; empty for the whole table."""
        return str(self.expectation.configuration.kwargs.get("column", ""))

    @property
    def count_metric(self) -> str | None:
        """The metric that counts the rows that break it; None for a rule on the schema or on an aggregate."""
        rule = self.expectation
        if not isinstance(rule, ColumnMapExpectation) or isinstance(rule, gxe.ExpectColumnValuesToBeOfType):
            return None
        return f"{rule.map_metric}.unexpected_count"


def columns_in_order(table: Table) -> Check:
    """All columns, no other, in the declared order."""
    rule = gxe.ExpectTableColumnsToMatchOrderedList(column_list=list(table.column_names))
    return Check(rule, f"columns are {table.column_names}")


def types(table: Table) -> list[Check]:
    """Columns of the declared types; by the schema, without reading a row."""
    return [
        Check(
            gxe.ExpectColumnValuesToBeOfType(column=field.name, type_=type(field.dataType).__name__),
            f"is {table.column(field.name).type}",
        )
        for field in table.spark_schema()
    ]


def declared(table: Table) -> list[Check]:
    """No nulls where the declaration allows none, each key once, and a warning where there is no row."""
    present = [
        Check(gxe.ExpectColumnValuesToNotBeNull(column=column.name), "is never null")
        for column in table.columns
        if not column.nullable
    ]
    if not table.key:
        return [*present, _has_rows()]
    once = between(derived.ROWS_WITH_THIS_KEY, 1, 1, f"each key ({', '.join(table.key)}) occurs once")
    return [*present, once, _has_rows()]


def not_blank(*columns: str) -> list[Check]:
    """Strings of at least one character."""
    return [
        Check(gxe.ExpectColumnValueLengthsToBeBetween(column=column, min_value=1), "is never empty")
        for column in columns
    ]


def between(column: str, low: Any, high: Any, says: str, *, level: Level = "fail", above: bool = False) -> Check:
    """``low <= column <= high``, or ``low < column`` with ``above``; None leaves an end open."""
    rule = gxe.ExpectColumnValuesToBeBetween(column=column, min_value=low, max_value=high, strict_min=above)
    return Check(rule, says, level)


def one_of(column: str, allowed: Iterable[Any], says: str | None = None, *, level: Level = "fail") -> Check:
    """Only the values allowed."""
    values = list(allowed)
    says = says or f"is one of {', '.join(map(str, values))}"
    return Check(gxe.ExpectColumnValuesToBeInSet(column=column, value_set=values), says, level)


def holds(column: str, says: str, *, level: Level = "fail") -> Check:
    """A derived column that is true on every row."""
    return one_of(column, [True], says, level=level)


def in_time(column: str, latest: datetime | None) -> Check:
    """A time from 1970 up to ``latest`` (inclusive)."""
    return between(column, EARLIEST, latest, f"lies between {EARLIEST:%Y-%m-%d} and {latest or 'any later time'}")


def _has_rows() -> Check:
    # A night without new rows is valid, but worth a warning.
    return Check(gxe.ExpectTableRowCountToBeBetween(min_value=1), "has at least one row", "warn")
