"""Training of LightGCN: BPR over the pairs of a graph. U users, N items, P pairs, D width."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy import sparse

from precise_core.errors import NothingToLearnError, TrainingError
from precise_core.evaluation.config import LightGCNConfig
from precise_core.experiments.lightgcn_model import LightGCN, adjacency
from precise_core.training.watching import NullProgress, Progress

Quality = Callable[[np.ndarray, np.ndarray], float]


@dataclass(frozen=True)
class GraphVectors:
    """What is left of a training.

    Attributes:
        users_UD: One vector per user; that of a user without a pair says nothing.
        items_ND: One vector per item.
        best_epoch: The epoch that was kept.
        quality: On the validation question; NaN without one.
    """

    users_UD: np.ndarray
    items_ND: np.ndarray
    best_epoch: int
    quality: float


def train_lightgcn(
    train_UN: sparse.csr_matrix,
    known_UN: sparse.csr_matrix,
    config: LightGCNConfig,
    seed: int,
    quality: Quality | None = None,
    progress: Progress | None = None,
) -> GraphVectors:
    """Train on the pairs of ``train_UN`` and spread the embeddings that were kept over the graph of ``known_UN``.

    Args:
        train_UN: Who had what, bool CSR; the loss and, while it trains, the graph.
        known_UN: The graph that users are served from; it may know more.
        config: Sizes and rates.
        seed: Of the embeddings, the order and the negatives.
        quality: Of (users_UD, items_ND) on a validation question; the best epoch is kept, and training stops when
            ``patience`` epochs were no better. None = the last epoch.
        progress: Told of every step.

    Raises:
        NothingToLearnError: There is no pair.
        TrainingError: The loss is not finite.
    """
    if train_UN.nnz == 0:
        raise NothingToLearnError("the graph has no pair of a user and an item to learn from")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LightGCN(train_UN.shape[0], train_UN.shape[1], config)
    best, best_epoch, best_quality = model.embeddings.weight.detach().clone(), 0, -math.inf
    for epoch, graph in _epochs(model, train_UN, config, seed, progress or NullProgress()):
        found = math.nan if quality is None else quality(*_vectors(model, graph))
        if quality is None or found > best_quality:
            best, best_epoch, best_quality = model.embeddings.weight.detach().clone(), epoch, found
        elif epoch - best_epoch >= config.patience:
            break
    with torch.no_grad():
        model.embeddings.weight.copy_(best)
    return GraphVectors(*_vectors(model, adjacency(known_UN)), best_epoch, best_quality)


def _epochs(
    model: LightGCN, train_UN: sparse.csr_matrix, config: LightGCNConfig, seed: int, progress: Progress
) -> Iterator[tuple[int, torch.Tensor]]:
    """Yields (epoch, graph) after every epoch."""
    rng, graph = np.random.default_rng(seed), adjacency(train_UN)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate)
    users_P, items_P = (part.astype(np.int64) for part in train_UN.nonzero())
    trained = np.unique(items_P)
    steps = math.ceil(len(users_P) / config.batch_size)
    progress.start(steps * config.epochs, "lightgcn")
    try:
        for epoch in range(1, config.epochs + 1):
            for chosen in np.array_split(rng.permutation(len(users_P)), steps):
                users, items = users_P[chosen], items_P[chosen]
                loss = _loss(model, graph, users, items, _negatives(train_UN, users, trained, rng), config)
                if not torch.isfinite(loss):
                    raise TrainingError(f"lightgcn: the loss of epoch {epoch} is not finite; lower the learning rate")
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                progress.advance(1, loss=loss.item(), units=float(len(chosen)))
            yield epoch, graph
    finally:  # whoever asks for epochs may stop early
        progress.finish()


def _negatives(
    train_UN: sparse.csr_matrix, users: np.ndarray, trained: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """A uniformly drawn trained item per user, -1 where the draw is one that the user had."""
    drawn = trained[rng.integers(len(trained), size=len(users))]
    had = np.asarray(train_UN[users, drawn]).reshape(-1)
    return np.where(had, -1, drawn)


def _loss(
    model: LightGCN,
    graph: torch.Tensor,
    users: np.ndarray,
    items: np.ndarray,
    negatives: np.ndarray,
    config: LightGCNConfig,
) -> torch.Tensor:
    """Mean of -log σ(u·i - u·j) plus the penalty on the batch's own embeddings, as in the paper (eq. 15)."""
    kept = negatives >= 0
    users_UD, items_ND = model(graph)
    u, i, j = (torch.from_numpy(part[kept]) for part in (users, items, negatives))
    margins = (users_UD[u] * (items_ND[i] - items_ND[j])).sum(dim=1)
    own = model.embeddings(torch.cat([u, i + model.users, j + model.users]))
    return -F.logsigmoid(margins).mean() + config.penalty * own.square().sum() / max(1, len(u))


@torch.no_grad()
def _vectors(model: LightGCN, graph: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    users_UD, items_ND = model(graph)
    return users_UD.numpy(), items_ND.numpy()
