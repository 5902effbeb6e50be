"""SASRec (Kang and McAuley 2018, https://arxiv.org/abs/1808.09781)."""

from __future__ import annotations

import torch
from torch import nn

from precise_core.models.config import EncoderConfig
from precise_core.models.encoders.base import Block, SequenceEncoder
from precise_core.models.encoders.registry import register


@register
class SASRecEncoder(SequenceEncoder):
    """The blocks of SASRec; with ``fusion.mode: id`` and Universal Training it is the whole model.

    Departures: its loss here is eq. 5 (a softmax) instead of one negative under binary cross-entropy, as in later
    reference code, and dropout is on what attention adds instead of on its weights.
    """

    def __init__(self, config: EncoderConfig, width: int, is_causal: bool) -> None:
        super().__init__(config, width, is_causal)
        self.blocks.extend(SASRecBlock(config, width) for _ in range(config.layers))


class SASRecBlock(Block):
    """Q = norm(x); x = Q + attention(Q, x); y = norm(x); y + FFN(y): only queries are normalised, sums start there.

    ``h_BQD`` are the queries, ``h_BLD`` the keys and values, which are not normalised.
    """

    def __init__(self, config: EncoderConfig, width: int) -> None:
        super().__init__(config, width, nn.ReLU())

    def forward(self, h_BQD: torch.Tensor, h_BLD: torch.Tensor, mask_B1QL: torch.Tensor) -> torch.Tensor:
        query_BQD = self.attention_norm(h_BQD)
        y_BQD = self.ffn_norm(query_BQD + self.dropout(self.attention(query_BQD, h_BLD, mask_B1QL)))
        return y_BQD + self.dropout(self.ffn(y_BQD))
