"""What is published of a task, as it is sent to a store: its users' or its items' vectors, in batches.

B vectors of a batch, D width.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds

from precise_core.artefacts import INDEXES
from precise_core.consume.publications import published_now
from precise_core.errors import CheckpointError, HistoryGoneError
from precise_core.index.index import VectorIndex
from precise_core.store import Place, below, fetched
from precise_core.store.sums import read_sums
from precise_core.warehouse.arrow_lists import fixed_lists
from precise_core.warehouse.reader import TableReader
from schemas import ITEMS, USER_EMBEDDINGS
from schemas import columns as c

USERS, ITEMS_KIND = "users", "items"
Batch = tuple[Sequence[str], np.ndarray]


@dataclass(frozen=True)
class VectorSet(ABC):
    """Vectors of one checkpoint.

    Attributes:
        kind: `users` or `items`.
        digest: The same for the same content, as far as it can be told without reading all of it.
        width: D.
        version: Of the table that they are in; None where they are in an index.
    """

    task: str
    kind: str
    model_version: str
    as_of: datetime
    digest: str
    width: int
    version: int | None

    @property
    def name(self) -> str:
        return f"{self.task}:{self.kind}"

    @property
    @abstractmethod
    def rows(self) -> int: ...

    @abstractmethod
    def batches(self, rows: int) -> Iterator[Batch]:
        """Ids [B] and vectors [B, D], little-endian float32; at most ``rows`` at a time, in the same order always."""

    @abstractmethod
    def ids(self, rows: int) -> Iterator[Sequence[str]]:
        """The ids of ``batches``, without reading vectors."""


@dataclass(frozen=True)
class UserSet(VectorSet):
    """Users' vectors in the published version of their table, a batch at a time in memory."""

    tables: TableReader

    @cached_property
    def rows(self) -> int:
        with self._files_there():
            return int(self._dataset.count_rows(filter=self._where))

    def batches(self, rows: int) -> Iterator[Batch]:
        for batch in self._scan([c.USER_ID, c.EMBEDDING], rows):
            yield batch[c.USER_ID].to_pylist(), fixed_lists(batch[c.EMBEDDING]).astype("<f4", copy=False)

    def ids(self, rows: int) -> Iterator[Sequence[str]]:
        for batch in self._scan([c.USER_ID], rows):
            yield batch[c.USER_ID].to_pylist()

    def _scan(self, columns: list[str], rows: int) -> Iterator[pa.RecordBatch]:
        with self._files_there():
            scanner = self._dataset.scanner(
                columns=columns, filter=self._where, batch_size=rows, batch_readahead=2, fragment_readahead=1
            )
            yield from (batch for batch in scanner.to_batches() if batch.num_rows)

    @contextmanager
    def _files_there(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise HistoryGoneError(
                f"table {USER_EMBEDDINGS.name}: files of version {self.version} are gone; run jobs/publish_models.py"
            ) from error

    @cached_property
    def _dataset(self) -> ds.Dataset:
        return self.tables.snapshot(USER_EMBEDDINGS, self.version).dataset(USER_EMBEDDINGS)

    @property
    def _where(self) -> ds.Expression:
        return (ds.field(c.MODEL_VERSION) == self.model_version) & (ds.field(c.TASK) == self.task)


@dataclass(frozen=True)
class ItemSet(VectorSet):
    """Items' vectors of the published index, which stay in its mapped file; without items deleted since."""

    index: VectorIndex
    kept_rows: np.ndarray

    @property
    def rows(self) -> int:
        return len(self.kept_rows)

    def batches(self, rows: int) -> Iterator[Batch]:
        for start in range(0, self.rows, rows):
            chosen = self.kept_rows[start : start + rows]
            yield self._named(chosen), np.ascontiguousarray(self.index.vectors_ND[chosen], "<f4")

    def ids(self, rows: int) -> Iterator[Sequence[str]]:
        for start in range(0, self.rows, rows):
            yield self._named(self.kept_rows[start : start + rows])

    def _named(self, places: np.ndarray) -> list[str]:
        return [self.index.item_ids[place] for place in places.tolist()]


def published_sets(warehouse: Place, named: Sequence[str] | None = None) -> list[VectorSet]:
    """Users' and items' vectors of each published task, or of the ``named`` ones.

    Raises:
        CheckpointError: Nothing is published, or not for a named task; an index is missing or was changed.
        HistoryGoneError: Published vectors cannot be read any more.
    """
    published, tables = published_now(warehouse), TableReader(warehouse)
    if unknown := sorted(set(named or published or ["any task"]) - set(published)):
        raise CheckpointError(
            f"no model is published for {', '.join(unknown)}, only for {', '.join(sorted(published)) or '(none)'}; "
            "run jobs/publish_models.py first"
        )
    gone = _deleted(tables)
    sets: list[VectorSet] = []
    for task in sorted(named or published):
        items = _items(warehouse, published[task], gone)
        sets += [_users(tables, published[task], items.width), items]
    return sets


def _users(tables: TableReader, row: dict[str, Any], width: int) -> UserSet:
    task, model_version = row[c.TASK], row[c.MODEL_VERSION]
    version = row["table_versions"][USER_EMBEDDINGS.name]
    files = tables.snapshot(USER_EMBEDDINGS, version).files({c.MODEL_VERSION: model_version})
    names = [Path(file).name for file in files]
    digest = _digest([USERS, task, model_version, names])
    return UserSet(task, USERS, model_version, row[c.AS_OF], digest, width, version, tables)


def _items(warehouse: Place, row: dict[str, Any], gone: set[str]) -> ItemSet:
    task, model_version = row[c.TASK], row[c.MODEL_VERSION]
    folder = fetched(below(warehouse, INDEXES, row[c.INDEX_VERSION]))
    index = VectorIndex.open(folder, model_version)
    kept = np.array([place for place, item_id in enumerate(index.item_ids) if item_id not in gone], np.int64)
    left_out = sorted(gone.intersection(index.item_ids))
    digest = _digest([ITEMS_KIND, task, model_version, sorted(read_sums(folder).items()), left_out])
    return ItemSet(task, ITEMS_KIND, model_version, row[c.AS_OF], digest, index.width, None, index, kept)


def _deleted(tables: TableReader) -> set[str]:
    return set(tables.read(ITEMS, [c.ITEM_ID], ds.field(c.IS_DELETED))[c.ITEM_ID].to_pylist())


def _digest(described: Any) -> str:
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]
