"""Alternate training (section IV-E2, Fig. 4b): the id table first, then everything.

Text vectors come from a language model and are good from the first step, so that a model relies on them and the id rows
stay close to their start. Phase 1 freezes the token table until the id table has converged, phase 2 trains all.
"""

from __future__ import annotations

import torch

from precise_core.models.precise import Precise
from precise_core.training.config import AlternateConfig


def freeze_tokens(model: Precise, is_frozen: bool) -> None:
    """Stop or start the training of the token side: its table, or the projection of contextual states."""
    for parameter in model.fusion.token_parameters():
        parameter.requires_grad_(not is_frozen)


def is_enabled(config: AlternateConfig | None, model: Precise) -> bool:
    """Whether it is switched on, and there are two halves to alternate between."""
    return config is not None and config.enabled and model.fusion.has_id and model.fusion.has_text


def has_converged(
    config: AlternateConfig, before_VD: torch.Tensor, after_VD: torch.Tensor, epochs_without_gain: int, epoch: int
) -> bool:
    """Whether the id table has converged after ``epoch`` epochs of phase 1, by the rule of ``AlternateConfig``."""
    moved = torch.linalg.vector_norm(after_VD - before_VD) / torch.linalg.vector_norm(before_VD).clamp(min=1e-12)
    return epochs_without_gain >= config.patience or float(moved) < config.min_update or epoch >= config.max_epochs
