"""Look into every file of a table for users: the proof that they are gone, and where they are not yet."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import DeltaTable

from precise_core.spark.care import live_files
from precise_core.spark.erase import WINDOW_USER
from schemas import columns as c

_BETWEEN = r"""[\s"',:;|{}\[\]\\]"""


@dataclass
class Traces:
    """What a search found, in files that the newest version consists of, in older ones, and in the log.

    Unreadable files, half-written by a process that was killed, are nobody's proof and count as something left.

    ``elsewhere`` are values in columns that hold no user ids but contain the same text, such as an item of that name.
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

    def as_dict(self) -> dict[str, int]:
        return asdict(self)


def find_traces(path: str, user_ids: Sequence[str]) -> Traces:
    """Read every Parquet file below the table's folder, whichever version it belongs to or none, and its log.

    Args:
        path: The table's folder.
        user_ids: Whom to look for.
    """
    found, live = Traces(), {unquote(name) for name in live_files(path)}
    for file in sorted(Path(path).rglob("*.parquet")):
        name = file.relative_to(path).as_posix()
        if name.startswith("_delta_log"):
            continue
        try:
            values = values_in(file, user_ids)
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


def values_in(file: Path, user_ids: Sequence[str]) -> Counter[str]:
    """Values of one Parquet file that name a user (``theirs``), or have the same text for another reason."""
    found: Counter[str] = Counter()
    parquet = pq.ParquetFile(file)
    names = [name for name in parquet.schema_arrow.names if _is_text(parquet.schema_arrow.field(name).type)]
    for batch in parquet.iter_batches(columns=names) if names else ():
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            is_hit = _matches(name, _texts(column), user_ids)
            found["theirs" if name in _OWN else "elsewhere"] += int(pc.sum(is_hit).as_py() or 0)
    return found


_OWN = {c.USER_ID, c.WINDOW_ID, c.RAW}


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
    wanted = pa.array(list(user_ids), pa.string())
    if name == c.USER_ID:
        return pc.is_in(texts, wanted)
    if name == c.WINDOW_ID:
        return pc.is_in(pc.replace_substring_regex(texts, WINDOW_USER, r"\1"), wanted)
    ids = "|".join(map(re.escape, user_ids))
    return pc.match_substring_regex(texts, rf"(^|{_BETWEEN}|/)({ids})($|{_BETWEEN}|/)")


def _search_log(path: str, user_ids: Sequence[str], found: Traces) -> None:
    """Entries keep the smallest and largest values of a file's columns; 32 characters of them."""
    ids = "|".join(sorted({re.escape(user_id[:32]) for user_id in user_ids}))
    quoted = re.compile(
        rf'(?:{c.USER_ID}|{c.WINDOW_ID}|{c.RAW})\\*":\\*"(?:[^"]*{_BETWEEN}|[^"]*/)?(?:{ids})(?:\\*"|{_BETWEEN}|/)'
    )
    for file in sorted((Path(path) / "_delta_log").glob("*.json")):
        found.log_entries += 1
        found.log_values += len(quoted.findall(file.read_text(encoding="utf-8")))
    actions = DeltaTable(path).get_add_actions(flatten=True)
    for name in actions.column_names:
        bound, _, column = name.partition(".")
        if bound in ("min", "max") and column in _OWN:
            values = pa.array(
                [str(value) for value in actions.column(name).to_pylist() if value is not None], pa.string()
            )
            found.log_values += int(
                pc.sum(_matches(column, values, [user_id[:32] for user_id in user_ids])).as_py() or 0
            )
