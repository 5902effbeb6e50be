"""Candidates of a sampled softmax: the batch's own targets and uniform draws, with their sampling probability.

V vocabulary rows, J items that can be drawn, C candidates.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from precise_core.objectives.config import NegativesConfig


@dataclass(frozen=True)
class Candidates:
    """Distinct items that the positions of a batch are scored against.

    Attributes:
        item_indices_C: int64, sorted.
        log_q_C: Log of the probability that the item became a candidate; zero where no correction is wanted.
        is_negative_C: False = there only because it is someone's target, never anyone's negative.
    """

    item_indices_C: torch.Tensor
    log_q_C: torch.Tensor
    is_negative_C: torch.Tensor

    def columns(self, item_indices: torch.Tensor) -> torch.Tensor:
        """Column of each item, which must be among the candidates."""
        return torch.searchsorted(self.item_indices_C, item_indices).clamp(max=len(self.item_indices_C) - 1)


class CandidateSampler:
    """Draws candidates for each batch.

    Args:
        config: Where negatives come from.
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

    def draw(self, targets: torch.Tensor, generator: torch.Generator) -> Candidates:
        """Candidates for a batch whose positives are ``targets`` (any shape, repetitions count as draws)."""
        if self.config.whole_catalog:
            items_C = torch.unique(torch.cat([self.drawable_J, targets.reshape(-1)]))
            return Candidates(items_C, torch.zeros(len(items_C)), torch.ones(len(items_C), dtype=torch.bool))
        picks_N = torch.randint(len(self.drawable_J), (self.config.uniform,), generator=generator)
        uniform_N = self.drawable_J[picks_N]
        items_C = torch.unique(torch.cat([targets.reshape(-1), uniform_N]))
        is_negative_C = torch.ones(len(items_C), dtype=torch.bool)
        if not self.config.in_batch:
            is_negative_C = torch.isin(items_C, uniform_N)
        log_q_C = self._log_q(items_C, targets.numel()) if self.config.logq_correction else torch.zeros(len(items_C))
        return Candidates(items_C, log_q_C, is_negative_C)

    def _log_q(self, items_C: torch.Tensor, num_targets: int) -> torch.Tensor:
        """log of q = 1 - (1 - f)^B + N/n: among B targets of frequency f, or among N of n uniform draws."""
        q_C = torch.full((len(items_C),), self.config.uniform / max(1, len(self.drawable_J)), dtype=torch.double)
        if self.config.in_batch:
            q_C = q_C - torch.expm1(num_targets * torch.log1p(-self._share_V[items_C].clamp(max=1 - 1e-9)))
        return q_C.clamp(1e-12, 1.0).log().float()
