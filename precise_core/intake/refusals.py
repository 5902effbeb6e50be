"""When a night is refused because of its rows: nearly all are rejected, times are misread, or ids belong to others.

Messages are printed with example rows, but stored without them (`PreciseError.stored`). Spark jobs run only when a
night is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from precise_core.errors import DataError
from precise_core.intake.cleaning import DUPLICATE, ERASED, UNKNOWN_ITEM
from precise_core.sources.config import EventsInput, FileInput, ImpressionsInput, TimeReading
from precise_core.sources.raw import INVALID_TIME
from schemas import Table
from schemas import columns as c

_EXAMPLES = 3
_PAIRS = 1000  # of ids that nearly meet: enough to see what keeps them apart
_RAW_CHARS = 300
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# The years that logs are from, in seconds: 1990 to 2100.
_FIRST, _LAST = 631_152_000, 4_102_444_800
_PER_SECOND = {"seconds": 1, "milliseconds": 10**3, "microseconds": 10**6, "nanoseconds": 10**9}
_TIMES = (INVALID_TIME, "future_time")

# What two spellings of one id usually differ by, in the order in which they are taken away.
_SPELLINGS: dict[str, tuple[str, Callable[[str], str]]] = {
    "blanks around them": (r"^[\s\u00a0]+|[\s\u00a0]+$", lambda text: text.strip()),
    "`.0` at their end": (r"\.0+$", lambda text: re.sub(r"\.0+$", "", text)),
    "leading zeros": (r"^0+(?=.)", lambda text: re.sub(r"^0+(?=.)", "", text)),
    "upper and lower case": ("", str.lower),
}


def refuse_rejections(
    table: Table,
    checked: DataFrame,
    reasons: Mapping[str | None, int],
    largest_share: float,
    spec: FileInput | None,
    items: DataFrame | None,
) -> None:
    """Refuse a night of which (nearly) no row can be used: the configuration or the delivery is wrong, not the rows.

    Args:
        checked: Tonight's rows with their reasons.
        reasons: Rows by reason; None = accepted.
        largest_share: Of the rows; repeated ones and those of erased users do not count.
        spec: How own files are read; None of another source.
        items: The catalog, for the table whose rows must be on its items.

    Raises:
        DataError: More than that share is rejected.
    """
    harmless = {None, ERASED, *DUPLICATE.values()}
    broken = {reason: rows for reason, rows in reasons.items() if reason not in harmless}
    rejected = sum(broken.values())
    judged = reasons.get(None, 0) + rejected
    if rejected <= largest_share * judged:
        return
    ordered = sorted(broken, key=lambda reason: -broken[reason])
    main, hint, examples = str(ordered[0]), "", ""
    if main == UNKNOWN_ITEM and items is not None:
        hint, examples = _about_items(checked.where(F.col(c.REASON) == UNKNOWN_ITEM), items)
    elif main in _TIMES and isinstance(spec, EventsInput | ImpressionsInput):
        values = _cells(checked.where(F.col(c.REASON).isin(*_TIMES)), spec.time)
        hint, examples = time_hint(values, spec.time_reading), f"times such as {_listed(values)}"
    if not examples:
        examples = "rows such as " + ", ".join(_raws(checked.where(F.col(c.REASON) == main)))
    counts = ", ".join(f"{reason} {broken[reason]:,}" for reason in ordered if reason is not None)
    raise DataError(
        f"{table.name}: {rejected:,} of {judged:,} rows are rejected ({counts}), more than "
        f"gates.largest_rejected_share {largest_share:g}; nothing was taken{hint and f'; {hint}'}; {examples}",
        private=examples,
    )


def refuse_misread_times(table: Table, first: int, last: int, spec: FileInput | None) -> None:
    """Refuse a night whose times all lie in the first days of 1970: numbers of another unit than they were read in.

    Args:
        first: Earliest accepted time, in microseconds since 1970; ``last`` is the latest.
        spec: How own files are read; other sources are not checked.

    Raises:
        DataError: All of them would lie between 1990 and 2100 if their unit were larger.
    """
    if not isinstance(spec, EventsInput | ImpressionsInput):
        return
    used = spec.time_reading.unit or "nanoseconds"
    for unit in _usual_units(*(micros * _PER_SECOND[used] / 10**6 for micros in (first, last))):
        factor = _PER_SECOND[used] // _PER_SECOND[unit]
        is_counted = first % 10**6 == last % 10**6 == 0 and factor == 10**9  # 1, 2, 3 s: an order, not a clock
        if factor > 1 and not is_counted:
            times = [f"{_EPOCH + timedelta(microseconds=micros):%Y-%m-%d %H:%M:%S}" for micros in (first, last)]
            how = f"set `time_reading: {{unit: {unit}}}`" if spec.time_reading.unit else "correct how they were made"
            raise DataError(
                f"{table.name}: all times of tonight lie between {times[0]} and {times[1]}: they look like {unit} that "
                f"were read as {used}; nothing was taken; {how}"
            )


def refuse_other_users(table: Table, rows: DataFrame, number: int, where: str) -> None:
    """Refuse ``number`` rows with the id of another user's row, which they would replace.

    Args:
        rows: Those rows; not read where ``number`` is 0.
        where: Where the other row is, for the message.
    """
    if not number:
        return
    key = table.key[0]
    examples = _listed([row[key] for row in rows.select(key).limit(_EXAMPLES).collect()])
    raise DataError(
        f"{table.name}: {number:,} rows have the {key} of a row of another user {where}, such as {examples}; "
        f"nothing was taken; do the ids begin anew in every file? Leave `{key}` out of the configuration, or make it "
        "unique; if these are corrections, accept them with --reassign",
        private=examples,
    )


def time_hint(values: Sequence[str], reading: TimeReading) -> str:
    """With which ``time_reading`` the values would lie in the usual years; empty where none is known."""
    numbers = [float(value) for value in values if re.fullmatch(r"-?\d+(\.\d+)?([eE]\+?\d+)?", value.strip())]
    if not numbers or len(numbers) < len(values):
        is_default = reading.unit is None and reading.format is None
        return "times are read as ISO 8601 where `time_reading` does not say otherwise" if values and is_default else ""
    for unit in _usual_units(min(numbers), max(numbers)):
        if unit == "nanoseconds":
            return "they look like nanoseconds, which are not read: divide them by 1,000"
        if unit != reading.unit:
            instead = f", not {reading.unit}" if reading.unit else ""
            return f"they look like {unit}{instead}: set `time_reading: {{unit: {unit}}}`"
    return ""


def _usual_units(first: float, last: float) -> list[str]:
    """The units in which these numbers are times of the years that logs are from."""
    return [
        unit for unit, per_second in _PER_SECOND.items() if _FIRST <= first / per_second <= last / per_second <= _LAST
    ]


def _about_items(unknown: DataFrame, items: DataFrame) -> tuple[str, str]:
    """How the ids of a log and those of the catalog differ, and a few of both."""
    of_log = unknown.select(F.col(c.ITEM_ID).alias("of_log")).distinct()
    known = items.select(F.col(c.ITEM_ID).alias("known")).distinct()
    nearly_meet = _plain(F.col("of_log")) == _plain(F.col("known"))
    pairs = of_log.join(known, on=nearly_meet, how="inner").limit(_PAIRS).collect()
    if not pairs:
        hint = "are these the items of this log?"
        sides = [[row[0] for row in side.limit(_EXAMPLES).collect()] for side in (of_log, known)]
    else:
        hint = f"the ids of log and catalog differ by {' and '.join(_differences(pairs))}: write them alike"
        sides = [list(side)[:_EXAMPLES] for side in zip(*pairs, strict=True)]
    return hint, f"items of the log such as {_listed(sides[0])}, of the catalog such as {_listed(sides[1])}"


def _plain(text: Column) -> Column:
    for pattern, _ in _SPELLINGS.values():
        text = F.regexp_replace(text, pattern, "") if pattern else F.lower(text)
    return text


def _differences(pairs: Sequence[Sequence[str]]) -> list[str]:
    """The spellings without which not all pairs meet."""

    def spelt(text: str, without: str) -> str:
        for name, (_, take_away) in _SPELLINGS.items():
            text = text if name == without else take_away(text)
        return text

    return [name for name in _SPELLINGS if any(spelt(one, name) != spelt(other, name) for one, other in pairs)]


def _cells(rejected: DataFrame, column: str) -> list[str]:
    """The values of a few rejected rows in a column of the source, where it has been kept."""
    found = [json.loads(row[c.RAW]) for row in rejected.select(c.RAW).limit(_EXAMPLES).collect()]
    cells = [row.get(column) for row in found if isinstance(row, dict)]
    return [str(cell) for cell in cells if cell is not None]


def _raws(rejected: DataFrame) -> list[str]:
    rows = rejected.select(c.RAW).limit(_EXAMPLES).collect()
    return [str(row[c.RAW] or "")[:_RAW_CHARS].replace("\n", "\\n") for row in rows]


def _listed(values: Sequence[str]) -> str:
    return ", ".join(map(repr, values))
