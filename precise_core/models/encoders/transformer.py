"""The Transformer of PRECISE (sections IV-C and IV-D), with normalisation before each sublayer."""

from __future__ import annotations

import torch
from torch import nn

from precise_core.models.config import EncoderConfig
from precise_core.models.encoders.base import Block, SequenceEncoder
from precise_core.models.encoders.registry import register


@register
class TransformerEncoder(SequenceEncoder):
    """Pre-norm blocks (Xiong et al. 2020): they train without a long warm-up, also six deep.

    The paper says "Transformer" and gives layers and widths, but not the order of normalisation.
    """

    def __init__(self, config: EncoderConfig, width: int, is_causal: bool) -> None:
        super().__init__(config, width, is_causal)
        self.blocks.extend(PreNormBlock(config, width) for _ in range(config.layers))


class PreNormBlock(Block):
    """x + attention(norm(x)), then x + FFN(norm(x)), with dropout on what either adds."""

    def __init__(self, config: EncoderConfig, width: int) -> None:
        super().__init__(config, width, nn.GELU())

    def forward(self, h_BQD: torch.Tensor, h_BLD: torch.Tensor, mask_B1QL: torch.Tensor) -> torch.Tensor:
        x_BLD = self.attention_norm(h_BLD)
        x_BQD = x_BLD if h_BQD is h_BLD else self.attention_norm(h_BQD)
        mixed_BQD = self.attention(x_BQD, x_BLD, mask_B1QL)
        h_BQD = h_BQD + self.dropout(mixed_BQD)
        return h_BQD + self.dropout(self.ffn(self.ffn_norm(h_BQD)))
