"""Two towers, DSSM (Huang et al. 2013, https://dl.acm.org/doi/10.1145/2505515.2505665) as recall systems use it.

B batch, L positions, Q of them, D width.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn

from precise_core.models.config import EncoderConfig
from precise_core.models.dropout import Dropout
from precise_core.models.encoders.base import SequenceEncoder
from precise_core.models.encoders.registry import register


@register
class DSSMEncoder(SequenceEncoder):
    """The user's tower: a weighted mean of what a position may see, then a perceptron of ``layers`` hidden layers.

    With ``fusion.mode: id`` the item's tower is its id embedding, and with ``negatives: {in_batch: true, uniform: 0}``
    the loss is the sampled softmax of Yi et al. 2019 (https://dl.acm.org/doi/10.1145/3298689.3346996): in-batch
    negatives with logQ correction, cosine and temperature.

    Departures from DSSM: ids instead of letter trigrams; the mean is weighted by item and age (a plain one has no
    sense of what is recent), and no block looks at the position's own item alone.
    """

    def __init__(self, config: EncoderConfig, width: int, is_causal: bool) -> None:
        super().__init__(config, width, is_causal)
        self.blocks.append(UserTower(config, width))


class UserTower(nn.Module):
    """MLP(Σ a_l · h_l), a = softmax over the visible positions of a learned score of each; no residual."""

    def __init__(self, config: EncoderConfig, width: int) -> None:
        super().__init__()
        assert config.ffn_width is not None  # the configuration sees to it
        self.score = nn.Linear(width, 1)
        widths = [width, *[config.ffn_width] * config.layers]
        hidden: list[nn.Module] = []
        for wide_in, wide_out in pairwise(widths):
            hidden += [nn.Linear(wide_in, wide_out), nn.ReLU(), Dropout(config.dropout)]
        self.perceptron = nn.Sequential(*hidden, nn.Linear(config.ffn_width, width))

    def forward(self, h_BQD: torch.Tensor, h_BLD: torch.Tensor, mask_B1QL: torch.Tensor) -> torch.Tensor:
        scores_BQL = self.score(h_BLD).transpose(1, 2).expand(-1, h_BQD.shape[1], -1)
        weights_BQL = scores_BQL.masked_fill(~mask_B1QL[:, 0], -torch.inf).softmax(dim=-1)
        return self.perceptron(weights_BQL @ h_BLD)
