"""The universal vectors of candidates' users and items: injection 1 of Fig. 7.

Shapes: C candidates, U users, I items, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


@dataclass(frozen=True)
class PairVectors:
    """Vectors of U users and I items, and which of them each candidate has; row -1 = none."""

    users_UD: np.ndarray
    items_ID: np.ndarray
    user_rows_C: np.ndarray
    item_rows_C: np.ndarray

    @property
    def width(self) -> int:
        return int(self.users_UD.shape[1])

    def where(self, chosen: np.ndarray | slice) -> PairVectors:
        """Of some candidates: a mask, their rows, or a slice."""
        return PairVectors(self.users_UD, self.items_ID, self.user_rows_C[chosen], self.item_rows_C[chosen])

    def beside(self) -> tuple[np.ndarray, np.ndarray]:
        """User vector beside item vector, float32 [C, 2D], zeros where there is none; and which are there [C, 2]."""
        of_users, of_items = _taken(self.users_UD, self.user_rows_C), _taken(self.items_ID, self.item_rows_C)
        there = np.stack([self.user_rows_C >= 0, self.item_rows_C >= 0], axis=1)
        return np.concatenate([of_users, of_items], axis=1), there.astype(np.float32)


def _taken(vectors: np.ndarray, rows_C: np.ndarray) -> np.ndarray:
    found = np.zeros((len(rows_C), vectors.shape[1]), np.float32)
    found[rows_C >= 0] = vectors[rows_C[rows_C >= 0]]
    return found


@dataclass(frozen=True)
class UniversalVectors:
    """Vectors by id, as they were published: U users, I items."""

    user_ids: pa.Array
    users_UD: np.ndarray
    item_ids: pa.Array
    items_ID: np.ndarray

    def of(self, user_ids: pa.ChunkedArray, item_ids: pa.ChunkedArray) -> PairVectors:
        """Of candidates, by the ids of their users and items."""
        return PairVectors(
            self.users_UD, self.items_ID, _places(user_ids, self.user_ids), _places(item_ids, self.item_ids)
        )


def _places(ids: pa.ChunkedArray, known: pa.Array) -> np.ndarray:
    return pc.fill_null(pc.index_in(ids, value_set=known), -1).to_numpy().astype(np.int64)
