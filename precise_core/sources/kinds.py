"""What a column is, whatever its writer calls it: the types of Arrow, Spark and JSON in one vocabulary."""

from __future__ import annotations

import re

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
