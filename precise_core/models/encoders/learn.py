"""LEARN (Jia et al. 2024, https://arxiv.org/abs/2405.03988), after its code, adxcreative/LEARN@f7baf35.

B batch, L positions, D width.
"""

from __future__ import annotations

import torch
from torch import nn

from precise_core.models.config import EncoderConfig
from precise_core.models.encoders.base import SequenceEncoder
from precise_core.models.encoders.bert4rec import PostNormBlock
from precise_core.models.encoders.registry import register


@register
class LearnEncoder(SequenceEncoder):
    """BERT's blocks over what is projected from frozen sentence vectors, then one linear map; no positions.

    The whole model is `fusion: {mode: llm, token_init: sentence}` (the projection), this encoder with
    ``item_tower: encoder`` (one tower for users and items: an item is a history of it alone), and a fixed
    ``temperature`` of .05. Without positions only the causal mask tells an order: a position knows what was seen up to
    it, and one layer cannot tell how that was arranged.

    Departures: the vectors stay D wide, where the code maps back to the language model's width; no dropout on attention
    weights; Universal Training predicts at every position, where the code draws one target per user and step.
    """

    def __init__(self, config: EncoderConfig, width: int, is_causal: bool) -> None:
        super().__init__(config, width, is_causal)
        del self.positions
        self.dropout = nn.Identity()  # BERT drops on its embeddings, which are not there
        self.norm = nn.Linear(width, width)
        self.blocks.extend(PostNormBlock(config, width) for _ in range(config.layers))

    def inputs(self, e_BLD: torch.Tensor, valid_mask_BL: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        return e_BLD
