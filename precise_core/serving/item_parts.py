"""What is published of items, as files that are mapped: names, which are deleted, how often each was taken.

N rows of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from precise_core.config.tasks import ALL_TASK
from precise_core.serving.keys import KeyIndex, combined, mapped_array, mapped_table, one_chunk, write_keys, write_table
from precise_core.warehouse.reader import TableReader
from schemas import EVENTS, ITEM_VOCABULARY, ITEMS
from schemas import columns as c

_ITEMS_FILE, _ORDER_FILE, _COUNTS_FILE = "items.arrow", "order.npy", "counts.arrow"
_RECENT, _TOTAL = "recent", "total"


class Catalog:
    """Id, title and fate of every item of the vocabulary."""

    def __init__(self, folder: Path) -> None:
        rows = mapped_table(folder / _ITEMS_FILE)
        self._keys, self._order_N = KeyIndex(folder), mapped_array(folder / _ORDER_FILE)
        self._ids, self._titles = one_chunk(rows[c.ITEM_ID]), one_chunk(rows[c.TITLE])
        self._indices_N = rows[c.ITEM_INDEX].to_numpy()
        self._is_deleted_N = rows[c.IS_DELETED].to_numpy()
        self.deleted_indices = self._indices_N[self._is_deleted_N]

    def item_ids(self, indices: np.ndarray) -> list[str]:
        """Ids of vocabulary rows."""
        return self._ids.take(pa.array(np.searchsorted(self._indices_N, indices))).to_pylist()

    def item_index(self, item_id: str) -> int:
        """Vocabulary row of an item; -1 where there is none or it is deleted."""
        row = self._row(item_id)
        return -1 if row < 0 or self._is_deleted_N[row] else int(self._indices_N[row])

    def title(self, item_id: str) -> str:
        """Its title; its id where it has none."""
        row = self._row(item_id)
        return (self._titles[row].as_py() if row >= 0 else "") or item_id

    def _row(self, item_id: str) -> int:
        place = self._keys.row(item_id)
        return -1 if place < 0 else int(self._order_N[place])


def write_catalog(tables: TableReader, about: dict[str, Any], folder: Path) -> None:
    words = tables.read(ITEM_VOCABULARY, [c.ITEM_ID, c.ITEM_INDEX], version=about["versions"][ITEM_VOCABULARY.name])
    words = combined(words.sort_by(c.ITEM_INDEX))
    items = combined(tables.read(ITEMS, [c.ITEM_ID, c.TITLE, c.IS_DELETED], version=about["versions"][ITEMS.name]))
    at = pc.index_in(words[c.ITEM_ID], value_set=one_chunk(items[c.ITEM_ID]))
    named = words.append_column(c.TITLE, pc.fill_null(items[c.TITLE].take(at), ""))
    named = named.append_column(c.IS_DELETED, pc.fill_null(items[c.IS_DELETED].take(at), False))
    np.save(folder / _ORDER_FILE, write_keys(folder, one_chunk(words[c.ITEM_ID])))
    write_table(folder / _ITEMS_FILE, named)


class Popularity:
    """How often each item was taken in each task before an instant: the rules of `precise_core.recall.popular`."""

    def __init__(self, folder: Path) -> None:
        counts = mapped_table(folder / _COUNTS_FILE).to_pandas()
        self._nothing = counts.head(0)
        self._by_task = dict(list(counts.groupby(c.TASK)))

    def foreign_indices(self, task: str) -> np.ndarray:
        """Vocabulary rows of items that had events, but none of the task."""
        known = self._of(ALL_TASK)[c.ITEM_INDEX].to_numpy()
        return np.setdiff1d(known, self._of(task)[c.ITEM_INDEX].to_numpy())

    def ranked(self, task: str, excluded_indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Vocabulary rows that may be shown and their recent events, the most popular first."""
        rows = self._of(task)
        rows = rows[~rows[c.ITEM_INDEX].isin(excluded_indices)]
        return rows[c.ITEM_INDEX].to_numpy(), rows[_RECENT].to_numpy()

    def _of(self, task: str) -> pd.DataFrame:
        return self._by_task.get(task, self._nothing)


def write_popularity(tables: TableReader, about: dict[str, Any], folder: Path) -> None:
    """Count the events before `as_of` once for all tasks, and those of the newest days once more."""
    as_of, keys = datetime.fromisoformat(about["as_of"]), [c.ITEM_ID, c.SCENE, c.ACTION]
    is_known = ds.field(c.EVENT_TS) < pa.scalar(as_of, pa.timestamp("us", "UTC"))
    since = pa.scalar(as_of - timedelta(days=about["days"]), pa.timestamp("us", "UTC"))
    total = tables.counts(EVENTS, keys, is_known).set_index(keys)["rows"].rename(_TOTAL)
    recent = tables.counts(EVENTS, keys, is_known & (ds.field(c.EVENT_TS) >= since)).set_index(keys)["rows"]
    events = total.to_frame().join(recent.rename(_RECENT)).fillna(0).reset_index()
    words = tables.read(
        ITEM_VOCABULARY, [c.ITEM_ID, c.ITEM_INDEX], version=about["versions"][ITEM_VOCABULARY.name]
    ).to_pandas()
    parts = [_of_task(events, words, task, rule) for task, rule in {ALL_TASK: {}, **about["tasks"]}.items()]
    write_table(folder / _COUNTS_FILE, pa.Table.from_pandas(pd.concat(parts), preserve_index=False))


def _of_task(events: pd.DataFrame, words: pd.DataFrame, task: str, rule: Mapping[str, str | None]) -> pd.DataFrame:
    mine = events
    for column in (c.SCENE, c.ACTION):
        if rule.get(column) is not None:
            mine = mine[mine[column] == rule[column]]
    counted = mine.groupby(c.ITEM_ID, as_index=False)[[_RECENT, _TOTAL]].sum().merge(words, on=c.ITEM_ID)
    ranked = counted.sort_values([_RECENT, _TOTAL, c.ITEM_ID], ascending=[False, False, True])
    return ranked[[c.ITEM_INDEX, _RECENT]].assign(**{c.TASK: task})
