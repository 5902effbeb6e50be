"""What is published of users, as files that are mapped: vectors, histories, lists.

U users, D width, E events of all users, L lists (by name), R rows of all lists.
"""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from precise_core.serving.keys import KeyIndex, combined, mapped_array, mapped_table, one_chunk, write_keys, write_table
from precise_core.warehouse.arrow_lists import fixed_lists
from precise_core.warehouse.reader import TableReader
from schemas import RECOMMENDATIONS, USER_EMBEDDINGS, USER_SEQUENCES
from schemas import columns as c

_VECTORS_FILE = "vectors.npy"
_OFFSETS_FILE, _ITEMS_FILE, _TIMES_FILE = "offsets.npy", "items.npy", "times.npy"
_ROWS_FILE, _ABOUT_FILE = "rows.arrow", "lists.json"
_LISTED = (c.RANK, c.ITEM_ID, c.SCORE, c.PROBABILITY, c.SOURCES, c.REASON, c.SEED_ITEM_ID, c.MODEL_VERSION)
_REPEATED = (c.ITEM_ID, c.SEED_ITEM_ID, c.MODEL_VERSION)  # few values: each is written once


class UserVectors:
    """Vectors of the users of a task, float32 [U, D]."""

    def __init__(self, folder: Path) -> None:
        self.keys, self.vectors_UD = KeyIndex(folder), mapped_array(folder / _VECTORS_FILE)

    def of(self, user_id: str) -> np.ndarray | None:
        """The vector [D] of a user; None where there is none."""
        row = self.keys.row(user_id)
        return None if row < 0 else self.vectors_UD[row]


def write_vectors(tables: TableReader, about: dict[str, Any], folder: Path) -> None:
    where = (ds.field(c.MODEL_VERSION) == about["model_version"]) & (ds.field(c.TASK) == about["task"])
    version = about["versions"][USER_EMBEDDINGS.name]
    rows = combined(tables.read(USER_EMBEDDINGS, [c.USER_ID, c.EMBEDDING], where, version))
    order_U = write_keys(folder, one_chunk(rows[c.USER_ID]))
    vectors_UD = fixed_lists(rows[c.EMBEDDING]).astype(np.float32, copy=False)
    np.save(folder / _VECTORS_FILE, vectors_UD[order_U])


class Histories:
    """Items of the users of a task, oldest first, and when they had them."""

    def __init__(self, folder: Path) -> None:
        self.keys = KeyIndex(folder)
        self._offsets_U = mapped_array(folder / _OFFSETS_FILE)
        self._items_E, self._times_E = mapped_array(folder / _ITEMS_FILE), mapped_array(folder / _TIMES_FILE)

    def items_of(self, user_id: str) -> np.ndarray:
        """Vocabulary rows; empty where the user has no history."""
        return self._items_E[self._events(user_id)]

    def times_of(self, user_id: str) -> np.ndarray:
        """Microseconds since 1970 (UTC), parallel to ``items_of``."""
        return self._times_E[self._events(user_id)]

    def _events(self, user_id: str) -> slice:
        row = self.keys.row(user_id)
        return slice(0) if row < 0 else slice(int(self._offsets_U[row]), int(self._offsets_U[row + 1]))


def write_histories(tables: TableReader, about: dict[str, Any], folder: Path) -> None:
    names, version = [c.USER_ID, c.ITEM_INDICES, c.EVENT_TS], about["versions"][USER_SEQUENCES.name]
    rows = combined(tables.read(USER_SEQUENCES, names, ds.field(c.TASK) == about["task"], version))
    order = pa.array(write_keys(folder, one_chunk(rows[c.USER_ID])))
    items, times = (pc.take(one_chunk(rows[name]), order) for name in (c.ITEM_INDICES, c.EVENT_TS))
    lengths_U = pc.list_value_length(items).to_numpy(zero_copy_only=False)
    np.save(folder / _OFFSETS_FILE, np.concatenate([[0], np.cumsum(lengths_U, dtype=np.int64)]))
    np.save(folder / _ITEMS_FILE, items.flatten().to_numpy(zero_copy_only=False).astype(np.int32))
    np.save(folder / _TIMES_FILE, times.flatten().cast(pa.int64()).to_numpy(zero_copy_only=False))


class PlacesOf(NamedTuple):
    """A list: whether it was made for the user, what ranked it, and its first places."""

    is_own: bool
    model_version: str | None
    places: list[dict[str, Any]]


class Lists:
    """The lists of a task.

    Attributes:
        names: Those of `recommendations.lists` that anybody has.
        model_versions: All that ranked one of them.
    """

    def __init__(self, folder: Path) -> None:
        rows = mapped_table(folder / _ROWS_FILE)
        self.keys, self._rows = KeyIndex(folder), rows.drop([c.MODEL_VERSION])
        self._versions = one_chunk(rows[c.MODEL_VERSION])  # one for all places of a list
        self._offsets_LU = mapped_array(folder / _OFFSETS_FILE)
        about = json.loads((folder / _ABOUT_FILE).read_text(encoding="utf-8"))
        self.names: list[str] = about["names"]
        self.model_versions: list[str] = about["model_versions"]
        self.as_of = datetime.fromisoformat(about["as_of"])

    def of(self, user_id: str, name: str, k: int) -> PlacesOf:
        """The first k places of one of ``names``: of a user who has any of them, else of anybody; may be empty."""
        is_own = self.keys.row(user_id) >= 0
        found = self._slice(user_id if is_own else c.ANYBODY, name)
        if found is None:
            return PlacesOf(is_own, None, [])
        start, places = found
        rows = self._rows.slice(start, min(places, k)).to_pylist()
        return PlacesOf(is_own, self._versions[start].as_py(), rows)

    def _slice(self, user_id: str, name: str) -> tuple[int, int] | None:
        row, at = self.keys.row(user_id), self.names.index(name)
        if row < 0:
            return None
        start, end = (int(place) for place in self._offsets_LU[at, row : row + 2])
        return (start, end - start) if end > start else None


def write_lists(tables: TableReader, about: dict[str, Any], folder: Path) -> None:
    names, version = [c.USER_ID, c.LIST, c.AS_OF, *_LISTED], about["versions"][RECOMMENDATIONS.name]
    rows = combined(tables.read(RECOMMENDATIONS, names, ds.field(c.TASK) == about["task"], version))
    users = pc.unique(rows[c.USER_ID])
    ordered = users.take(pa.array(write_keys(folder, users)))
    lists = pa.array(sorted(pc.unique(rows[c.LIST]).to_pylist()), pa.large_string())
    user_rows_R, list_rows_R = (
        pc.index_in(rows[name], value_set=values).to_numpy().astype(np.int64)
        for name, values in ((c.USER_ID, ordered), (c.LIST, lists))
    )
    places_R = list_rows_R * len(users) + user_rows_R
    order_R = np.lexsort((rows[c.RANK].to_numpy(), places_R))
    starts = np.searchsorted(places_R[order_R], np.arange(len(lists) * len(users) + 1))
    at_LU = np.arange(len(lists))[:, None] * len(users) + np.arange(len(users) + 1)[None, :]
    np.save(folder / _OFFSETS_FILE, starts[at_LU])
    listed = rows.select(_LISTED).take(pa.array(order_R))
    for name in _REPEATED:
        at = listed.schema.get_field_index(name)
        listed = listed.set_column(at, name, listed[name].dictionary_encode())
    write_table(folder / _ROWS_FILE, listed)
    versions = sorted(pc.unique(rows[c.MODEL_VERSION]).to_pylist())
    state = {"names": lists.to_pylist(), "model_versions": versions, "as_of": pc.max(rows[c.AS_OF]).as_py().isoformat()}
    (folder / _ABOUT_FILE).write_text(json.dumps(state), encoding="utf-8")
