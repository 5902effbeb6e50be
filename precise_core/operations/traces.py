"""Search every file of a table for users: the proof that they were erased, or where they still are."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable

from precise_core.store import store_at
from precise_core.warehouse.care import live_files
from precise_core.warehouse.erasure_list import BETWEEN, message_pattern, phrase_pattern, words_of
from precise_core.warehouse.reader import open_parquet
from schemas import columns as c

MESSAGE = "error"  # of `runs`
# window_id is task/split/user_id/number; a user_id may hold slashes itself.
WINDOW_USER = r"(?s)^[^/]*/[^/]*/(.*)/[^/]*$"
_OWN = {c.USER_ID, c.WINDOW_ID, c.RAW, MESSAGE}  # columns that name users
_KEPT_CHARS = 32  # of a text in the statistics of a table's log; a mark may follow


@dataclass
class Traces:
    """What a search found, in files of the newest version, in older ones, and in the log.

    Unreadable files, half-written by a process that was killed, count as values left. ``elsewhere`` are values in
    columns without user ids that contain the same text, such as an item of that name.
    """

    live_files: int = 0
    older_files: int = 0
    unreadable_files: int = 0
    live_values: int = 0
    older_values: int = 0
    log_entries: int = 0
    log_values: int = 0
    elsewhere: int = 0

    @property
    def left(self) -> int:
        """Values that still name a user, or may."""
        return self.live_values + self.older_values + self.log_values + self.unreadable_files


def find_traces(path: str, user_ids: Sequence[str]) -> Traces:
    """Search every Parquet file below the table's folder, of any version or none, and its log."""
    found, live = Traces(), {unquote(name) for name in live_files(path)}
    for name in (entry.name for entry in store_at(path).list()):
        if name.startswith("_delta_log") or not name.endswith(".parquet"):
            continue
        try:
            values = values_in(f"{path}/{name}", user_ids)
        except pa.ArrowException:
            found.unreadable_files += 1
            continue
        is_live = name in live
        found.live_files += is_live
        found.older_files += not is_live
        found.live_values += values["theirs"] * is_live
        found.older_values += values["theirs"] * (not is_live)
        found.elsewhere += values["elsewhere"]
    _search_log(path, user_ids, found)
    return found


def values_in(uri: str, user_ids: Sequence[str]) -> Counter[str]:
    """Values of one Parquet file that name a user (``theirs``), or have the same text for another reason."""
    found: Counter[str] = Counter()
    with open_parquet(uri) as parquet:
        names = [name for name in parquet.schema_arrow.names if _is_text(parquet.schema_arrow.field(name).type)]
        for batch in parquet.iter_batches(columns=names) if names else ():
            for name, column in zip(batch.schema.names, batch.columns, strict=True):
                is_hit = _matches(name, _texts(column), user_ids)
                found["theirs" if name in _OWN else "elsewhere"] += int(pc.sum(is_hit).as_py() or 0)
    return found


def _is_text(data_type: pa.DataType) -> bool:
    if pa.types.is_list(data_type):
        return _is_text(data_type.value_type)
    if pa.types.is_map(data_type):
        return _is_text(data_type.item_type)
    return bool(pa.types.is_string(data_type))


def _texts(column: pa.Array) -> pa.Array:
    if pa.types.is_map(column.type):
        return column.items
    return column.flatten() if pa.types.is_list(column.type) else column


def _matches(name: str, texts: pa.Array, user_ids: Sequence[str]) -> pa.Array:
    requested = pa.array(list(user_ids), pa.string())
    if name == c.USER_ID:
        return pc.is_in(texts, requested)
    if name == c.WINDOW_ID:
        return pc.is_in(pc.replace_substring_regex(texts, WINDOW_USER, r"\1"), requested)
    if name == MESSAGE:
        return pc.match_substring_regex(texts, "|".join(map(message_pattern, user_ids)))
    patterns = [phrase_pattern(user_id) for user_id in user_ids if words_of(user_id)]
    if not patterns:  # they consist of nothing but what separates values
        return pc.is_in(texts, pa.array([], pa.string()))
    return pc.match_substring_regex(texts, f"(^|{BETWEEN})({'|'.join(patterns)})($|{BETWEEN})")


def _search_log(path: str, user_ids: Sequence[str], found: Traces) -> None:
    """Entries keep the smallest and largest values of a file's columns, the first characters of them."""
    values: dict[str, list[str]] = defaultdict(list)
    store = store_at(path)
    for name in (entry.name for entry in store.list("_delta_log") if entry.name.endswith(".json")):
        if log := store.get(name):
            found.log_entries += 1
            for column, value in _bounds(log.text):
                values[column].append(value)
    actions = DeltaTable(path).get_add_actions(flatten=True)
    for column in actions.column_names:
        bound, _, name = column.partition(".")
        if bound in ("min", "max") and name in _OWN:
            values[name] += [str(value) for value in actions.column(column).to_pylist() if value is not None]
    found.log_values += sum(_named_in_log(name, texts, user_ids) for name, texts in values.items())


def _bounds(entry: str) -> Iterator[tuple[str, str]]:
    """Column and value of every bound that one entry of the log keeps of columns with user ids."""
    for line in filter(None, entry.split("\n")):
        for action in json.loads(line).values():
            stats = json.loads(action.get("stats") or "{}")
            for bound in ("minValues", "maxValues"):
                own = {name: value for name, value in stats.get(bound, {}).items() if name in _OWN}
                yield from ((name, str(value)) for name, value in own.items() if value is not None)


def _named_in_log(name: str, values: Sequence[str], user_ids: Sequence[str]) -> int:
    """How many of the values, cut as they may be, name a user."""
    if name == c.USER_ID:
        first = {user_id[:_KEPT_CHARS] for user_id in user_ids}
        return sum(value[:_KEPT_CHARS] in first for value in values)
    if name == c.WINDOW_ID:
        return sum(_is_window_of(value[:_KEPT_CHARS], user_ids) for value in values)
    texts = pa.array([_whole_words(value, name) for value in values], pa.string())
    return int(pc.sum(_matches(name, texts, user_ids)).as_py() or 0)


def _whole_words(text: str, name: str) -> str:
    """A text of the log without its last word where it was cut, which may be the beginning of another one."""
    if len(text) < _KEPT_CHARS:
        return text
    last_word = r"[^\W_]+\Z" if name == MESSAGE else rf"(?:(?!{BETWEEN})[\s\S])+\Z"
    return re.sub(last_word, "", text[:_KEPT_CHARS])


def _is_window_of(window_id: str, user_ids: Sequence[str]) -> bool:
    """Whether a window_id (task/split/user_id/number) is of a user; cut, whether it begins like one."""
    rest = "/".join(window_id.split("/")[2:])
    if len(window_id) < _KEPT_CHARS:
        return rest.rpartition("/")[0] in user_ids
    starts = [re.match(rf"{re.escape(user_id)}/\d*\Z", rest) or f"{user_id}/".startswith(rest) for user_id in user_ids]
    return rest != "" and any(starts)
