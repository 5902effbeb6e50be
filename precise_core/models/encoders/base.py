"""What every sequence encoder shares: positions, padding, the attention mask, and states at chosen positions.

B batch, L positions, Q of them, D width, H heads of width d.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from precise_core.errors import ModelError
from precise_core.models.config import EncoderConfig
from precise_core.models.dropout import Dropout
from precise_core.models.times import Times


class SequenceEncoder(nn.Module):
    """Item vectors in, one state per position out.

    Positions are learned and counted from the most recent item backwards, so left padding never changes a result. A
    subclass fills ``blocks`` with modules called as ``block(h_BQD, h_BLD, mask_B1QL)``: new states of Q positions that
    look at L positions where the mask is True. One whose blocks need to know more of a query and what it looks at (how
    far apart they are) overrides ``pairs``; one with another input, ``inputs``.

    Args:
        width: D, the width of an item vector.
        is_causal: True = a position sees itself and earlier ones only.
    """

    def __init__(self, config: EncoderConfig, width: int, is_causal: bool) -> None:
        super().__init__()
        self.max_length, self.is_causal = config.max_length, is_causal
        self.input_scale = math.sqrt(width) if config.scale_input else 1.0
        self.positions = nn.Embedding(config.max_length, width)
        nn.init.normal_(self.positions.weight, std=0.02)
        self.input_norm: nn.Module = nn.Identity()
        self.dropout: nn.Module = Dropout(config.dropout)
        self.blocks = nn.ModuleList()
        self.norm: nn.Module = nn.LayerNorm(width)

    def forward(
        self,
        e_BLD: torch.Tensor,
        valid_mask_BL: torch.Tensor,
        at_BQ: torch.Tensor | None = None,
        times: Times | None = None,
    ) -> torch.Tensor:
        """States of the last layer, zero at padding.

        Args:
            e_BLD: Item vectors, left-padded.
            valid_mask_BL: True = real position.
            at_BQ: Positions whose states are needed; None = all. The last block, half of the cost of two, is computed
                there only.
            times: Of every position; most encoders do not look at it.

        Raises:
            ModelError: The sequence is longer than the configured ``max_length``, or the encoder reads times and there
                are none.
        """
        L = e_BLD.shape[1]
        if self.max_length < L:
            raise ModelError(f"sequence of {L} items; the model was built for at most {self.max_length}")
        valid_BL1 = valid_mask_BL[:, :, None]
        h_BLD = self.dropout(self.inputs(e_BLD, valid_mask_BL)) * valid_BL1
        pairs = self.pairs(valid_mask_BL, times)
        *lower, last = self.blocks
        for block in lower:
            h_BLD = block(h_BLD, h_BLD, *pairs)
        if at_BQ is None:
            return self.norm(last(h_BLD, h_BLD, *pairs)) * valid_BL1
        rows_B1 = torch.arange(len(at_BQ), device=at_BQ.device)[:, None]
        of_queries = (pair_B1LL[:, 0].expand(len(at_BQ), -1, -1)[rows_B1, at_BQ][:, None] for pair_B1LL in pairs)
        h_BQD = last(h_BLD[rows_B1, at_BQ], h_BLD, *of_queries)
        return self.norm(h_BQD) * valid_BL1[rows_B1, at_BQ]

    def inputs(self, e_BLD: torch.Tensor, valid_mask_BL: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        """What the first block reads, before dropout; anything at padding."""
        L = e_BLD.shape[1]
        age_L = torch.arange(L - 1, -1, -1, device=e_BLD.device)
        return self.input_norm(e_BLD * self.input_scale + self.positions(age_L))

    def pairs(self, valid_mask_BL: torch.Tensor, times: Times | None) -> tuple[torch.Tensor, ...]:  # noqa: ARG002
        """What blocks know of every position (row) and each that it may look at; the mask comes first.

        B x 1 x L x L, or 1 x 1 x L x L where all rows are alike. The blocks get it as their further arguments, the last
        one of the queries alone: B x 1 x Q x L.
        """
        return (self._attention_mask(valid_mask_BL),)

    def _attention_mask(self, valid_mask_BL: torch.Tensor) -> torch.Tensor:
        """True = may look. A padded position looks at itself only: a row without any True would be NaN."""
        L = valid_mask_BL.shape[1]
        every_LL = torch.ones(L, L, dtype=torch.bool, device=valid_mask_BL.device)
        allowed_BLL = valid_mask_BL[:, None, :] & (every_LL.tril() if self.is_causal else every_LL)
        itself_LL = torch.eye(L, dtype=torch.bool, device=valid_mask_BL.device)
        return (allowed_BLL | itself_LL)[:, None]


class Attention(nn.Module):
    """Multi-head softmax attention of Q positions over L positions (Vaswani et al. 2017).

    No dropout on the attention weights: it would rule out the fused attention kernel, and random numbers are
    expensive on a CPU. Blocks drop what attention adds instead.
    """

    def __init__(self, config: EncoderConfig, width: int) -> None:
        super().__init__()
        self.heads = config.heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x_BQD: torch.Tensor, x_BLD: torch.Tensor, mask_B1QL: torch.Tensor) -> torch.Tensor:
        q_BHQd = self._heads(self.query(x_BQD))
        k_BHLd, v_BHLd = (self._heads(x) for x in self.key_value(x_BLD).chunk(2, dim=-1))
        mixed_BHQd = F.scaled_dot_product_attention(q_BHQd, k_BHLd, v_BHLd, attn_mask=mask_B1QL)
        return self.out(mixed_BHQd.transpose(1, 2).flatten(2))

    def _heads(self, x_BLD: torch.Tensor) -> torch.Tensor:
        return x_BLD.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class Block(nn.Module):
    """The parts of a Transformer block; a subclass says in which order ``forward`` puts them."""

    def __init__(self, config: EncoderConfig, width: int, activation: nn.Module) -> None:
        super().__init__()
        self.attention_norm, self.ffn_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(config, width)
        self.ffn = feed_forward(config, width, activation)
        self.dropout = Dropout(config.dropout)


def feed_forward(config: EncoderConfig, width: int, activation: nn.Module) -> nn.Sequential:
    """D to ``ffn_width`` and back, at every position."""
    assert config.ffn_width is not None  # the configuration sees to it
    return nn.Sequential(nn.Linear(width, config.ffn_width), activation, nn.Linear(config.ffn_width, width))
