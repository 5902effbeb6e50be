"""Losses over scores: sampled softmax (eq. 5) and BPR (eq. 6). None of them knows a model or a sampler.

P positions, M positives of a position, C candidates, E examples.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from precise_core.objectives.candidate_scores import negative_and_positive_scores
from precise_core.objectives.negatives import Candidates, Hits


def candidate_softmax(
    logits_PC: torch.Tensor,
    candidates: Candidates,
    targets_PM: torch.Tensor,
    target_mask_PM: torch.Tensor,
    hidden: Hits,
    target_logits_PM: torch.Tensor | None = None,
) -> torch.Tensor:
    """Mean of -log( exp(s_i) / (exp(s_i) + Σ_{j in N} exp(s_j)) ) over the positives i of all positions (eq. 5).

    The paper prints logs where the exponentials belong. What is right for a position does not compete, whether it was
    drawn as a target or not. With every other item a negative this is the full softmax.

    Args:
        logits_PC: Scores of the candidates.
        candidates: What was drawn.
        targets_PM: Items; masked entries repeat another target of their row.
        target_mask_PM: True = a real target.
        hidden: The candidates that are no negatives of a position, its targets among them.
        target_logits_PM: Scores of the targets; None where all of them are candidates.
    """
    negative_P, positive_PM = negative_and_positive_scores(logits_PC, candidates, hidden, targets_PM)
    if target_logits_PM is not None:
        positive_PM = target_logits_PM
    loss_PM = F.softplus(negative_P[:, None] - positive_PM)
    return loss_PM[target_mask_PM].mean()


def bpr_user(scores_EE: torch.Tensor, allowed_EE: torch.Tensor) -> torch.Tensor | None:
    """Mean of -log σ(h_u · e_u - h_u' · e_u) over the allowed other users u' of every item (eq. 6).

    The paper prints the difference without σ, whose logarithm is not defined where the difference is negative.

    Args:
        scores_EE: Row: target item of example e; column: user of example e'.
        allowed_EE: True = the column's user may serve as a negative, because the item is not in its window.

    Returns:
        None where no pair is allowed.
    """
    return _bpr(scores_EE.diagonal(), scores_EE, allowed_EE)


def bpr_item(positive_E: torch.Tensor, scores_EC: torch.Tensor, allowed_EC: torch.Tensor) -> torch.Tensor | None:
    """Mean of -log σ(h_u · e_i - h_u · e_j) over the allowed other items j of every user; None where there are none."""
    return _bpr(positive_E, scores_EC, allowed_EC)


def _bpr(positive_E: torch.Tensor, scores_EX: torch.Tensor, allowed_EX: torch.Tensor) -> torch.Tensor | None:
    if not allowed_EX.any():
        return None
    return -F.logsigmoid(positive_E[:, None] - scores_EX)[allowed_EX].mean()
