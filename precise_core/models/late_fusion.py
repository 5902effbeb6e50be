"""Late fusion (``model.late_fusion``): id half and text half meet in the score, not in front of the encoder.

Not in the registry: it runs two encoders of any kind, one for each half. `Precise` has a temperature and a summand of
the score per half, `universal_loss` a loss per half.

B batch, L positions, D width of an item vector, d of one half.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from precise_core.models.encoders.base import SequenceEncoder
from precise_core.models.times import Times


class EncoderPerHalf(nn.Module):
    """An encoder for each half of the item vectors; inputs and outputs as of ``SequenceEncoder``."""

    def __init__(self, encoders: Sequence[SequenceEncoder], widths: Sequence[int]) -> None:
        super().__init__()
        self.halves, self.widths = nn.ModuleList(encoders), tuple(widths)
        self.max_length = encoders[0].max_length

    def forward(
        self,
        e_BLD: torch.Tensor,
        valid_mask_BL: torch.Tensor,
        at_BQ: torch.Tensor | None = None,
        times: Times | None = None,
    ) -> torch.Tensor:
        halves = zip(self.halves, e_BLD.split(self.widths, dim=-1), strict=True)
        return torch.cat([encoder(half_BLd, valid_mask_BL, at_BQ, times) for encoder, half_BLd in halves], dim=-1)
