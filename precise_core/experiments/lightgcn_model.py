"""LightGCN (He et al. 2020, https://arxiv.org/abs/2002.02126): the graph neural network that recall is compared with.

U users, N items, V = U + N vertices (users first), P pairs, D width.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import nn

from precise_core.evaluation.config import LightGCNConfig

_INITIAL_STD = 0.1


class LightGCN(nn.Module):
    """Embeddings of users and items, and the mean of what ``layers`` steps over their graph make of them.

    A step replaces a vertex by Σ over its neighbours / sqrt(degree · degree): no weights, no non-linearity.
    ``embeddings`` is all that is trained; a vertex without a neighbour keeps a share of its own.

    >>> graph = adjacency(sparse.csr_matrix(np.array([[True, False], [True, True]])))
    >>> users_UD, items_ND = LightGCN(users=2, items=2, config=LightGCNConfig(width=8))(graph)
    >>> users_UD.shape, items_ND.shape
    (torch.Size([2, 8]), torch.Size([2, 8]))
    """

    def __init__(self, users: int, items: int, config: LightGCNConfig) -> None:
        super().__init__()
        self.users, self.layers = users, config.layers
        self.embeddings = nn.Embedding(users + items, config.width)
        nn.init.normal_(self.embeddings.weight, std=_INITIAL_STD)

    def forward(self, graph_VV: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(users_UD, items_ND), whose dot product is the score."""
        layer_VD = total_VD = self.embeddings.weight
        for _ in range(self.layers):
            layer_VD = _Step.apply(graph_VV, layer_VD)
            total_VD = total_VD + layer_VD
        mean_VD = total_VD / (self.layers + 1)
        return mean_VD[: self.users], mean_VD[self.users :]


class _Step(torch.autograd.Function):
    """graph @ vertices; the graph is symmetric, so that its transpose is itself, and has no gradient."""

    @staticmethod
    def forward(ctx: Any, graph_VV: torch.Tensor, vertices_VD: torch.Tensor) -> torch.Tensor:
        ctx.graph_VV = graph_VV
        return graph_VV @ vertices_VD

    @staticmethod
    def backward(ctx: Any, gradient_VD: torch.Tensor) -> tuple[None, torch.Tensor]:  # type: ignore[override]
        return None, ctx.graph_VV @ gradient_VD.contiguous()


def adjacency(pairs_UN: sparse.csr_matrix) -> torch.Tensor:
    """1 / sqrt(degree · degree) between every user and item of a pair, both ways; sparse CSR [V, V]."""
    pairs = pairs_UN.astype(np.float32)
    graph = sparse.bmat([[None, pairs], [pairs.T, None]], format="csr", dtype=np.float32)
    graph.resize((sum(pairs.shape), sum(pairs.shape)))
    root_V = np.sqrt(np.maximum(graph.sum(axis=1).A1, 1)).astype(np.float32)
    rows = np.repeat(np.arange(graph.shape[0]), np.diff(graph.indptr))
    values = graph.data / (root_V[rows] * root_V[graph.indices])
    starts, columns = (torch.from_numpy(part.astype(np.int64)) for part in (graph.indptr, graph.indices))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta state")
        return torch.sparse_csr_tensor(
            starts, columns, torch.from_numpy(values), size=graph.shape, check_invariants=True
        )
