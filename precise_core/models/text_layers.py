"""The last layers of a language model as an item's tower, HLLM's item model (Chen et al. 2024,
https://arxiv.org/abs/2409.12740, after bytedance/HLLM@2deed17 with its masked mean, ``item_emb_token_n: 0``).

X texts, S states of all texts together, P texts of a portion, T states of its longest text, H width of the language
model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from precise_core.config import Config
from precise_core.errors import ModelError
from precise_core.models.config import EncoderConfig
from precise_core.models.encoders.bert4rec import PostNormBlock

_TEXTS_AT_ONCE = 128  # of like length: little padding, and what a step keeps at once stays small where nothing learns

# Name in our block, and in a layer of transformers' BERT; keys and values are one matrix here.
_PARTS = {
    "attention.query": ("attention.self.query",),
    "attention.key_value": ("attention.self.key", "attention.self.value"),
    "attention.out": ("attention.output.dense",),
    "attention_norm": ("attention.output.LayerNorm",),
    "ffn.0": ("intermediate.dense",),
    "ffn.2": ("output.dense",),
    "ffn_norm": ("output.LayerNorm",),
}


class LayerSizes(Config):
    """What a language model's layers are like, apart from their width."""

    heads: int
    ffn_width: int
    norm_epsilon: float
    dropout: float


@dataclass(frozen=True)
class LayersInit:
    """The last layers of a language model, from which an item's tower starts (`token_init: top_layers`).

    Args:
        weights: Of each layer by its number and its name in transformers' BERT: `0.attention.self.query.weight`.
        language_model: The id of the states that go into the first of them.
    """

    sizes: LayerSizes
    weights: Mapping[str, torch.Tensor]
    language_model: str


class TextLayers(nn.Module):
    """States of a layer in, the mean of the last layer's states of each text out.

    Departure: no dropout on attention weights, as in every attention here.

    Args:
        layers: How many of the last layers; 0 = the mean of the states that come in.
        sizes: Of the layers; needed where there is one.
    """

    def __init__(self, layers: int, width: int, sizes: LayerSizes | None) -> None:
        super().__init__()
        self.sizes, self.blocks = sizes, nn.ModuleList()
        if not layers:
            return
        if sizes is None:
            raise ModelError(f"model.fusion.trained_layers {layers}: the sizes of the layers are needed")
        kept = sizes.model_dump(include={"heads", "ffn_width", "dropout"})
        config = EncoderConfig(kind="bert4rec", layers=layers, **kept)
        self.blocks.extend(PostNormBlock(config, width) for _ in range(layers))
        for norm in (module for module in self.blocks.modules() if isinstance(module, nn.LayerNorm)):
            norm.eps = sizes.norm_epsilon

    def set_layers(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Start as the language model; ``weights`` as in ``LayersInit``."""
        ours = {
            f"{number}.{name}.{kind}": torch.cat([weights[f"{number}.{theirs}.{kind}"] for theirs in parts])
            for number in range(len(self.blocks))
            for name, parts in _PARTS.items()
            for kind in ("weight", "bias")
        }
        self.blocks.load_state_dict(ours)

    def forward(self, states_SH: torch.Tensor, counts_X: torch.Tensor) -> torch.Tensor:
        """Means of X texts, zero where a text has no state.

        Args:
            states_SH: The states of a text are neighbours, text after text.
            counts_X: int64, states of each text.
        """
        starts_X, order_X = counts_X.cumsum(0) - counts_X, counts_X.argsort(stable=True)
        order_X = order_X[int((counts_X == 0).sum()) :]
        means = [torch.zeros(0, states_SH.shape[1], device=states_SH.device)]
        for first in range(0, len(order_X), _TEXTS_AT_ONCE):
            texts_P = order_X[first : first + _TEXTS_AT_ONCE]
            counts_P1 = counts_X[texts_P, None]
            place_T = torch.arange(int(counts_P1.max()), device=states_SH.device)
            mask_PT = place_T < counts_P1
            # What stands behind a shorter text is its own first state: finite, and seen by nobody.
            h_PTH = states_SH[starts_X[texts_P, None] + place_T.where(mask_PT, 0)]
            for block in self.blocks:
                h_PTH = block(h_PTH, h_PTH, mask_PT[:, None, None, :])
            means.append((h_PTH * mask_PT[:, :, None]).sum(dim=1) / counts_P1)
        ordered = torch.cat(means)
        return ordered.new_zeros(len(counts_X), ordered.shape[1]).index_copy(0, order_X, ordered)
