"""BERT4Rec (Sun et al. 2019, https://arxiv.org/abs/1904.06690)."""

from __future__ import annotations

import torch
from torch import nn

from precise_core.models.config import EncoderConfig
from precise_core.models.encoders.base import Block, SequenceEncoder
from precise_core.models.encoders.registry import register


@register
class Bert4RecEncoder(SequenceEncoder):
    """The post-norm blocks of BERT; with ``fusion.mode: id`` and ``prediction: masked_item`` it is the whole model."""

    def __init__(self, config: EncoderConfig, width: int, is_causal: bool) -> None:
        super().__init__(config, width, is_causal)
        self.input_norm, self.norm = nn.LayerNorm(width), nn.Identity()
        self.blocks.extend(PostNormBlock(config, width) for _ in range(config.layers))


class PostNormBlock(Block):
    """norm(x + attention(x)), then norm(x + FFN(x))."""

    def __init__(self, config: EncoderConfig, width: int) -> None:
        super().__init__(config, width, nn.GELU())

    def forward(self, h_BQD: torch.Tensor, h_BLD: torch.Tensor, mask_B1QL: torch.Tensor) -> torch.Tensor:
        h_BQD = self.attention_norm(h_BQD + self.dropout(self.attention(h_BQD, h_BLD, mask_B1QL)))
        return self.ffn_norm(h_BQD + self.dropout(self.ffn(h_BQD)))
