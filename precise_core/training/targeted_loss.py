"""The loss of Targeted Training (section IV-D, eq. 6): BPR over (history, next item) examples, or a softmax.

B windows, L positions, E examples, C candidates, V vocabulary rows, D width.
"""

from __future__ import annotations

import torch

from precise_core.feed.windows import SequenceBatch
from precise_core.models.catalog import ItemCatalog
from precise_core.models.precise import Precise, fuse_distinct
from precise_core.objectives.losses import bpr_item, bpr_user, candidate_softmax
from precise_core.objectives.negatives import Candidates, CandidateSampler, Hits
from precise_core.objectives.targets import CutExamples, draw_cuts
from precise_core.training.config import TargetedConfig
from precise_core.training.loop import BatchLoss, LossFunction
from precise_core.training.universal_loss import balance_penalty, without_alike


def targeted_loss(
    model: Precise,
    catalog: ItemCatalog,
    config: TargetedConfig,
    task_frequencies_V: torch.Tensor,
    is_trained_V: torch.Tensor,
) -> LossFunction:
    """The configured loss over (history, next item) examples cut from a batch of windows."""
    on = model.device
    sampler = CandidateSampler(config.negatives, task_frequencies_V.to(on), is_trained_V.to(on))

    def loss(batch: SequenceBatch, generator: torch.Generator) -> BatchLoss | None:
        examples = draw_cuts(
            batch.item_indices_BL,
            batch.event_ts_BL,
            batch.valid_mask_BL,
            config.cuts_per_window,
            generator,
            config.horizon_seconds,
            config.target_filter == "new",
        )
        if not len(examples.targets_E):
            return None
        candidates = sampler.draw(examples.targets_E, generator)
        e_ELD, e_CD = fuse_distinct(model, catalog, examples.item_indices_EL, candidates.item_indices_C)
        logits_EC = model.logits(model.user_embeddings(e_ELD, examples.valid_mask_EL, examples.times), e_CD)
        columns_E = candidates.columns(examples.targets_E)
        right = examples.right.whole_windows() if config.negatives.hide_own_items else examples.right
        hidden = candidates.hits(right)
        if config.negatives.alike_above is not None:
            hidden = without_alike(model, hidden, e_CD[columns_E][:, None], e_CD, config.negatives.alike_above)
        parts = _parts(config, logits_EC, columns_E, candidates, examples, hidden)
        return BatchLoss(torch.stack(parts).sum() + balance_penalty(model), len(columns_E)) if parts else None

    return loss


def _parts(
    config: TargetedConfig,
    logits_EC: torch.Tensor,
    columns_E: torch.Tensor,
    candidates: Candidates,
    examples: CutExamples,
    hidden: Hits,
) -> list[torch.Tensor]:
    """The terms of the loss; one without any negative is left out. ``hidden``: candidates that are no negatives."""
    if config.loss == "softmax":
        mask_E1 = torch.ones_like(columns_E[:, None], dtype=torch.bool)
        return [candidate_softmax(logits_EC, candidates, examples.targets_E[:, None], mask_E1, hidden)]
    terms: list[torch.Tensor | None] = []
    if config.loss in ("bpr_user", "both"):
        scores_EE = logits_EC[:, columns_E].T
        terms.append(bpr_user(scores_EE, users_without_item(examples)))
    if config.loss in ("bpr_item", "both"):
        scores_EC = candidates.corrected(logits_EC)
        allowed_EC = torch.ones_like(scores_EC, dtype=torch.bool)
        allowed_EC[hidden] = False
        if candidates.is_negative_C is not None:
            allowed_EC = allowed_EC & candidates.is_negative_C
        terms.append(bpr_item(scores_EC.gather(1, columns_E[:, None])[:, 0], scores_EC, allowed_EC))
    return [term for term in terms if term is not None]


def users_without_item(examples: CutExamples) -> torch.Tensor:
    """E x E: True = the column's whole window, the part after its cut included, does not hold the row's target.

    Examples of one window are thereby never negatives of each other.
    """
    has_EB = (examples.targets_E[:, None, None] == examples.right.item_indices_BL).any(dim=2)
    return ~has_EB[:, examples.rows_E]
