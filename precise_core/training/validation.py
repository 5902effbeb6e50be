"""Full ranking of the catalog for the held-out users; model selection looks at this and at nothing else.

U users, M truth items, V vocabulary rows, k cut.
"""

from __future__ import annotations

import torch

from precise_core.feed.windows import WindowFeed
from precise_core.models.catalog import FIRST_ITEM, ItemCatalog
from precise_core.models.precise import Precise, fuse_distinct

NDCG = "validation_ndcg_at_50"
RECALL = "validation_recall_at_10"

_ITEMS_PER_CHUNK = 8192


@torch.no_grad()
def validate(model: Precise, catalog: ItemCatalog, feed: WindowFeed) -> dict[str, float]:
    """Mean NDCG@50 and recall@10 over users with at least one truth item; nothing is filtered from the ranking."""
    was_training = model.training
    model.eval()
    items_VD = catalog_vectors(model, catalog)
    ndcg, recall = [], []
    for batch in feed.epoch(0):
        e_BLD = fuse_distinct(model, catalog, batch.item_indices_BL)[0]
        users_BD = model.serving_user_vectors(model.user_embeddings(e_BLD, batch.valid_mask_BL))
        scores_BV = users_BD @ items_VD.T
        scores_BV[:, :FIRST_ITEM] = float("-inf")
        has_truth_B = batch.target_counts_B > 0
        hits_BK = _hits(scores_BV, batch.target_indices_BM, 50)[has_truth_B]
        ndcg.append(ndcg_at_k(hits_BK, batch.target_counts_B[has_truth_B], 50))
        recall.append(recall_at_k(hits_BK, batch.target_counts_B[has_truth_B], 10))
    model.train(was_training)
    return {NDCG: _mean(ndcg), RECALL: _mean(recall)}


def catalog_vectors(model: Precise, catalog: ItemCatalog) -> torch.Tensor:
    """Serving vectors of every vocabulary row, in portions that fit memory."""
    chunks = torch.arange(catalog.num_rows).split(_ITEMS_PER_CHUNK)
    return torch.cat([model.serving_item_vectors(fuse_distinct(model, catalog, chunk)[0]) for chunk in chunks])


def ndcg_at_k(hits_UK: torch.Tensor, truth_counts_U: torch.Tensor, k: int) -> torch.Tensor:
    """DCG of the first k ranks divided by that of the ideal ranking."""
    gains_K = 1.0 / torch.log2(torch.arange(k) + 2.0)
    found = hits_UK[:, :k].float() @ gains_K[: hits_UK.shape[1]]
    return found / gains_K.cumsum(0)[truth_counts_U.clamp(max=k) - 1]


def recall_at_k(hits_UK: torch.Tensor, truth_counts_U: torch.Tensor, k: int) -> torch.Tensor:
    """Truth items among the first k ranks, divided by min(k, number of truth items)."""
    return hits_UK[:, :k].sum(dim=1) / truth_counts_U.clamp(max=k)


def _hits(scores_BV: torch.Tensor, truth_BM: torch.Tensor, k: int) -> torch.Tensor:
    """True where the item at a rank is in the truth; equal scores are ordered by item_index."""
    top = scores_BV.topk(min(k, scores_BV.shape[1]))
    by_index = top.indices.argsort(dim=1, stable=True)
    by_score = top.values.gather(1, by_index).argsort(dim=1, descending=True, stable=True)
    ranked_BK = top.indices.gather(1, by_index).gather(1, by_score)
    return (ranked_BK[:, :, None] == truth_BM[:, None, :]).any(dim=2)


def _mean(parts: list[torch.Tensor]) -> float:
    values = torch.cat(parts)
    return float(values.mean()) if len(values) else 0.0
