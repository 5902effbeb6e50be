"""Raw rows to canonical tables. Every row is accepted or rejected with the first rule it broke; none is dropped.

Reasons, in the order in which the rules apply: what the reader knew (malformed_row, invalid_id, invalid_time,
invalid_value, invalid_flag), missing_user_id, missing_item_id, invalid_id, unknown_item, missing_scene,
missing_action, invalid_time, future_time, invalid_value, invalid_label, and last id_of_another_user, duplicate_event,
duplicate_item, duplicate_impression.

The item is looked up before the scene: where the scene comes from the catalog, the unknown item is the cause.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from precise_core.sources.raw import (
    INVALID_ID,
    INVALID_TIME,
    INVALID_VALUE,
    PROBLEM,
    RAW_PARTS,
    RawTables,
    hidden_parts,
    text_of_parts,
)
from precise_core.warehouse.erasure_list import ErasureList, phrases
from precise_core.warehouse.instants import instant
from schemas import EVENTS, IMPRESSIONS, ITEMS, Table
from schemas import columns as c

MAX_ID_CHARS = 512
MAX_TEXT_CHARS = 10_000
MAX_RAW_CHARS = 100_000
MAX_CATEGORIES = 100

ERASED = "erased"
UNKNOWN_ITEM = "unknown_item"
ID_OF_ANOTHER_USER = "id_of_another_user"
DUPLICATE: Mapping[str, str] = {
    EVENTS.name: "duplicate_event",
    ITEMS.name: "duplicate_item",
    IMPRESSIONS.name: "duplicate_impression",
}
# Of two versions of an item the one that was updated last stays, whichever file says so, where both say when.
NEWEST_BY: Mapping[str, str] = {ITEMS.name: c.UPDATED_TS}

# What programs write where an id is missing; as ids they would be one user, or one item, of very many rows.
# Compared without case and without blanks around them.
MISSING_WORDS = (
    *("null", "(null)", "[null]", "<null>", "nil", "none", "(none)", "<none>", "nan", "-nan", "na", "n/a", "n.a."),
    *("#n/a", "<na>", "nat", "\\n", "undefined", "missing", "empty", "(empty)", "(blank)", "blank", "unknown"),
    *("anonymous", "-", "--", "?", ".", "_", '""', "''", "{}", "[]", "-1", "00000000-0000-0000-0000-000000000000"),
)

_IS_KNOWN = "is_known_item"
_UNDATED = "undated_so_far"
_NUL = "\u0000"
_REPLACED = "\ufffd"
# Blanks of every script, and characters that nobody sees.
_BLANK = r"^[\s\p{Z}\u00ad\u200b-\u200d\u2060]*$"
# Control characters and line ends, which no id has, the mark of a file's beginning, and what decoding leaves of bytes
# that did not fit: two ids with one are not known to be the same.
_NO_ID = r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ufeff\ufffd]"

Rule = tuple[str, Column]


@dataclass(frozen=True, kw_only=True)
class Cleaned:
    """Two halves of the same rows: count(accepted) + count(rejected) = count(raw).

    Args:
        accepted: Exactly the columns of the canonical table, in order.
        rejected: raw, reason, source_file.
        checked: Every row with its reason (null = accepted); persist it to compute both halves once. The key of a
            row that broke a rule by itself means nothing.
    """

    accepted: DataFrame
    rejected: DataFrame
    checked: DataFrame


def hide_erased(tables: RawTables, erased: ErasureList) -> RawTables:
    """The same rows; one of an erased user has the problem ``erased`` and shows nothing of what came."""
    events = None if tables.events is None else hide_erased_rows(tables.events, erased)
    impressions = None if tables.impressions is None else hide_erased_rows(tables.impressions, erased)
    return replace(tables, events=events, impressions=impressions)


def hide_erased_rows(raw: DataFrame, erased: ErasureList) -> DataFrame:
    """``hide_erased`` for the raw rows of one table."""
    if not erased.users:
        return raw
    is_theirs = F.coalesce(erased.holds(F.col(c.USER_ID)), F.lit(False))
    # In a row that could not be read, its user may be named anywhere.
    is_unreadable = F.col(PROBLEM).isNotNull() | F.col(c.USER_ID).isNull()
    names_them = F.exists(phrases(F.col(c.RAW), erased.phrase_sizes), erased.holds_phrase)
    is_erased = is_theirs | (is_unreadable & F.coalesce(names_them, F.lit(False)))
    hidden = {
        PROBLEM: F.when(is_erased, F.lit(ERASED)).otherwise(F.col(PROBLEM)),
        c.RAW: F.when(is_erased, F.lit("")).otherwise(F.col(c.RAW)),
    }
    if RAW_PARTS in raw.columns:
        hidden[RAW_PARTS] = hidden_parts(raw, is_erased)
    return raw.withColumns(hidden)


def missing_word(name: str) -> Column:
    """The id of an accepted row, as it is, where it is such a word; else null."""
    is_word = F.col(c.REASON).isNull() & F.lower(F.trim(name)).isin(*MISSING_WORDS)
    return F.when(is_word, F.col(name)).alias(name)


def with_file_sequence(raw: DataFrame, sequences: Mapping[str, int]) -> DataFrame:
    """``raw`` with ``file_sequence``: of two versions of a row the one of the file taken later stays.

    Args:
        sequences: Path -> order of taking; a file that is not here gets null and comes before all others.
    """
    if not sequences:
        return raw
    if len(sequences) == 1:  # Spark cannot plan the join of one row with what a Python function has parsed
        ((path, sequence),) = sequences.items()
        return raw.withColumn(c.FILE_SEQUENCE, F.when(F.col(c.SOURCE_FILE) == path, F.lit(sequence).cast("bigint")))
    types = f"{c.SOURCE_FILE} string, {c.FILE_SEQUENCE} bigint"
    order = raw.sparkSession.createDataFrame(list(sequences.items()), types)
    joined = raw.drop(c.FILE_SEQUENCE).join(F.broadcast(order), on=c.SOURCE_FILE, how="left")
    return joined.select(*raw.columns)


def clean(
    table: Table, raw: DataFrame, items: DataFrame | None, *, not_after: datetime, may_reassign: bool = False
) -> Cleaned:
    """The rows of ``table`` by the function of it below; ``items`` means nothing to the catalog itself."""
    if table is ITEMS:
        return clean_items(raw)
    of_table = clean_events if table is EVENTS else clean_impressions
    return of_table(raw, items, not_after=not_after, may_reassign=may_reassign)


def clean_items(raw: DataFrame, *, are_distinct: bool = False) -> Cleaned:
    """Raw items to ``schemas.ITEMS``; of several rows of one item the latest updated is kept.

    A row without that time is newer than those of earlier files, and older than a dated one of its own file. Where ids
    ``are_distinct``, no second row is looked for.
    Text loses NUL characters and invalid UTF-8 and is cut at ``MAX_TEXT_CHARS``; missing text is empty.
    """
    rules = [("missing_item_id", _is_blank(c.ITEM_ID)), (INVALID_ID, _is_hostile(c.ITEM_ID))]
    if are_distinct:
        checked = _without_internals(raw.withColumn(c.REASON, _first_broken(rules)))
    else:
        checked = _check(raw, c.ITEM_ID, rules).withColumn(_UNDATED, _undated_so_far())
        order = [F.col(name).desc_nulls_last() for name in (_UNDATED, c.UPDATED_TS, c.FILE_SEQUENCE, c.PUBLISHED_TS)]
        checked = _mark_duplicates(ITEMS, checked, order)
    columns = {
        c.TITLE: _clean_text(F.col(c.TITLE)),
        c.DESCRIPTION: _clean_text(F.col(c.DESCRIPTION)),
        c.CATEGORIES: _clean_list(F.col(c.CATEGORIES)),
        c.ATTRIBUTES: _clean_map(F.col(c.ATTRIBUTES)),
        c.IS_DELETED: F.coalesce(F.col(c.IS_DELETED), F.lit(False)),
    }
    return _split(checked, ITEMS, columns)


def text_is_cut() -> Column:
    """Whether title or description of a raw item is longer than what is kept of it."""
    lengths = [F.length(F.coalesce(F.col(name), F.lit(""))) for name in (c.TITLE, c.DESCRIPTION)]
    return F.greatest(*lengths) > MAX_TEXT_CHARS


def text_is_repaired() -> Column:
    """Whether text of a raw item loses a NUL, or has bytes that did not fit."""
    text = F.concat_ws(" ", c.TITLE, c.DESCRIPTION, c.CATEGORIES, F.map_values(c.ATTRIBUTES))
    return text.contains(_NUL) | text.contains(_REPLACED) | ~F.is_valid_utf8(text)


def clean_events(
    raw: DataFrame, items: DataFrame | None, *, not_after: datetime, may_reassign: bool = False
) -> Cleaned:
    """Raw events to ``schemas.EVENTS``.

    Args:
        raw: Events in the raw shape (precise_core/sources/raw.py).
        items: Accepted items (``schemas.ITEMS``); an event on any other item is rejected. None where the catalog is
            made of these events.
        not_after: Events later than this instant are rejected: a clock ahead of time would leak the future.
        may_reassign: A correction may give an event to another user; otherwise it is `id_of_another_user`.

    An event without an id gets the SHA-256 of what it says, so that exact duplicates collapse.
    """
    content = [F.col(name) for name in (c.USER_ID, c.ITEM_ID, c.SCENE, c.ACTION)]
    content += [F.unix_micros(c.EVENT_TS).cast("string"), F.col(c.VALUE).cast("string")]
    no_numbers = [F.lit(text).cast("double") for text in ("NaN", "Infinity", "-Infinity")]
    rules = [
        ("missing_scene", _is_blank(c.SCENE)),
        ("missing_action", _is_blank(c.ACTION)),
        *_time_rules(c.EVENT_TS, not_after),
        (INVALID_VALUE, F.col(c.VALUE).isin(*no_numbers)),
    ]
    checked = _check_log(EVENTS, raw, items, content, rules, time=c.EVENT_TS, has_owner=not may_reassign)
    return _split(checked, EVENTS, {c.EVENT_DATE: F.to_date(c.EVENT_TS)})


def clean_impressions(
    raw: DataFrame, items: DataFrame | None, *, not_after: datetime, may_reassign: bool = False
) -> Cleaned:
    """Raw impressions to ``schemas.IMPRESSIONS``; arguments as in ``clean_events``."""
    content = [F.col(c.USER_ID), F.col(c.ITEM_ID), F.unix_micros(c.IMPRESSION_TS).cast("string")]
    content += [F.col(c.LABEL).cast("string"), F.to_json(c.CONTEXT)]
    is_no_label = F.col(c.LABEL).isNull() | ~F.col(c.LABEL).isin(0, 1)
    rules = [*_time_rules(c.IMPRESSION_TS, not_after), ("invalid_label", is_no_label)]
    checked = _check_log(IMPRESSIONS, raw, items, content, rules, time=c.IMPRESSION_TS, has_owner=not may_reassign)
    return _split(checked, IMPRESSIONS, {c.CONTEXT: _clean_map(F.col(c.CONTEXT))})


def _check_log(
    table: Table,
    raw: DataFrame,
    items: DataFrame | None,
    content: Sequence[Column],
    rules: Sequence[Rule],
    *,
    time: str,
    has_owner: bool,
) -> DataFrame:
    """Rows of users and items with their reason; those without an id get one of their ``content``."""
    key = table.key[0]
    ids = [name for name in (key, c.USER_ID, c.ITEM_ID, c.SCENE, c.ACTION) if name in table.column_names]
    rules = [
        ("missing_user_id", _is_blank(c.USER_ID)),
        ("missing_item_id", _is_blank(c.ITEM_ID)),
        (INVALID_ID, F.array_contains(F.array(*map(_is_hostile, ids)), True)),
        (INVALID_ID, F.col(c.USER_ID) == c.ANYBODY),  # whose lists `recommend` makes for those without any
        *([] if items is None else [(UNKNOWN_ITEM, F.col(_IS_KNOWN).isNull())]),
        *rules,
    ]
    # NUL cannot occur in an accepted cell, so no two different rows are joined to the same text.
    text = F.concat_ws(_NUL, *[F.coalesce(cell, F.lit("")) for cell in content])
    with_id = raw.withColumn(key, F.when(_is_blank(key), F.sha2(text, 256)).otherwise(F.col(key)))
    if items is not None:
        known = items.select(c.ITEM_ID, F.lit(True).alias(_IS_KNOWN))
        with_id = with_id.join(known, on=c.ITEM_ID, how="left")
    order = [F.col(c.FILE_SEQUENCE).desc_nulls_last(), F.col(time)]
    return _mark_duplicates(table, _check(with_id, key, rules), order, has_owner=has_owner)


def _came(rows: DataFrame) -> str:
    """The column that says what came, of which the JSON of a rejected row is made, or is already."""
    return RAW_PARTS if RAW_PARTS in rows.columns else c.RAW


def _check(raw: DataFrame, key: str, rules: Sequence[Rule]) -> DataFrame:
    """Adds ``reason``, the first broken rule or null; the key then tells the rows apart of which one stays.

    It is one column, so that all that is done by key, the gate's count included, needs one exchange. The keys of
    rejected rows may all be the same null: those are spread by what came, to what no key can be.
    """
    alone = F.concat(F.lit(_NUL), F.xxhash64(_came(raw)).cast("string"))
    checked = raw.withColumn(c.REASON, _first_broken(rules))
    return checked.withColumn(key, F.when(F.col(c.REASON).isNull(), F.col(key)).otherwise(alone))


def _first_broken(rules: Sequence[Rule]) -> Column:
    return F.coalesce(F.col(PROBLEM), *[F.when(is_broken, F.lit(reason)) for reason, is_broken in rules])


def _mark_duplicates(
    table: Table, checked: DataFrame, order: Sequence[Column], *, has_owner: bool = False
) -> DataFrame:
    """Of the rows with one key that broke no rule, the first in ``order`` stays; another user's is no duplicate.

    Of rows that ``order`` does not tell apart, the smallest by what came stays, wherever it stood: a database, and a
    shuffle, give rows in any order.
    """
    is_valid = F.col(c.REASON).isNull()
    of_key = Window.partitionBy(table.key[0]).orderBy(*order, _came(checked), c.SOURCE_FILE)
    why = F.lit(DUPLICATE[table.name])
    if has_owner:
        why = F.when(F.first(c.USER_ID).over(of_key) != F.col(c.USER_ID), ID_OF_ANOTHER_USER).otherwise(why)
    is_later = is_valid & (F.row_number().over(of_key) > 1)
    return _without_internals(checked.withColumn(c.REASON, F.when(is_later, why).otherwise(F.col(c.REASON))))


def _without_internals(marked: DataFrame) -> DataFrame:
    # Only a rejected row has to show what came; without it a persisted `checked` is a fraction of the size.
    came = text_of_parts() if RAW_PARTS in marked.columns else F.col(c.RAW)
    columns = [name for name in marked.columns if name not in (_IS_KNOWN, _UNDATED, RAW_PARTS, c.RAW, PROBLEM)]
    return marked.select(*columns, F.when(F.col(c.REASON).isNotNull(), came).alias(c.RAW))


def _undated_so_far() -> Column:
    """How many acceptable rows of the item, of this file and earlier ones, do not say when they were updated.

    Each of them outdates what came before it, so that only rows with the largest count can be the newest.
    """
    of_item = Window.partitionBy(c.ITEM_ID).orderBy(c.FILE_SEQUENCE)
    return F.sum(F.col(c.UPDATED_TS).isNull().cast("int")).over(of_item)


def _split(checked: DataFrame, table: Table, columns: dict[str, Column]) -> Cleaned:
    is_valid = F.col(c.REASON).isNull()
    accepted = checked.where(is_valid)
    rejected = checked.where(~is_valid)
    return Cleaned(
        accepted=accepted.select(*[columns.get(name, F.col(name)).alias(name) for name in table.column_names]),
        rejected=rejected.select(
            F.coalesce(F.left(F.col(c.RAW), F.lit(MAX_RAW_CHARS)), F.lit("")).alias(c.RAW),
            c.REASON,
            F.coalesce(F.col(c.SOURCE_FILE), F.lit("")).alias(c.SOURCE_FILE),
        ),
        checked=checked,
    )


def _is_blank(name: str) -> Column:
    return F.coalesce(F.col(name), F.lit("")).rlike(_BLANK)


def _is_hostile(name: str) -> Column:
    """An id is kept as it is or not at all: repairing it could make two ids one."""
    column = F.col(name)
    is_broken = ~F.is_valid_utf8(column) | column.rlike(_NO_ID) | (F.length(column) > MAX_ID_CHARS)
    return F.coalesce(is_broken, F.lit(False))


def _time_rules(name: str, not_after: datetime) -> list[Rule]:
    # The epoch itself is what broken clocks and empty fields become.
    is_unset = F.col(name).isNull() | (F.unix_micros(name) <= 0)
    return [(INVALID_TIME, is_unset), ("future_time", F.col(name) > instant(not_after))]


def _clean_text(text: Column) -> Column:
    capped = F.left(F.make_valid_utf8(text), F.lit(MAX_TEXT_CHARS))
    return F.coalesce(F.replace(capped, F.lit(_NUL), F.lit("")), F.lit(""))


def _clean_list(texts: Column) -> Column:
    filled = F.filter(F.transform(texts, _clean_text), lambda text: ~text.rlike(r"^\s*$"))
    return F.coalesce(F.slice(filled, 1, MAX_CATEGORIES), F.array().cast("array<string>"))


def _clean_map(texts: Column) -> Column:
    filled = F.map_filter(texts, lambda _, text: text.isNotNull())
    cleaned = F.transform_values(filled, lambda _, text: _clean_text(text))
    return F.coalesce(cleaned, F.create_map().cast("map<string,string>"))
