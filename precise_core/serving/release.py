"""One publication, opened: everything that an answer is made of. It never changes; the next one is another object.

D width, P pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TypeVar, cast

import numpy as np

from precise_core.artefacts import INDEXES
from precise_core.index.engine import exact_scores, threads_of_faiss
from precise_core.index.index import VectorIndex
from precise_core.recall.config import RecallConfig
from precise_core.recall.recall import RecalledItems
from precise_core.recall.searcher import Searcher
from precise_core.serving.item_parts import Catalog, Popularity
from precise_core.serving.plan import Part, Plan, PublishedTask
from precise_core.serving.served import Served
from precise_core.serving.user_parts import Histories, Lists, UserVectors
from precise_core.store import Place, below, copy_of
from schemas import columns as c

_Opened = TypeVar("_Opened")


@dataclass(frozen=True)
class Found:
    """An item, what it was ranked by, and the item of the user that it was found by."""

    item_id: str
    score: float
    seed_item_id: str | None = None


class ServedTask:
    """The published vectors of a task: pairs, similar items, and recall by the code of the job `recall`."""

    def __init__(
        self,
        published: PublishedTask,
        index: VectorIndex,
        users: UserVectors,
        histories: tuple[Histories, Histories],
        items: tuple[Catalog, Popularity],
        config: RecallConfig,
    ) -> None:
        self.published, self.index, self.users, self.config = published, index, users, config
        self._histories, self._everywhere = histories
        self._catalog, popularity = items
        excluded = np.union1d(self._catalog.deleted_indices, popularity.foreign_indices(published.task))
        self._searcher = Searcher(index, excluded, config)
        self._popular = popularity.ranked(published.task, excluded)

    @property
    def model_version(self) -> str:
        return self.published.model_version

    @property
    def as_of(self) -> datetime:
        return self.published.as_of

    def item_row(self, item_id: str) -> int:
        """Row of the index; -1 where the item has no published vector or is deleted."""
        index = self._catalog.item_index(item_id)
        return -1 if index < 0 else int(self._searcher.rows(np.array([index]))[0])

    def item_vector(self, item_id: str) -> np.ndarray | None:
        row = self.item_row(item_id)
        return None if row < 0 else self.index.vectors_ND[row]

    def scores(self, pairs: Iterable[Sequence[str]]) -> list[float | None]:
        """Dot product of each pair of user and item, as in `pair_scores`; None where one has no vector."""
        found = [(self.users.of(user_id), self.item_row(item_id)) for user_id, item_id in pairs]
        there = [(vector, row) for vector, row in found if vector is not None and row >= 0]
        if not there:
            return [None] * len(found)
        vectors_PD = np.ascontiguousarray([vector for vector, _ in there], np.float32)
        rows_P1 = np.array([[row] for _, row in there], np.int64)
        products = iter(exact_scores(vectors_PD, self.index.vectors_ND, rows_P1)[:, 0].tolist())
        return [None if vector is None or row < 0 else next(products) for vector, row in found]

    def similar(self, vector_D: np.ndarray, k: int, own_row: int = -1) -> list[Found]:
        """The items nearest to a vector that may be shown in the task, without the one at ``own_row``."""
        with threads_of_faiss(1):  # requests are answered side by side
            found = self._searcher.u2i(vector_D[None], [np.array([own_row])], k)
        return self._named(found)

    def recall(self, user_id: str, source: str, k: int, *, filter_seen: bool) -> tuple[str, list[Found]]:
        """The source and its candidates: `u2i` or `u2i2i`; what is popular for a user without a vector."""
        vector = self.users.of(user_id)
        everywhere = self._everywhere.items_of(user_id)
        if vector is None:
            return c.POPULAR, self._most_popular(everywhere if filter_seen else everywhere[:0], k)
        recent = self._searcher.recent([self._histories.items_of(user_id)])
        had = self._searcher.had(recent, [everywhere]) if filter_seen else None
        with threads_of_faiss(1):
            if source == c.U2I:
                return source, self._named(self._searcher.u2i(vector[None], had, k))
            return source, self._named(self._searcher.u2i2i(recent, had, k))

    def warm(self) -> None:
        """Touch every vector once and search once, so that the first request finds all of it in memory."""
        self.users.vectors_UD[:, :1].sum()  # all of them would keep a core from answering for a third of a second a GB
        if len(self.users.keys):
            self.similar(np.asarray(self.users.vectors_UD[0]), 1)

    def _most_popular(self, had: np.ndarray, k: int) -> list[Found]:
        if not self.config.popular:
            return []
        indices, counts = self._popular
        chosen = np.flatnonzero(~np.isin(indices[: k + len(had)], had))[:k]
        ids = self._catalog.item_ids(indices[chosen])
        return [Found(item_id, float(count)) for item_id, count in zip(ids, counts[chosen], strict=True)]

    def _named(self, found: RecalledItems) -> list[Found]:
        ids = self.index.item_ids
        rows = zip(found.item_rows_C.tolist(), found.scores_C.tolist(), found.seed_rows_C.tolist(), strict=True)
        return [Found(ids[row], score, ids[seed] if seed >= 0 else None) for row, score, seed in rows]


@dataclass(frozen=True)
class Release:
    """A plan, opened.

    Attributes:
        everywhere: Histories of all users, of all tasks.
        opened: What of it is mapped, by name of its part or index: the next release takes over what is the same.
    """

    plan: Plan
    tasks: dict[str, ServedTask]
    lists: dict[str, Lists]
    everywhere: Histories
    catalog: Catalog
    opened: dict[str, object]

    @property
    def name(self) -> str:
        return self.plan.name

    @classmethod
    def open(cls, served: Served, plan: Plan, previous: Release | None) -> Release:
        """Map what ``prepare`` has made and verified, and warm it."""
        opener = _Opener(served.root, previous.opened if previous else {})
        catalog, everywhere = opener.part(Catalog, plan.catalog), opener.part(Histories, plan.everywhere)
        tasks = {}
        for task, published in plan.tasks.items():
            tasks[task] = ServedTask(
                published,
                opener.index(published),
                opener.part(UserVectors, published.vectors),
                (opener.part(Histories, published.histories), everywhere),
                (catalog, opener.part(Popularity, published.popularity)),
                served.recall,
            )
            tasks[task].warm()
        lists = {task: opener.part(Lists, part) for task, part in plan.lists.items()}
        return cls(plan, tasks, lists, everywhere, catalog, opener.opened)


class _Opener:
    """Opens each part and index once, and takes over what the previous release has open."""

    def __init__(self, warehouse: Place, previous: dict[str, object]) -> None:
        self._warehouse, self._previous = warehouse, previous
        self.opened: dict[str, object] = {}

    def part(self, kind: Callable[[Path], _Opened], part: Part) -> _Opened:
        return self._once(part.name, lambda: kind(part.folder(self._warehouse)))

    def index(self, published: PublishedTask) -> VectorIndex:
        folder = copy_of(below(self._warehouse, INDEXES, published.index_version))
        return self._once(folder.name, lambda: VectorIndex.open(folder, published.model_version, is_verified=True))

    def _once(self, name: str, opened: Callable[[], _Opened]) -> _Opened:
        if name not in self.opened:
            self.opened[name] = self._previous[name] if name in self._previous else opened()
        return cast(_Opened, self.opened[name])
