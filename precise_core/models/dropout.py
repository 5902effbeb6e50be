"""Dropout that does not cost more than the layer it follows."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

_STEPS = 256  # one random byte decides about one number


class Dropout(nn.Module):
    """Zero a share of the numbers while training and scale up the rest (Srivastava et al. 2014).

    The same as ``torch.nn.Dropout`` with the share rounded to a 256th: torch draws a 64-bit number for each decision on
    a CPU, which took a tenth of a training step of a small model; here eight decisions share one. On a GPU it is
    torch's own, which is one kernel there.

    Args:
        share: Probability that a number becomes zero, below 1.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.dropped_steps = round(share * _STEPS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training or not self.dropped_steps:
            return x
        if x.device.type == "cuda":
            return F.dropout(x, self.dropped_steps / _STEPS)
        words = torch.empty(-(-x.numel() // 8), dtype=torch.int64, device=x.device).random_(-(2**63), None)
        bytes_N = words.view(torch.uint8)[: x.numel()].view(x.shape)
        # Compared right into numbers: by way of booleans it takes seven times as long.
        kept = torch.ge(bytes_N, self.dropped_steps, out=torch.empty_like(x, requires_grad=False))
        return x * kept.mul_(_STEPS / (_STEPS - self.dropped_steps))
