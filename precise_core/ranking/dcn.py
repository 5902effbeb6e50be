"""DCN-v2, the ranking model, with PRECISE's two injections (section VI-C, Fig. 7).

Shapes: B impressions, F sparse features, G dense features, E width of a feature's embedding, D width of a PRECISE
vector, W width of the concatenated input x_0.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from precise_core.ranking.config import DCNConfig

MISSING_BUCKET = 0
UNKNOWN_ROW = 1


def hash_feature(name: str, values_B: np.ndarray, buckets: int) -> np.ndarray:
    """Buckets (int64 [B]) of one sparse feature's values; the empty text and None are bucket 0, no value else is.

    The hash is BLAKE2b of name and value, the same in every process and on every machine (Python's own is not).
    """
    texts = np.array(["" if value is None else value for value in values_B], dtype=str)
    distinct, inverse = np.unique(texts, return_inverse=True)
    return np.array([_bucket(name, str(text), buckets) for text in distinct], np.int64)[inverse]


def look_up_feature(values_B: np.ndarray, rows: Mapping[str, int]) -> np.ndarray:
    """Rows (int64 [B]) of one sparse feature's values in its vocabulary.

    The empty text and None are row 0 as in ``hash_feature``; a value that is not in the vocabulary is row 1.
    """
    texts = ["" if value is None else str(value) for value in values_B]
    return np.array([rows.get(text, UNKNOWN_ROW) if text else MISSING_BUCKET for text in texts], np.int64)


def _bucket(name: str, value: str, buckets: int) -> int:
    if not value:
        return MISSING_BUCKET
    text = f"{name}\x1f{value}".encode("utf-8", "surrogatepass")
    return 1 + int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") % (buckets - 1)


class CrossNetwork(nn.Module):
    """x_{l+1} = x_0 ⊙ (W_l x_l + b_l) + x_l (Wang et al. 2021, https://arxiv.org/abs/2008.13535, eq. 1).

    Layer l holds feature crosses of degree up to l + 1. Input and output: [B, W].

    >>> CrossNetwork(width=8, layers=2)(torch.ones(3, 8)).shape
    torch.Size([3, 8])
    """

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))

    def forward(self, x0_BW: Tensor) -> Tensor:
        x_BW = x0_BW
        for layer in self.layers:
            x_BW = x0_BW * layer(x_BW) + x_BW
        return x_BW


class DCN(nn.Module):
    """Cross network and deep tower side by side over one input; a linear layer reads both.

        x_0   = [embedded sparse features; dense features; user vector; item vector; has-vector flags]   injection 1
        logit = w · [cross(x_0); deep(x_0); PRECISE score; has-score flag] + b                           injection 2

    The vectors enter as they are; a missing one is zeros with its flag at 0. Where the paper is silent: each sparse
    feature has rows of its own, dense features and the score arrive standardised.

    Args:
        sparse_rows: Rows of the embedding table of each of the F sparse features.
        dense_features: G.
        vector_width: D; 0 = the plain DCN, without either injection.
        config: Sizes, and which injections are on.

    >>> model = DCN([10, 5], 1, vector_width=4, config=DCNConfig())
    >>> sparse, dense = torch.zeros(3, 2, dtype=torch.long), torch.zeros(3, 1)
    >>> vectors, flags, score = torch.zeros(3, 8), torch.zeros(3, 2), torch.zeros(3, 2)
    >>> model(sparse, dense, vectors, flags, score).shape
    torch.Size([3])
    """

    first_rows_F: Tensor

    def __init__(self, sparse_rows: Sequence[int], dense_features: int, vector_width: int, config: DCNConfig) -> None:
        super().__init__()
        self.inject_vectors = vector_width > 0 and config.inject_vectors
        self.inject_score = vector_width > 0 and config.inject_score
        self.embeddings = nn.Embedding(sum(sparse_rows), config.embedding_width)
        nn.init.normal_(self.embeddings.weight, std=0.05)
        rows_F = torch.tensor(sparse_rows, dtype=torch.long)
        self.register_buffer("first_rows_F", rows_F.cumsum(0) - rows_F, persistent=False)
        width = len(sparse_rows) * config.embedding_width + dense_features
        width += 2 * vector_width + 2 if self.inject_vectors else 0
        self.cross = CrossNetwork(width, config.cross_layers)
        self.deep = _deep_tower(width, config)
        deep_width = config.deep_widths[-1] if config.deep_widths else width
        self.output = nn.Linear(width + deep_width + (2 if self.inject_score else 0), 1)

    def forward(
        self, buckets_BF: Tensor, dense_BG: Tensor, vectors_B2D: Tensor, has_vectors_B2: Tensor, score_B2: Tensor
    ) -> Tensor:
        """Logits [B].

        Args:
            buckets_BF: Row of each sparse feature's value in its own table, int64.
            dense_BG: Standardised dense features, 0 where missing.
            vectors_B2D: User vector beside item vector [B, 2D], zeros where missing; not read by the plain DCN.
            has_vectors_B2: 1.0 where the user's, the item's vector is there.
            score_B2: Standardised score (0 where missing) beside 1.0 where it is there.
        """
        embedded = self.embeddings(buckets_BF + self.first_rows_F).flatten(1)
        inputs = [embedded, dense_BG]
        if self.inject_vectors:
            inputs += [vectors_B2D, has_vectors_B2]
        x0_BW = torch.cat(inputs, dim=1)
        outputs = [self.cross(x0_BW), self.deep(x0_BW)]
        if self.inject_score:
            outputs.append(score_B2)
        return self.output(torch.cat(outputs, dim=1)).squeeze(1)


def _deep_tower(width: int, config: DCNConfig) -> nn.Sequential:
    layers: list[nn.Module] = []
    for deep_width in config.deep_widths:
        layers += [nn.Linear(width, deep_width), nn.ReLU(), nn.Dropout(config.dropout)]
        width = deep_width
    return nn.Sequential(*layers)
