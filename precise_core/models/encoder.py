"""The Transformer over items (sections IV-B and IV-C).

B batch, L positions, D width, H heads.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from precise_core.errors import ModelError
from precise_core.models.config import EncoderConfig


class SequenceEncoder(nn.Module):
    """Pre-norm Transformer blocks over item vectors; causal, or every position sees every other.

    Positions are learned and counted from the most recent item backwards, so left padding never changes a result.

    Args:
        config: Sizes and dropout.
        width: D, the width of an item vector.
        is_causal: True in Universal Training, False in Targeted Training.
    """

    def __init__(self, config: EncoderConfig, width: int, is_causal: bool) -> None:
        super().__init__()
        self.max_length, self.is_causal = config.max_length, is_causal
        self.input_scale = math.sqrt(width) if config.scale_input else 1.0
        self.positions = nn.Embedding(config.max_length, width)
        nn.init.normal_(self.positions.weight, std=0.02)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config, width) for _ in range(config.layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, e_BLD: torch.Tensor, valid_mask_BL: torch.Tensor) -> torch.Tensor:
        """States of the last layer, zero at padding.

        Raises:
            ModelError: The sequence is longer than the configured ``max_length``.
        """
        L = e_BLD.shape[1]
        if self.max_length < L:
            raise ModelError(f"sequence of {L} items; the model was built for at most {self.max_length}")
        age_L = torch.arange(L - 1, -1, -1, device=e_BLD.device)
        valid_BL1 = valid_mask_BL[:, :, None]
        h_BLD = self.dropout(e_BLD * self.input_scale + self.positions(age_L)) * valid_BL1
        mask_B1LL = self._attention_mask(valid_mask_BL)
        for block in self.blocks:
            h_BLD = block(h_BLD, mask_B1LL)
        return self.norm(h_BLD) * valid_BL1

    def _attention_mask(self, valid_mask_BL: torch.Tensor) -> torch.Tensor:
        """True = may look. A padded position looks at itself only: a row without any True would be NaN."""
        L = valid_mask_BL.shape[1]
        every_LL = torch.ones(L, L, dtype=torch.bool, device=valid_mask_BL.device)
        allowed_BLL = valid_mask_BL[:, None, :] & (every_LL.tril() if self.is_causal else every_LL)
        itself_LL = torch.eye(L, dtype=torch.bool, device=valid_mask_BL.device)
        return (allowed_BLL | itself_LL)[:, None]


class Block(nn.Module):
    """x + attention(norm(x)), then x + FFN(norm(x))."""

    def __init__(self, config: EncoderConfig, width: int) -> None:
        super().__init__()
        self.heads, self.drop_rate = config.heads, config.dropout
        self.attention_norm, self.ffn_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.ffn = nn.Sequential(
            nn.Linear(width, config.ffn_width),
            nn.GELU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.ffn_width, width),
        )
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, h_BLD: torch.Tensor, mask_B1LL: torch.Tensor) -> torch.Tensor:
        h_BLD = h_BLD + self.dropout(self._attend(self.attention_norm(h_BLD), mask_B1LL))
        return h_BLD + self.dropout(self.ffn(self.ffn_norm(h_BLD)))

    def _attend(self, x_BLD: torch.Tensor, mask_B1LL: torch.Tensor) -> torch.Tensor:
        B, L, D = x_BLD.shape
        q, k, v = self.qkv(x_BLD).view(B, L, 3, self.heads, D // self.heads).permute(2, 0, 3, 1, 4)
        rate = self.drop_rate if self.training else 0.0
        mixed_BHLd = F.scaled_dot_product_attention(q, k, v, attn_mask=mask_B1LL, dropout_p=rate)
        return self.out(mixed_BHLd.transpose(1, 2).reshape(B, L, D))
