"""Systems that are evaluated: scorers made of vectors, and lists of recalled candidates.

U users, N vocabulary rows, B users with a vector, M items with a vector, D width, K places of a list, C candidates.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from precise_core.errors import ModelError
from precise_core.evaluation.questions import OfflineEvaluation
from precise_core.evaluation.references import Scorer
from precise_core.models.catalog import ItemCatalog
from precise_core.training.checkpoint import Checkpoint
from precise_core.vectors.encoding import HistoryTimes, encode_catalog, encode_users
from precise_core.warehouse.arrow_lists import fixed_lists
from schemas import columns as c


class EmbeddingScorer:
    """Dot product of user and item vectors of one checkpoint.

    ``has_user_U`` and ``has_item_N`` mask the rows with a vector, all where None: other rows are ignored. An item
    without one is never ranked, users without one get the scores of ``fallback`` (cold users: the most popular items).
    """

    def __init__(
        self,
        user_vectors_UD: np.ndarray,
        item_vectors_ND: np.ndarray,
        *,
        has_user_U: np.ndarray | None = None,
        has_item_N: np.ndarray | None = None,
        fallback: Scorer | None = None,
    ) -> None:
        self._users = np.asarray(user_vectors_UD, np.float32)
        self._items = np.asarray(item_vectors_ND, np.float32)
        self._has_user = np.ones(len(self._users), bool) if has_user_U is None else np.asarray(has_user_U)
        self._has_item = np.ones(len(self._items), bool) if has_item_N is None else np.asarray(has_item_N)
        self._fallback = fallback

    def item_vectors(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the items that have a vector, and the vectors."""
        rows = np.flatnonzero(self._has_item)
        return rows, self._items[rows]

    def reweighted(self, weights_D: np.ndarray) -> EmbeddingScorer:
        """The same system with each number of the users' vectors times ``weights_D``; the fallback stays."""
        masks = {"has_user_U": self._has_user, "has_item_N": self._has_item}
        return EmbeddingScorer(self._users * weights_D, self._items, **masks, fallback=self._fallback)

    def scores(self, user_rows_B: np.ndarray) -> np.ndarray:
        """float32 [B, N]."""
        warm = self._has_user[user_rows_B]
        if self._fallback is None and not warm.all():
            raise ModelError(f"{int((~warm).sum())} users have no vector and there is no fallback for them")
        block = np.empty((len(user_rows_B), len(self._items)), np.float32)
        block[warm] = self._users[user_rows_B[warm]] @ self._items.T
        block[np.ix_(warm, ~self._has_item)] = -np.inf
        if self._fallback is not None and not warm.all():
            block[~warm] = self._fallback.scores(user_rows_B[~warm])
        return block


def vector_system(
    evaluation: OfflineEvaluation,
    item_rows_M: np.ndarray,
    items_MD: np.ndarray,
    user_rows_B: np.ndarray,
    users_BD: np.ndarray,
    fallback: Scorer | None,
) -> EmbeddingScorer:
    """A system of vectors for some rows of items and users; the other users get the scores of ``fallback``."""
    width, users, items = items_MD.shape[1], len(evaluation.user_ids), evaluation.num_rows
    items_ND, has_item_N = np.zeros((items, width), np.float32), np.zeros(items, bool)
    items_ND[item_rows_M], has_item_N[item_rows_M] = items_MD, True
    users_UD, has_user_U = np.zeros((users, width), np.float32), np.zeros(users, bool)
    users_UD[user_rows_B], has_user_U[user_rows_B] = users_BD, True
    return EmbeddingScorer(users_UD, items_ND, has_user_U=has_user_U, has_item_N=has_item_N, fallback=fallback)


def published_system(
    evaluation: OfflineEvaluation, items: pa.Table, users: pa.Table, width: int, fallback: Scorer
) -> EmbeddingScorer:
    """A system of published vectors: rows of `item_embeddings` and `user_embeddings`."""
    user_rows, is_known = evaluation.user_rows(users[c.USER_ID])
    items_MD, users_BD = (
        fixed_lists(table[c.EMBEDDING].combine_chunks(), width).astype(np.float32) for table in (items, users)
    )
    item_rows = items[c.ITEM_INDEX].to_numpy()
    return vector_system(evaluation, item_rows, items_MD, user_rows[is_known], users_BD[is_known], fallback)


def encoded_system(
    evaluation: OfflineEvaluation,
    checkpoint: Checkpoint,
    catalog: ItemCatalog,
    task: str,
    fallback: Scorer,
    target_of: str | None = None,
) -> EmbeddingScorer:
    """A system without stored vectors: it encodes the catalog, and the users' known events of ``task``.

    ``target_of``: a model that reads times is asked when the truth of this task happened, not at `as_of`.
    """
    model, rows = checkpoint.load_model(), np.arange(c.FIRST_ITEM_INDEX, catalog.num_rows)
    items_MD = encode_catalog(model, catalog, rows)
    user_rows, histories, seconds = evaluation.histories(task)
    times = HistoryTimes(seconds, evaluation.asked(user_rows, seconds, target_of))
    users_BD = encode_users(model, catalog, histories, checkpoint.manifest.model.encoder.max_length, times=times)
    return vector_system(evaluation, rows, items_MD, user_rows, users_BD, fallback)


def recalled_lists(evaluation: OfflineEvaluation, candidates: pa.Table, k: int) -> dict[str, np.ndarray]:
    """By source: item rows [U, k] for every user row, best first, -1 = nothing. The fallback is no source."""
    user_rows_C, is_known_C = evaluation.user_rows(candidates[c.USER_ID])
    items_C = evaluation.item_rows(candidates[c.ITEM_ID])
    sources_C = np.array(candidates[c.SOURCE].to_pylist())
    ranks_C = candidates[c.RANK].to_numpy()
    found = {}
    for source in sorted(set(sources_C) - {c.POPULAR}):
        chosen_C = (sources_C == source) & is_known_C & (ranks_C <= k)
        found[source] = np.full((len(evaluation.user_ids), k), -1, np.int64)
        found[source][user_rows_C[chosen_C], ranks_C[chosen_C] - 1] = items_C[chosen_C]
    return found
