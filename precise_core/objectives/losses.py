"""Losses over scores: sampled softmax (eq. 5) and BPR (eq. 6). None of them knows a model or a sampler.

P positions, M positives of a position, C candidates, E examples.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F


def sampled_softmax(
    logits_PC: torch.Tensor,
    positive_columns_PM: torch.Tensor,
    positive_mask_PM: torch.Tensor,
    log_q_C: torch.Tensor,
    is_negative_C: torch.Tensor,
) -> torch.Tensor:
    """Mean of -log( exp(s_i) / (exp(s_i) + Σ_{j in N} exp(s_j)) ) over the positives i of all positions (eq. 5).

    s = logit - log q for every candidate. N leaves out all positives of the position (accidental hits), so a
    position's positives do not compete. The paper prints logs where the exponentials belong. With every item a
    candidate and log q = 0 this is the full softmax. Masked entries must repeat another positive of their row.
    """
    s_PC = logits_PC - log_q_C
    positive_s_PM = s_PC.gather(1, positive_columns_PM)
    hidden_PC = torch.zeros_like(s_PC, dtype=torch.bool).scatter(1, positive_columns_PM, True) | ~is_negative_C
    negatives_P = s_PC.masked_fill(hidden_PC, float("-inf")).logsumexp(dim=1)
    loss_PM = torch.logaddexp(positive_s_PM, negatives_P[:, None]) - positive_s_PM
    return loss_PM[positive_mask_PM].mean()


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
