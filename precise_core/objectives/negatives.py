"""Candidates of a sampled softmax: the batch's own targets and uniform draws, with their sampling probability.

V vocabulary rows, J items that can be drawn, C candidates, P positions with M targets each, D width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F

from precise_core.objectives.config import NegativesConfig
from precise_core.objectives.targets import RightItems

Hits = tuple[torch.Tensor, torch.Tensor]  # positions, ascending, and columns of candidates; a pair may come twice


@dataclass(frozen=True)
class Candidates:
    """Distinct items that the positions of a batch are scored against.

    Attributes:
        item_indices_C: int64, sorted.
        log_q_C: Log of the probability that the item became a candidate; None where nothing is corrected.
        is_negative_C: False = there only because it is someone's target, never anyone's negative; None = all are.
    """

    item_indices_C: torch.Tensor
    log_q_C: torch.Tensor | None = None
    is_negative_C: torch.Tensor | None = None

    def columns(self, item_indices: torch.Tensor) -> torch.Tensor:
        """Column of each item; for one that is not among the candidates, some column."""
        return torch.searchsorted(self.item_indices_C, item_indices).clamp(max=len(self.item_indices_C) - 1)

    def corrected(self, logits_PC: torch.Tensor) -> torch.Tensor:
        """s = logit - log q, in float32 also where the logits come from autocast."""
        logits_PC = logits_PC.float()
        return logits_PC if self.log_q_C is None else logits_PC - self.log_q_C

    def with_prior(self, prior_V: torch.Tensor) -> Candidates:
        """The same items with ``prior_V`` added to their scores by ``corrected``; C numbers instead of P x C."""
        prior_C = prior_V[self.item_indices_C]
        return replace(self, log_q_C=-prior_C if self.log_q_C is None else self.log_q_C - prior_C)

    def hits(self, right: RightItems) -> Hits:
        """Where the right items of each position are among the candidates (accidental hits)."""
        # Each window is looked up once, however many positions need parts of it.
        items_BL = right.item_indices_BL
        columns_BL = self.columns(items_BL)
        column_BL = torch.where(self.item_indices_C[columns_BL] == items_BL, columns_BL, -1)
        first_P = right.rows_P * items_BL.shape[1] + right.start_P
        ends_P = right.size_P.cumsum(0)
        rows = torch.repeat_interleave(right.size_P)
        events = torch.arange(len(rows), device=rows.device) + (first_P - ends_P + right.size_P)[rows]
        columns = column_BL.flatten()[events]
        is_hit = (columns >= 0).nonzero()[:, 0]
        return rows[is_hit], columns[is_hit]


def with_alike(hits: Hits, target_vectors_PMD: torch.Tensor, vectors_CD: torch.Tensor, cosine: float) -> Hits:
    """``hits`` and, for each position, the candidates whose cosine with one of its M targets is above ``cosine``."""
    units_CD = F.normalize(vectors_CD.float(), dim=-1)
    with torch.autocast(vectors_CD.device.type, enabled=False):  # in bf16 a cosine of .99 may be 1
        is_alike_PMC = F.normalize(target_vectors_PMD.float(), dim=-1) @ units_CD.T > cosine
    rows, columns = is_alike_PMC.any(dim=1).nonzero(as_tuple=True)
    rows, columns = torch.cat([hits[0], rows]), torch.cat([hits[1], columns])
    order = rows.argsort(stable=True)
    return rows[order], columns[order]


class CandidateSampler:
    """Draws candidates for each batch, on the device of ``frequencies_V``; the generator's is the CPU.

    Args:
        frequencies_V: How often each item occurs in the events that targets are taken from, int64.
        is_drawable_V: Items that uniform draws choose from; None = those with a frequency above 0. A targeted task
            draws from every trained item: it must learn to rank its own items above those of other scenes.
    """

    def __init__(
        self, config: NegativesConfig, frequencies_V: torch.Tensor, is_drawable_V: torch.Tensor | None = None
    ) -> None:
        self.config = config
        self.drawable_J = (frequencies_V > 0 if is_drawable_V is None else is_drawable_V).nonzero()[:, 0]
        self._share_V = frequencies_V.double() / frequencies_V.sum().clamp(min=1)

    @property
    def holds_targets(self) -> bool:
        """Whether targets are always candidates: where they are not, their scores are a dot product each."""
        return self.config.in_batch or self.config.whole_catalog

    def draw(self, targets: torch.Tensor, generator: torch.Generator, with_targets: bool = True) -> Candidates:
        """Candidates for a batch whose positives are ``targets`` (any shape, repetitions count as draws).

        ``with_targets``: every target is among the candidates, also where targets are nobody's negatives.
        """
        if self.config.whole_catalog:
            return Candidates(torch.unique(torch.cat([self.drawable_J, targets.reshape(-1)])))
        picks_N = torch.randint(len(self.drawable_J), (self.config.uniform,), generator=generator)
        uniform_N = self.drawable_J[picks_N.to(self.drawable_J.device)]
        if not with_targets and not self.holds_targets:
            return Candidates(torch.unique(uniform_N))
        items_C = torch.unique(torch.cat([targets.reshape(-1), uniform_N]))
        is_negative_C = None if self.config.in_batch else torch.isin(items_C, uniform_N)
        # Where all candidates are drawn alike, every logit would be corrected by the same number.
        needs_correction = self.config.logq_correction and self.config.in_batch
        return Candidates(items_C, self._log_q(items_C, targets.numel()) if needs_correction else None, is_negative_C)

    def _log_q(self, items_C: torch.Tensor, num_targets: int) -> torch.Tensor:
        """log of q = 1 - (1 - f)^B + N/n: among B targets of frequency f, or among N of n uniform draws."""
        uniform = self.config.uniform / max(1, len(self.drawable_J))
        q_C = uniform - torch.expm1(num_targets * torch.log1p(-self._share_V[items_C].clamp(max=1 - 1e-9)))
        return q_C.clamp(1e-12, 1.0).log().float()
