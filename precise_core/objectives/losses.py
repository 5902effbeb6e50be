"""Losses over scores: sampled softmax (eq. 5) and BPR (eq. 6). None of them knows a model or a sampler.

P positions, M positives of a position, C candidates, E examples.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from precise_core.objectives.negatives import Candidates, Hits

# The score of a candidate that is no negative: a row of nothing else has a finite logarithm, and no gradient.
HIDDEN = torch.finfo(torch.float32).min
_CHUNK = 2**18  # numbers that are worked on together: a megabyte stays in the cache of a core


def candidate_softmax(
    logits_PC: torch.Tensor,
    candidates: Candidates,
    targets_PM: torch.Tensor,
    target_mask_PM: torch.Tensor,
    hidden: Hits,
    target_logits_PM: torch.Tensor | None = None,
) -> torch.Tensor:
    """Mean of -log( exp(s_i) / (exp(s_i) + Σ_{j in N} exp(s_j)) ) over the positives i of all positions (eq. 5).

    The paper prints logs where the exponentials belong. An item that is right for a position is never its negative,
    whether it was drawn as a target or not. With every other item a negative this is the full softmax.

    Args:
        targets_PM: Items; masked entries repeat another target of their row.
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


def negative_and_positive_scores(
    logits_PC: torch.Tensor, candidates: Candidates, hidden: Hits, positives_PM: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """log Σ_j exp(s_j) over the negatives of each position, P, and s of its positives, P x M; s = logit - log q.

    In float32 also where the logits come from autocast. Written as one function with a gradient of its own, because
    each of the steps (correct, hide, exponentiate, add up) would otherwise read and write a matrix of its own.

    Args:
        hidden: The candidates that are no negatives of a position, its positives among them.
        positives_PM: Items; of one that is no candidate the score is that of some other one.
    """
    scores: tuple[torch.Tensor, torch.Tensor] = _Scores.apply(
        logits_PC, candidates.log_q_C, candidates.is_negative_C, *hidden, candidates.columns(positives_PM)
    )
    return scores


class _Scores(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        logits_PC: torch.Tensor,
        log_q_C: torch.Tensor | None,
        is_negative_C: torch.Tensor | None,
        rows: torch.Tensor,
        columns: torch.Tensor,
        positives_PM: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        positive_PM = logits_PC.gather(1, positives_PM).float()
        if log_q_C is not None:
            positive_PM = positive_PM - log_q_C[positives_PM]
        share_PC = torch.empty_like(logits_PC, dtype=torch.float32, memory_format=torch.contiguous_format)
        largest_P, total_P = share_PC.new_empty(len(share_PC)), share_PC.new_empty(len(share_PC))
        chunk = _positions_at_once(logits_PC)
        starts = torch.arange(0, len(share_PC) + chunk, chunk, device=rows.device)
        first_hit = torch.searchsorted(rows, starts).tolist()
        for number, start in enumerate(range(0, len(share_PC), chunk)):
            part = slice(start, start + chunk)
            s, hits = share_PC[part], slice(first_hit[number], first_hit[number + 1])
            torch.sub(logits_PC[part], 0.0 if log_q_C is None else log_q_C, out=s)
            if is_negative_C is not None:
                s.masked_fill_(~is_negative_C, HIDDEN)
            s[rows[hits] - start, columns[hits]] = HIDDEN
            largest_P[part] = s.amax(dim=1)
            torch.sum(s.sub_(largest_P[part, None]).exp_(), dim=1, out=total_P[part])
        ctx.share_PC, ctx.total_P, ctx.positives_PM = share_PC, total_P, positives_PM
        return largest_P + total_P.log(), positive_PM

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        negative_P, positive_PM = gradients
        gradient_PC = ctx.share_PC.mul_((negative_P / ctx.total_P)[:, None])
        gradient_PC.scatter_add_(1, ctx.positives_PM, positive_PM)
        del ctx.share_PC  # it has become the gradient: there is no second one
        return gradient_PC, None, None, None, None, None


def _positions_at_once(logits_PC: torch.Tensor) -> int:
    """As many as stay in the cache of a core; all of them on a GPU, where every part is a handful of launches."""
    if logits_PC.device.type == "cuda":
        return max(1, logits_PC.shape[0])
    return max(1, _CHUNK // max(1, logits_PC.shape[1]))
