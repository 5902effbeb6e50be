"""The rules of recall over one index: who may be recalled, seeds, what a user had; the same for the job and the server.

N rows of the index, U users.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from precise_core.index.index import VectorIndex
from precise_core.recall.config import RecallConfig
from precise_core.recall.recall import RecalledItems, recall_u2i, recall_u2i2i


class Searcher:
    """U2I and U2I2I over one index for users as the tables have them: a vector, and vocabulary rows, oldest first.

    Args:
        excluded_indices: Vocabulary rows that nobody may get.
    """

    def __init__(self, index: VectorIndex, excluded_indices: np.ndarray, config: RecallConfig) -> None:
        self.index, self.config = index, config
        self._row_of = np.full(int(index.item_indices_N.max(initial=1)) + 1, -1, np.int64)
        self._row_of[index.item_indices_N] = np.arange(len(index))
        self.allowed_N = ~np.isin(index.item_indices_N, excluded_indices)

    def recent(self, histories: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Rows of the index, newest first, -1 for an item that the index lacks."""
        return [self.rows(items[::-1]) for items in histories]

    def had(self, recent: Sequence[np.ndarray], everywhere: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The items each user had, of the task and of all; both lists are cut by number, not by time."""
        return [np.concatenate([self.rows(items), own]) for items, own in zip(everywhere, recent, strict=True)]

    def u2i(self, vectors_UD: np.ndarray, excluded: Sequence[np.ndarray] | None, k: int) -> RecalledItems:
        return recall_u2i(self.index, vectors_UD, k, excluded=excluded, allowed_rows_N=self.allowed_N)

    def u2i2i(self, recent: Sequence[np.ndarray], excluded: Sequence[np.ndarray] | None, k: int) -> RecalledItems:
        return recall_u2i2i(self.index, recent, k, self.config, excluded=excluded, allowed_rows_N=self.allowed_N)

    def rows(self, item_indices: np.ndarray) -> np.ndarray:
        """Rows of the index of vocabulary rows, -1 where it lacks one."""
        last = len(self._row_of) - 1
        return np.where(item_indices <= last, self._row_of[np.minimum(item_indices, last)], -1)
