"""HSTU (Zhai et al. 2024, https://arxiv.org/abs/2402.17152), after meta-recsys/generative-recommenders@db1bf8f.

B batch, L positions, Q of them, D width, H heads of width d, N longest sequence.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from precise_core.errors import ModelError
from precise_core.models.config import EncoderConfig
from precise_core.models.dropout import Dropout
from precise_core.models.encoders.base import SequenceEncoder
from precise_core.models.encoders.registry import register
from precise_core.models.times import Times

_EPSILON = 1e-6
_STD = 0.02
_TIME_BUCKETS = 128
_BUCKET_STEP = 0.301  # of the natural logarithm of seconds


@register
class HSTUEncoder(SequenceEncoder):
    """Hierarchical sequential transduction units; with ``fusion.mode: id`` it is the whole model.

        x_0 = dropout( e · sqrt(D) + P[place] )             place counted from the oldest item
        x'  = x + W_o dropout( u ⊙ LN( A v ) )              no feed-forward network, no norm at the end
        A   = SiLU( q kᵀ + rab ) / n, 0 where it may not look;    u, v, q, k = SiLU( LN(x) W )
        rab[i, j] = p[j - i] + t[bucket(asked_i - time_j)]        one p and t per layer, the same for all heads

    Norms have no weights of their own. A position i is asked when the next event happens, the newest one when the
    answer is wanted (`Times`): the published code reads the target's time there, which nobody knows who asks at night.
    Without ``time_bias`` there is no t.

    Departures: n is ``max_length`` itself, not that plus the code's eleven further places. Targeted Training looks
    forward too, with the half of p that Universal Training never uses: it starts untrained.
    """

    def __init__(self, config: EncoderConfig, width: int, is_causal: bool) -> None:
        super().__init__(config, width, is_causal)
        self.uses_times = config.uses_times
        std = math.sqrt(1 / width)
        nn.init.trunc_normal_(self.positions.weight, std=std, a=-2 * std, b=2 * std)
        self.norm = nn.Identity()
        self.blocks.extend(HSTUBlock(config, width) for _ in range(config.layers))

    def inputs(self, e_BLD: torch.Tensor, valid_mask_BL: torch.Tensor) -> torch.Tensor:
        place_BL = (valid_mask_BL.cumsum(dim=1) - 1).clamp(min=0)
        return e_BLD * self.input_scale + self.positions(place_BL)

    def pairs(self, valid_mask_BL: torch.Tensor, times: Times | None) -> tuple[torch.Tensor, ...]:
        """The mask, the row of p and, where the encoder reads times, the row of t."""
        place_L = torch.arange(valid_mask_BL.shape[1], device=valid_mask_BL.device)
        offset_11LL = (place_L - place_L[:, None] + self.max_length - 1)[None, None]
        found = (self._attention_mask(valid_mask_BL), offset_11LL)
        if not self.uses_times:
            return found
        if times is None:
            raise ModelError("encoder hstu reads when events happened: it needs times (model.encoder.time_bias)")
        return (*found, time_buckets(times.asked_BL[:, :, None] - times.events_BL[:, None, :])[:, None])


def time_buckets(seconds: torch.Tensor) -> torch.Tensor:
    """Rows of the table of times, from 0 (up to a second) to 128: floor( ln(seconds) / .301 )."""
    return (seconds.abs().clamp(min=1).log() / _BUCKET_STEP).long().clamp(max=_TIME_BUCKETS)


class HSTUBlock(nn.Module):
    """One layer; see ``HSTUEncoder``."""

    def __init__(self, config: EncoderConfig, width: int) -> None:
        super().__init__()
        self.heads, self.max_length = config.heads, config.max_length
        self.divides_by_visible = config.divide_by == "visible"
        # W of the published code in two: u and q are needed at the queries only, v and k at all positions.
        self.gate_query = nn.Linear(width, 2 * width, bias=False)
        self.value_key = nn.Linear(width, 2 * width, bias=False)
        self.position_bias = nn.Embedding(2 * config.max_length - 1, 1)
        self.time_bias = nn.Embedding(_TIME_BUCKETS + 1, 1) if config.uses_times else None
        weights = [self.gate_query.weight, self.value_key.weight, self.position_bias.weight]
        if self.time_bias is not None:
            weights.append(self.time_bias.weight)
        for weight in weights:
            nn.init.normal_(weight, std=_STD)
        self.out = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.out.weight)
        self.dropout = Dropout(config.dropout)

    def forward(
        self,
        h_BQD: torch.Tensor,
        h_BLD: torch.Tensor,
        mask_B1QL: torch.Tensor,
        offset_B1QL: torch.Tensor,
        bucket_B1QL: torch.Tensor | None = None,
    ) -> torch.Tensor:
        x_BLD = _normed(h_BLD)
        u_BQD, q_BQD = F.silu(self.gate_query(x_BLD if h_BQD is h_BLD else _normed(h_BQD))).chunk(2, dim=-1)
        v_BLD, k_BLD = F.silu(self.value_key(x_BLD)).chunk(2, dim=-1)
        bias_B1QL = self.position_bias(offset_B1QL)[..., 0]
        if self.time_bias is not None and bucket_B1QL is not None:
            bias_B1QL = bias_B1QL + self.time_bias(bucket_B1QL)[..., 0]
        scores_BHQL = F.silu(self._heads(q_BQD) @ self._heads(k_BLD).transpose(2, 3) + bias_B1QL)
        n = mask_B1QL.sum(dim=-1, keepdim=True) if self.divides_by_visible else self.max_length
        mixed_BHQd = (scores_BHQL * (mask_B1QL / n)) @ self._heads(v_BLD)
        mixed_BQD = _normed(mixed_BHQd.transpose(1, 2).flatten(2))
        return h_BQD + self.out(self.dropout(u_BQD * mixed_BQD))

    def _heads(self, x_BLD: torch.Tensor) -> torch.Tensor:
        return x_BLD.unflatten(-1, (self.heads, -1)).transpose(1, 2)


def _normed(x_BLD: torch.Tensor) -> torch.Tensor:
    return F.layer_norm(x_BLD, x_BLD.shape[-1:], eps=_EPSILON)
