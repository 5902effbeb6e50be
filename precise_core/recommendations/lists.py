"""Rows of `candidate_features` as lists: a list is what may be recommended to one user in one task.

Shapes: C candidates of all lists together, L lists, G features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from precise_core.errors import SchemaError
from precise_core.recall.numbering import numbered
from precise_core.recommendations.names import U2I, U2I2I
from precise_core.recommendations.pair_vectors import PairVectors, UniversalVectors
from schemas import columns as c
from schemas.recommendations import FEATURE_NAMES

PRECISE_SCORES = ("precise_universal", "precise_targeted")
OF_THE_MODEL = tuple(f"rank_{source}" for source in (U2I, U2I2I))  # features that need a published model
_RANKS = tuple(name for name in FEATURE_NAMES if name.startswith("rank_"))
REPEATS = {"allow": None, "exclude": False, "only": True}


@dataclass(frozen=True)
class CandidateLists:
    """Candidates ordered by list and item; the arrays are parallel.

    Attributes:
        starts: Where each list begins, and the end of the last, int64 [L + 1].
        users, tasks: Of each list [L].
        features_CG: float32, columns as ``FEATURE_NAMES``.
        precise_C2: float32 scores of the universal and of the task's vectors, NaN where there are none.
        labels_C: float32, 1 = taken.
        is_repeat_C: The user had the item.
        pairs: The universal vectors of the candidates; None where there are none.
    """

    starts: np.ndarray
    users: np.ndarray
    tasks: np.ndarray
    features_CG: np.ndarray
    precise_C2: np.ndarray
    labels_C: np.ndarray
    is_repeat_C: np.ndarray
    pairs: PairVectors | None = None

    def __len__(self) -> int:
        return len(self.users)

    @property
    def list_rows_C(self) -> np.ndarray:
        return np.repeat(np.arange(len(self)), np.diff(self.starts))

    @property
    def by_model_alone_C(self) -> np.ndarray:
        """Mask of the candidates that no source but PRECISE's found."""
        others = [FEATURE_NAMES.index(name) for name in _RANKS if name not in OF_THE_MODEL]
        return ~(self.features_CG[:, others] > 0).any(axis=1)

    @classmethod
    def from_arrow(
        cls, rows: pa.Table, vectors: UniversalVectors | None = None, split: str | None = None
    ) -> CandidateLists:
        """Rows of `candidate_features`, in any order; with ``split`` those of it alone.

        Column by column: beside ``rows`` and what is returned there is no copy of all of them.
        """
        needed = (c.USER_ID, c.TASK, c.ITEM_ID, c.LABEL, c.IS_REPEAT, *PRECISE_SCORES, *FEATURE_NAMES)
        if missing := [name for name in needed if name not in rows.column_names]:
            raise SchemaError(f"candidates: missing columns {missing}")
        order = pc.sort_indices(rows, [(name, "ascending") for name in (c.TASK, c.USER_ID, c.ITEM_ID)])
        if split is not None:
            order = order.filter(pc.equal(rows[c.SPLIT], split).combine_chunks().take(order))
        tasks_C, users_C = (rows[name].take(order).to_numpy() for name in (c.TASK, c.USER_ID))
        is_first = np.ones(len(users_C), bool)
        is_first[1:] = (users_C[1:] != users_C[:-1]) | (tasks_C[1:] != tasks_C[:-1])
        first = np.flatnonzero(is_first)
        return cls(
            starts=np.append(first, len(users_C)),
            users=users_C[first],
            tasks=tasks_C[first],
            features_CG=_matrix(rows, FEATURE_NAMES, order),
            precise_C2=_matrix(rows, PRECISE_SCORES, order),
            labels_C=_matrix(rows, [c.LABEL], order)[:, 0],
            is_repeat_C=np.asarray(rows[c.IS_REPEAT].take(order).to_numpy(), bool),
            pairs=vectors.of(*(rows[name].take(order) for name in (c.USER_ID, c.ITEM_ID))) if vectors else None,
        )

    def where(self, mask_L: np.ndarray) -> CandidateLists:
        """Some of the lists; these themselves where it is all of them."""
        if mask_L.all():
            return self
        chosen_C = mask_L[self.list_rows_C]
        lengths = np.diff(self.starts)[mask_L]
        rows = {
            name: getattr(self, name)[chosen_C] for name in ("features_CG", "precise_C2", "labels_C", "is_repeat_C")
        }
        pairs = self.pairs.where(chosen_C) if self.pairs else None
        starts = np.append(0, np.cumsum(lengths))
        return CandidateLists(starts, self.users[mask_L], self.tasks[mask_L], **rows, pairs=pairs)

    def has_positive(self, repeat: bool | None = None) -> np.ndarray:
        """Mask [L] of the lists of which something was taken: anything, new items, or repeats."""
        return self._positives(repeat) > 0

    def ndcg(self, scores_C: np.ndarray, k: int, repeat: bool | None = None) -> np.ndarray:
        """NDCG@k of each list with a positive, of all candidates, of new ones alone (False) or of repeats (True).

        The ideal knows what is among the candidates: good for comparing orders of one set of them. Ties by item.
        """
        is_in_C = np.ones(len(scores_C), bool) if repeat is None else self.is_repeat_C == repeat
        rows = np.flatnonzero(is_in_C)
        lists = self.list_rows_C[rows]
        order = np.lexsort((np.arange(len(rows)), -scores_C[rows], lists))
        rows, lists = rows[order], lists[order]
        places = numbered(lists) - 1
        gains = np.where(places < k, self.labels_C[rows] / np.log2(places + 2), 0)
        ideal = np.cumsum(1 / np.log2(np.arange(k) + 2))
        positives_L = self._positives(repeat)
        has_positive = positives_L > 0
        best = ideal[np.minimum(positives_L[has_positive].astype(np.int64), k) - 1]
        return np.bincount(lists, gains, len(self))[has_positive] / best

    def _positives(self, repeat: bool | None) -> np.ndarray:
        counted = self.labels_C if repeat is None else self.labels_C * (self.is_repeat_C == repeat)
        return np.bincount(self.list_rows_C, counted, len(self))


def _matrix(rows: pa.Table, names: Sequence[str], order: pa.Array) -> np.ndarray:
    matrix = np.empty((len(order), len(names)), np.float32)
    for place, name in enumerate(names):
        values = rows[name].cast(pa.float32()).take(order)
        matrix[:, place] = pc.fill_null(values, float("nan")).to_numpy()
    return matrix
