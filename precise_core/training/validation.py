"""Full ranking of the catalog for the held-out users, the only criterion of model selection.

U users, M truth items, V vocabulary rows, k cut.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from precise_core.feed.windows import WindowFeed
from precise_core.models.catalog import ItemCatalog
from precise_core.models.precise import Precise, fuse_distinct
from precise_core.models.times import Times
from precise_core.training.config import TargetFilter
from schemas import columns as c

NDCG = "validation_ndcg_at_50"
RECALL = "validation_recall_at_10"

_ITEMS_PER_CHUNK = 8192
_COUNTED_TARGETS = 2


@dataclass(frozen=True)
class Asking:
    """When users are asked what comes next: at one instant, or so long after the newest event of each."""

    at: int | None = None
    after_seconds: int = 0

    def of(self, event_ts_BL: torch.Tensor) -> Times:
        """Of left-padded histories."""
        newest_B = event_ts_BL[:, -1]
        asked_B = newest_B + self.after_seconds if self.at is None else torch.full_like(newest_B, self.at)
        return Times.of_histories(event_ts_BL, asked_B)


@torch.no_grad()
def validate(
    model: Precise,
    catalog: ItemCatalog,
    feed: WindowFeed,
    user_filter: TargetFilter = "all",
    asking: Asking | None = None,
    weights_D: torch.Tensor | None = None,
) -> dict[str, float]:
    """Mean NDCG@50 and recall@10 over users with at least one truth item.

    Ties are ranked as in the offline evaluation: a truth item comes after every other item of its score.

    With ``user_filter`` `new` the items of the user's window are removed from ranking and truth, so that a training
    whose targets are new items is selected by them; the offline evaluation's `new` removes the whole history.
    ``asking`` is for models that read times; ``weights_D`` are multiplied into the serving vectors of users.
    """
    was_training = model.training
    model.eval()
    e_VD = _embeddings(model, catalog)
    items_VD = torch.cat(
        [model.serving_item_vectors(e_ND) for e_ND in e_VD[: catalog.num_rows].split(_ITEMS_PER_CHUNK)]
    )
    ndcg, recall = [], []
    for read in feed.epoch(0, pinned=model.device.type == "cuda"):
        batch = read.on(model.device)
        rows_BL = batch.item_indices_BL.where(batch.item_indices_BL < len(e_VD), c.UNKNOWN_INDEX)
        times = None if asking is None else asking.of(batch.event_ts_BL)
        h_BD = model.user_embeddings(F.embedding(rows_BL, e_VD), batch.valid_mask_BL, times)
        users_BD = model.serving_user_vectors(h_BD) * (1.0 if weights_D is None else weights_D.to(h_BD.device))
        scores_BV = users_BD @ items_VD.T
        scores_BV[:, : c.FIRST_ITEM_INDEX] = float("-inf")
        truth_BM = batch.target_indices_BM
        if user_filter == "new":
            truth_BM = _without_known(scores_BV, truth_BM, batch.item_indices_BL)
        counts_B = (truth_BM != c.PADDING_INDEX).sum(dim=1)
        has_truth_B = counts_B > 0
        hits_BK = _hits(scores_BV, truth_BM, 50)[has_truth_B]
        ndcg.append(ndcg_at_k(hits_BK, counts_B[has_truth_B], 50))
        recall.append(recall_at_k(hits_BK, counts_B[has_truth_B], 10))
    model.train(was_training)
    return {NDCG: _mean(ndcg), RECALL: _mean(recall)}


def _without_known(scores_BV: torch.Tensor, truth_BM: torch.Tensor, had_BL: torch.Tensor) -> torch.Tensor:
    """The truth without what the windows hold; ``scores_BV`` of that becomes -inf in place."""
    scores_BV.scatter_(1, had_BL.where(had_BL < scores_BV.shape[1], c.PADDING_INDEX), float("-inf"))
    return truth_BM.masked_fill((truth_BM[:, :, None] == had_BL[:, None, :]).any(dim=2), c.PADDING_INDEX)


def _embeddings(model: Precise, catalog: ItemCatalog) -> torch.Tensor:
    """e_VD of every row of the catalog and of the model, in portions: what an item is fused from is larger than e."""
    chunks = torch.arange(max(catalog.num_rows, model.num_item_rows), device=model.device).split(_ITEMS_PER_CHUNK)
    return torch.cat([fuse_distinct(model, catalog, chunk)[0] for chunk in chunks])


def ndcg_at_k(hits_UK: torch.Tensor, truth_counts_U: torch.Tensor, k: int) -> torch.Tensor:
    """DCG of the first k ranks divided by that of the ideal ranking."""
    gains_K = 1.0 / torch.log2(torch.arange(k, device=hits_UK.device) + 2.0)
    found = hits_UK[:, :k].float() @ gains_K[: hits_UK.shape[1]]
    return found / gains_K.cumsum(0)[truth_counts_U.clamp(max=k) - 1]


def recall_at_k(hits_UK: torch.Tensor, truth_counts_U: torch.Tensor, k: int) -> torch.Tensor:
    """Truth items among the first k ranks, divided by min(k, number of truth items)."""
    return hits_UK[:, :k].sum(dim=1) / truth_counts_U.clamp(max=k)


def _hits(scores_BV: torch.Tensor, truth_BM: torch.Tensor, k: int) -> torch.Tensor:
    """True where the place of a list holds a truth item; truth items lose ties against others.

    A truth item's place is the number of other items that score no less plus the truth items before it, so that only
    the k best others are needed. Padding of ``truth_BM`` is 0, a row that scores -inf.
    """
    truth_scores_BM = scores_BV.gather(1, truth_BM).sort(dim=1, descending=True).values
    others_BX, K = scores_BV.scatter(1, truth_BM, float("-inf")), min(k, scores_BV.shape[1])
    if truth_BM.shape[1] > _COUNTED_TARGETS:  # comparing all with few is faster than finding the best of all
        others_BX = others_BX.topk(K).values
    # "Not below" instead of "no less": a NaN is then below nothing, so that it is never a hit.
    others_before_BM = (~(others_BX[:, None, :] < truth_scores_BM[:, :, None])).sum(dim=2)
    places_BM = others_before_BM + torch.arange(truth_BM.shape[1], device=scores_BV.device)
    # The last column takes what is beyond.
    hits = torch.zeros(len(scores_BV), K + 1, dtype=torch.bool, device=scores_BV.device)
    return hits.scatter(1, places_BM.clamp(max=K), True)[:, :K]


def _mean(parts: list[torch.Tensor]) -> float:
    values = torch.cat(parts)
    return float(values.mean()) if len(values) else 0.0
