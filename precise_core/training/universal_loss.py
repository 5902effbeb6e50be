"""The losses of Universal Training (section IV-C, eq. 5): next-item prediction, and BERT4Rec's masked items.

B windows, L positions, P loss positions, M targets of a position, C candidates, D width.
"""

from __future__ import annotations

import torch

from precise_core.errors import NothingToLearnError
from precise_core.feed.windows import SequenceBatch
from precise_core.models.catalog import ItemCatalog
from precise_core.models.precise import Precise, fuse_distinct
from precise_core.models.times import Times
from precise_core.objectives.losses import candidate_softmax
from precise_core.objectives.negatives import CandidateSampler, Hits, with_alike
from precise_core.objectives.targets import RightItems, future_targets, mask_items, same_instant
from precise_core.training import collectives as distribution
from precise_core.training.config import UniversalConfig
from precise_core.training.loop import BatchLoss, LossFunction
from precise_core.training.row_groups import groups_of_like_length, states_by_groups


def universal_loss(
    model: Precise,
    catalog: ItemCatalog,
    config: UniversalConfig,
    frequencies_V: torch.Tensor,
    is_trained_V: torch.Tensor | None = None,
) -> LossFunction:
    """The loss of ``model.config.prediction``.

    On several ranks the candidates are drawn from the targets of all of them, so that a batch has the negatives it
    would have in one process.

    Args:
        frequencies_V: How often each item occurs in the windows that are learnt, tonight's alone on a continued night.
        is_trained_V: Items that uniform draws choose from, those of earlier nights among them; None = those that occur.
    """
    if not frequencies_V.any():
        raise NothingToLearnError("the train windows hold no item of the vocabulary: nothing to learn from")
    frequencies_V = frequencies_V.to(model.device)
    is_drawable_V = None if is_trained_V is None else is_trained_V.to(model.device)
    sampler = CandidateSampler(config.negatives, frequencies_V, is_drawable_V)
    prior_V = config.logit_adjustment * torch.log1p(frequencies_V.float()) if config.logit_adjustment else None

    def next_item(batch: SequenceBatch, generator: torch.Generator) -> BatchLoss | None:
        """The last position of every instant predicts items of the next instant, or of all within the horizon."""
        shared = _shared_by_ranks(generator)
        found = future_targets(
            batch.item_indices_BL,
            batch.event_ts_BL,
            batch.valid_mask_BL,
            config.targets_per_position,
            generator,
            config.horizon_seconds,
            config.target_filter == "new",
        )
        return predict(
            (found.item_indices_BL, found.valid_mask_BL, None, found.times),
            (found.rows_P, found.positions_P),
            (found.targets_PM, found.target_mask_PM, found.right),
            shared,
        )

    def masked_item(batch: SequenceBatch, generator: torch.Generator) -> BatchLoss | None:
        """Masked positions predict the item that was there."""
        shared = _shared_by_ranks(generator)
        found = mask_items(batch.item_indices_BL, batch.valid_mask_BL, config.mask_share, generator)
        rows_P, positions_P = found.nonzero(as_tuple=True)
        targets_P1 = batch.item_indices_BL[found][:, None]
        right = same_instant(batch.item_indices_BL, batch.event_ts_BL, rows_P, positions_P)
        return predict(
            (batch.item_indices_BL, batch.valid_mask_BL, found, Times(batch.event_ts_BL, batch.event_ts_BL)),
            (rows_P, positions_P),
            (targets_P1, torch.ones_like(targets_P1, dtype=torch.bool), right),
            shared,
        )

    def predict(
        inputs: tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, Times],
        places: tuple[torch.Tensor, torch.Tensor],
        targets: tuple[torch.Tensor, torch.Tensor, RightItems],
        shared: torch.Generator,
    ) -> BatchLoss | None:
        items_BL, valid_BL, masked_BL, times = inputs
        (rows_P, positions_P), (targets_PM, mask_PM, right) = places, targets
        drawn_from = distribution.gather_rows(targets_PM[mask_PM])
        if not len(rows_P):
            return None
        candidates = sampler.draw(drawn_from, shared, with_targets=False)
        own = [] if sampler.holds_targets else [targets_PM]
        groups = groups_of_like_length(valid_BL)
        e_CD, *e_parts = fuse_distinct(
            model, catalog, candidates.item_indices_C, *own, *(group.of(items_BL) for group in groups)
        )
        e_PMD = e_parts.pop(0) if own else None
        h_PD = states_by_groups(model, groups, e_parts, valid_BL, masked_BL, times, rows_P, positions_P)
        logits = model.logits_of_parts(h_PD, e_CD)
        own_logits: list[torch.Tensor | None] = [None] * len(logits)
        if e_PMD is not None:
            own_logits = [*model.pair_logits_of_parts(h_PD, e_PMD)]
        drawn = [candidates] * len(logits)
        if prior_V is not None:  # on the text half, which is the last, or on the whole score
            drawn[-1], own_PM = candidates.with_prior(prior_V), own_logits[-1]
            own_logits[-1] = None if own_PM is None else own_PM + prior_V[targets_PM]
        hidden = candidates.hits(right.whole_windows() if config.negatives.hide_own_items else right)
        if config.negatives.alike_above is not None:
            own_PMD = e_CD[candidates.columns(targets_PM)] if e_PMD is None else e_PMD
            hidden = without_alike(model, hidden, own_PMD, e_CD, config.negatives.alike_above)
        nlls = [
            candidate_softmax(logits_PC, of_part, targets_PM, mask_PM, hidden, own_PM)
            for logits_PC, of_part, own_PM in zip(logits, drawn, own_logits, strict=True)
        ]
        return BatchLoss(torch.stack(nlls).sum() + balance_penalty(model), weight=int(mask_PM.sum()))

    return masked_item if model.config.prediction == "masked_item" else next_item


@torch.no_grad()
def without_alike(
    model: Precise, hidden: Hits, targets_PMD: torch.Tensor, candidates_CD: torch.Tensor, cosine: float
) -> Hits:
    """What is hidden of the candidates, and those that are nearly the same as a target of the position.

    Args:
        targets_PMD, candidates_CD: Fused items; their serving vectors are compared.
    """
    return with_alike(
        hidden, model.serving_item_vectors(targets_PMD), model.serving_item_vectors(candidates_CD), cosine
    )


def _shared_by_ranks(generator: torch.Generator) -> torch.Generator:
    """A generator for what all ranks draw alike, taken before each of them draws for windows of its own."""
    return torch.Generator().manual_seed(int(torch.randint(2**62, (1,), generator=generator)))


def balance_penalty(model: Precise) -> torch.Tensor | float:
    """The experts' load-balancing loss of the last forward pass, weighted; 0 without experts."""
    balance = model.fusion.balance_loss()
    return 0.0 if balance is None else model.config.fusion.balance_weight * balance
