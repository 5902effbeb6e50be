"""Whether the columns of a file differ from those of the previous one: in kind, not in storage type."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from precise_core.sources.cells import Need, names_of

ANY = "any"  # of a column that is null so far, or of two kinds in one JSON Lines file
WHOLE, NUMBER, TEXT = "whole number", "number", "text"
_LIST = "list of "
_KINDS = {
    ANY: r"null|void|any",
    TEXT: r"(large_)?(string|utf8|binary)|(string|binary)_view|text|(var)?char\(\d+\)|string collate .*",
    WHOLE: r"u?int\d*|tinyint|smallint|integer|bigint|decimal(128|256)?\(\d+,\s*(0|-\d+)\)",
    NUMBER: r"halffloat|float|double|number|decimal(128|256)?\(\d+,\s*\d+\)",
    "boolean": r"bool|boolean",
    "time": r"timestamp.*",
    "day": r"date(32|64)?(\[\w+\])?",
    "time of day": r"time(32|64)?(\[\w+\])?",
    "object": r"object|struct<.*|map<.*|variant",
}
_DICTIONARY = re.compile(r"dictionary<values=(.*), indices=\w+, ordered=\d>")
_LISTS = re.compile(r"(?:(?:large_|fixed_size_)?list(?:_view)?<\w+: |array<)(.*?)(?: not null)?>(?:\[\d+\])?")

_TEXT_ROLES = ("text", "texts")


def differences(
    before: Mapping[str, str], now: Mapping[str, str], needs: Sequence[Need], *, is_open: bool
) -> tuple[list[str], list[str]]:
    """Differences of columns that the configuration names; and those that are only worth a warning.

    A named column that is missing is found where it is read.

    Args:
        before: Column -> type of the previous file, in any spelling that ``kind_of`` knows.
        is_open: Whether a row may leave a column out.
    """
    named = set(names_of(needs))
    both = {name: f"column {name!r} was {before[name]} and is {now[name]}" for name in now if name in before}
    other_kind = [name for name in both if not is_same_kind(before[name], now[name])]
    gone = [] if is_open else [name for name in before if name not in now]
    unnamed = [f"column {name!r} is new" for name in now if name not in before and name not in named]
    unnamed += [f"column {name!r} is gone" for name in gone if name not in named]
    unnamed += [both[name] for name in other_kind if name not in named]
    warnings = [f"{difference}; the configuration does not name it" for difference in unnamed]
    shown_otherwise = [name for name in both if {kind_of(before[name]), kind_of(now[name])} == {WHOLE, NUMBER}]
    as_text = {name for name, role in needs if role in _TEXT_ROLES}
    # For a model, another text is another category.
    warnings += [f"{both[name]}: as text, 7 may have become 7.0" for name in shown_otherwise if name in as_text]
    return [both[name] for name in other_kind if name in named], warnings


def columns_to_remember(before: Mapping[str, str], now: Mapping[str, str], *, is_open: bool) -> dict[str, str]:
    """The columns that the next file is compared with; one that is null now keeps its previous type."""
    columns = {name: before.get(name, kind) if kind_of(kind) == ANY else kind for name, kind in now.items()}
    # A JSON object may leave a key out: what was seen once belongs to the source from then on.
    return {**before, **columns} if is_open else columns


def kind_of(type_name: str) -> str:
    """The kind of a type as Arrow, Spark or ``jsonl_columns`` spells it; a spelling that is none of theirs is its own.

    Text is one kind in every encoding, and so are whole numbers of every width and times of every unit and zone.
    """
    if found := _DICTIONARY.fullmatch(type_name):
        return kind_of(found.group(1))
    if found := _LISTS.fullmatch(type_name):
        return _LIST + kind_of(found.group(1))
    if type_name == "list":
        return _LIST + ANY
    return next((kind for kind, pattern in _KINDS.items() if re.fullmatch(pattern, type_name)), type_name)


def is_same_kind(one: str, other: str) -> bool:
    """Whether a column of the one type may follow one of the other; null fits every type.

    Whole numbers and numbers are one: with a single gap, pandas writes a column of whole numbers as one of doubles.
    """
    return _fits(kind_of(one), kind_of(other))


def _fits(one: str, other: str) -> bool:
    if one.startswith(_LIST) and other.startswith(_LIST):
        return _fits(one.removeprefix(_LIST), other.removeprefix(_LIST))
    return one == other or ANY in (one, other) or {one, other} == {WHOLE, NUMBER}
