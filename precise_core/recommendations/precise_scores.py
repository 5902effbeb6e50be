"""What PRECISE knows of candidates: dot products with published vectors, and what the published indexes find.

Shapes: B users, D width, N vocabulary rows, C candidates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from precise_core.config.tasks import ALL_TASK
from precise_core.index.index import VectorIndex
from precise_core.recall.config import RecallConfig
from precise_core.recall.recall import RecalledItems, recall_u2i, recall_u2i2i
from precise_core.recommendations.batches import UserBlock
from precise_core.recommendations.history import UserEvents
from precise_core.recommendations.names import U2I, U2I2I
from precise_core.recommendations.pair_vectors import PairVectors
from precise_core.recommendations.sources import Candidates, Ranked
from precise_core.warehouse.arrow_lists import fixed_lists

VECTORS = "vectors"  # map: task -> the user's published vector


@dataclass(frozen=True)
class TaskIndex:
    """The published index of one task, and its rows by vocabulary row (-1 = not in it)."""

    index: VectorIndex
    row_of_N: np.ndarray

    @classmethod
    def of(cls, index: VectorIndex, items: int) -> TaskIndex:
        row_of_N = np.full(items, -1, np.int64)
        inside = index.item_indices_N < items
        row_of_N[index.item_indices_N[inside]] = np.flatnonzero(inside)
        return cls(index, row_of_N)

    def scores(self, vectors_BD: np.ndarray, has_vector_B: np.ndarray, candidates: Candidates) -> np.ndarray:
        """Dot products, float32 [C]; NaN where either vector is missing."""
        users_C, at_C = candidates.user_rows_C, self.row_of_N[candidates.item_rows_C]
        found_C = np.full(len(candidates), np.nan, np.float32)
        is_known = has_vector_B[users_C] & (at_C >= 0)
        left, right = vectors_BD[users_C[is_known]], self.index.vectors_ND[at_C[is_known]]
        found_C[is_known] = np.einsum("cd,cd->c", left, right)
        return found_C


class PreciseScores:
    """Sources and scores of the published model of each task."""

    def __init__(
        self,
        indexes: Mapping[str, TaskIndex],
        config: RecallConfig,
        k: Mapping[str, int],
        allowed: Mapping[str, np.ndarray],
        *,
        has_history: bool,
    ) -> None:
        self._indexes, self._config, self._k, self._has_history = indexes, config, k, has_history
        self._allowed = {task: _of_index(of.index, allowed[task]) for task, of in indexes.items()}

    def of_users(self, block: UserBlock) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """By task: vectors [B, D], zeros where there is none, and who has one."""
        maps = block.rows.column(VECTORS)
        return {task: _vectors(maps, task, of.index.width) for task, of in self._indexes.items()}

    def recalled(
        self, block: UserBlock, bits: Mapping[str, int], vectors: Mapping[str, tuple[np.ndarray, np.ndarray]]
    ) -> dict[str, dict[str, Ranked]]:
        """What the indexes find, by task and source."""
        found: dict[str, dict[str, Ranked]] = {}
        for task, of in self._indexes.items():
            vectors_BD, has_vector_B = vectors[task]
            known = np.flatnonzero(has_vector_B)
            if not len(known):
                continue
            found[task] = {}
            had, allowed_N = self._had(block, of, known), self._allowed[task]
            if self._k[U2I]:
                best = recall_u2i(of.index, vectors_BD[known], self._k[U2I], excluded=had, allowed_rows_N=allowed_N)
                found[task][U2I] = _ranked(best, of, known)
            if self._k[U2I2I]:
                newest = [rows[::-1] for rows in _rows_of_users(block.of_task(bits[task]), of, known)]
                sizes = (self._k[U2I2I], self._config)
                best = recall_u2i2i(of.index, newest, *sizes, excluded=had, allowed_rows_N=allowed_N)
                found[task][U2I2I] = _ranked(best, of, known)
        return found

    def _had(self, block: UserBlock, of: TaskIndex, users: np.ndarray) -> list[np.ndarray] | None:
        """Rows of the index that may not be found for each user: what he had, where the source `history` brings it."""
        rows = _rows_of_users(block.events, of, users) if self._has_history else None
        return rows and [np.unique(of_user) for of_user in rows]

    def scores(
        self, task: str, candidates: Candidates, vectors: Mapping[str, tuple[np.ndarray, np.ndarray]]
    ) -> np.ndarray:
        """Of the universal and of the task's vectors, float32 [C, 2]; NaN where there are none."""
        nothing = np.full(len(candidates), np.nan, np.float32)
        columns = [
            self._indexes[name].scores(*vectors[name], candidates) if name in self._indexes else nothing
            for name in (ALL_TASK, task)
        ]
        if task == ALL_TASK:
            columns[1] = nothing
        return np.stack(columns, axis=1)

    def pairs(self, candidates: Candidates, vectors: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> PairVectors | None:
        """The universal vectors of the candidates; None where none are published."""
        of = self._indexes.get(ALL_TASK)
        if of is None:
            return None
        vectors_BD, has_vector_B = vectors[ALL_TASK]
        users_C = candidates.user_rows_C
        return PairVectors(
            vectors_BD,
            of.index.vectors_ND,
            np.where(has_vector_B[users_C], users_C, -1),
            of.row_of_N[candidates.item_rows_C],
        )


def _of_index(index: VectorIndex, allowed_N: np.ndarray) -> np.ndarray:
    """The mask by row of the index; an item beyond the N known ones may not be recommended."""
    return np.append(allowed_N, False)[np.minimum(index.item_indices_N, len(allowed_N))]


def _ranked(found: RecalledItems, of: TaskIndex, users: np.ndarray) -> Ranked:
    items = of.index.item_indices_N[found.item_rows_C].astype(np.int64)
    return Ranked(users[found.user_rows_C], items, found.ranks_C.astype(np.int64))


def _rows_of_users(events: UserEvents, of: TaskIndex, users: np.ndarray) -> list[np.ndarray]:
    """Rows of the index of what each of the users had, oldest first; -1 = not in it."""
    starts = np.searchsorted(events.user_rows_E, np.arange(events.users + 1))
    rows_E = of.row_of_N[events.item_rows_E]
    return [rows_E[starts[row] : starts[row + 1]] for row in users]


def _vectors(maps: pa.MapArray, task: str, width: int) -> tuple[np.ndarray, np.ndarray]:
    offsets = maps.offsets.to_numpy()
    keys = np.asarray(maps.keys.slice(offsets[0], offsets[-1] - offsets[0]).to_pylist(), dtype=object)
    of_task = np.flatnonzero(keys == task)
    rows = np.repeat(np.arange(len(maps)), np.diff(offsets))[of_task]
    vectors_BD, has_vector_B = np.zeros((len(maps), width), np.float32), np.zeros(len(maps), bool)
    if len(rows):
        items = maps.items.take(pa.array(of_task + offsets[0]))
        vectors_BD[rows], has_vector_B[rows] = fixed_lists(items, width), True
    return vectors_BD, has_vector_B
