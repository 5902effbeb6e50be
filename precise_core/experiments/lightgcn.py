"""LightGCN (He et al. 2020, https://arxiv.org/abs/2002.02126): the graph neural network in the baseline of recall.

The model, its training by BPR over the pairs of a graph, and the system of an experiment.
U users, N items, V = U + N vertices (users first), P pairs, D width.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.numpy import load_file, save_file
from scipy import sparse
from torch import nn

from precise_core.errors import NothingToLearnError, TrainingError
from precise_core.evaluation.config import LightGCNConfig
from precise_core.evaluation.questions import OfflineEvaluation
from precise_core.evaluation.systems import EmbeddingScorer, vector_system
from precise_core.experiments.blend import ValidationQuestion
from precise_core.experiments.training_cache import Trained, load_trained, save_trained, trained_file, training_key
from precise_core.run.job import Job
from precise_core.store import store_at
from precise_core.training.validation import NDCG
from precise_core.training.watching import NullProgress, Progress

Quality = Callable[[np.ndarray, np.ndarray], float]
_INITIAL_STD = 0.1


class LightGCN(nn.Module):
    """Embeddings of users and items, and their mean over ``layers`` steps on the graph.

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


@dataclass(frozen=True)
class GraphVectors:
    """Vectors of the best epoch."""

    users_UD: np.ndarray  # meaningless for a user without a pair
    items_ND: np.ndarray
    best_epoch: int
    quality: float  # on the validation question; NaN without one


def train_lightgcn(
    train_UN: sparse.csr_matrix,
    known_UN: sparse.csr_matrix,
    config: LightGCNConfig,
    seed: int,
    quality: Quality | None = None,
    progress: Progress | None = None,
) -> GraphVectors:
    """Train on the pairs of ``train_UN`` and propagate the best embeddings over the graph of ``known_UN``.

    Args:
        train_UN: Users and their items, bool CSR: for the loss and for the graph while it trains.
        known_UN: The graph that users are served from; it may have more pairs.
        seed: Of the embeddings, the order and the negatives.
        quality: Of (users_UD, items_ND) on a validation question; the best epoch is kept, and training stops when
            ``patience`` epochs were no better. None = the last epoch.
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
    finally:  # the caller may stop early
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


def graph_system(
    job: Job, evaluation: OfflineEvaluation, validation: ValidationQuestion, task: str
) -> tuple[EmbeddingScorer, Trained]:
    """LightGCN of one task, and the figures of its training; trained unless an earlier run of it has done so.

    It learns from the same events as every model: those before `as_of` without those of held-out users after the cut.
    Users are served from all of them, held-out or not, as by the other models. Users and items that are not in the
    graph have no vector: the former get popular items, the latter are never ranked.
    """
    config, seed = job.settings.lightgcn, job.settings.seed
    key = training_key(job, f"lightgcn-{task}", {"lightgcn": config.model_dump(mode="json"), "task": task})
    done, vectors_file = trained_file(job, key), store_at(job.checkpoints).scratch / f"{key}.safetensors"
    at_cut = validation.at_cut
    known_UN = at_cut.pairs(task, np.zeros(0, np.int64), since=validation.cut)
    if not done.is_file():
        started = time.monotonic()
        train_UN = at_cut.pairs(task, validation.held_out, since=validation.cut)
        quality, progress = _quality(validation, task, train_UN), job.progress("pairs")
        vectors = train_lightgcn(train_UN, known_UN, config, seed, quality, progress)
        vectors_file.parent.mkdir(parents=True, exist_ok=True)
        save_file({"users": vectors.users_UD, "items": vectors.items_ND}, vectors_file)
        seconds = round(time.monotonic() - started, 1)
        metrics = {NDCG: vectors.quality} if np.isfinite(vectors.quality) else {}
        save_trained(done, Trained(key, seed, task, seconds, None, vectors.best_epoch, metrics))
    tensors = load_file(vectors_file)
    items, users = (np.flatnonzero(known_UN.getnnz(axis=axis)) for axis in (0, 1))
    user_rows = evaluation.rows_of([at_cut.user_ids[row] for row in users])
    popular = evaluation.most_popular(task)
    scorer = vector_system(evaluation, items, tensors["items"][items], user_rows, tensors["users"][users], popular)
    return scorer, load_trained(done)


def _quality(validation: ValidationQuestion, task: str, train_UN: sparse.csr_matrix) -> Quality:
    """NDCG@50 for the held-out users, who are served from what they did before the cut."""
    items, users = (np.flatnonzero(train_UN.getnnz(axis=axis)) for axis in (0, 1))
    at_cut = validation.at_cut
    popular = at_cut.most_popular(task)

    def quality(users_UD: np.ndarray, items_ND: np.ndarray) -> float:
        return validation.quality(vector_system(at_cut, items, items_ND[items], users, users_UD[users], popular))

    return quality
