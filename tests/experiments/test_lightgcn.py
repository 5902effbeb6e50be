"""LightGCN spreads as its paper says, learns who belongs to whom, and keeps the epoch that validation prefers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from precise_core.errors import NothingToLearnError, TrainingError
from precise_core.evaluation.config import LightGCNConfig
from precise_core.experiments.lightgcn import LightGCN, adjacency, train_lightgcn
from precise_core.recommendations.neighbours import pair_matrix

USERS, ITEMS, GROUPS = 60, 40, 4
SMALL = LightGCNConfig(width=8, layers=2, epochs=8, batch_size=256, learning_rate=0.02)


def grouped_pairs():  # type: ignore[no-untyped-def]
    """Users have items of their group alone."""
    rng = np.random.default_rng(0)
    users = np.repeat(np.arange(USERS), 5)
    return pair_matrix(users, rng.integers(ITEMS // GROUPS, size=len(users)) * GROUPS + users % GROUPS, USERS, ITEMS)


def test_layers_are_those_of_dense_algebra() -> None:
    pairs = pair_matrix(np.array([0, 0, 1, 2]), np.array([0, 1, 1, 2]), 4, 3)  # user 3 has nothing
    model = LightGCN(4, 3, LightGCNConfig(width=5, layers=3))
    graph = np.zeros((7, 7))
    graph[:4, 4:], graph[4:, :4] = pairs.toarray(), pairs.toarray().T
    degree = np.maximum(graph.sum(axis=1), 1)
    graph = graph / np.sqrt(degree[:, None] * degree[None])
    layers = [model.embeddings.weight.detach().numpy()]
    for _ in range(3):
        layers.append(graph @ layers[-1])
    users_UD, items_ND = model(adjacency(pairs))
    np.testing.assert_allclose(torch.cat([users_UD, items_ND]).detach(), np.mean(layers, axis=0), rtol=1e-4, atol=1e-6)


def test_gradients_are_those_of_autograd() -> None:
    pairs = grouped_pairs()
    model = LightGCN(USERS, ITEMS, SMALL)
    graph, weights = adjacency(pairs), torch.randn(USERS, ITEMS)
    (model(graph)[0] @ model(graph)[1].T * weights).sum().backward()
    ours = model.embeddings.weight.grad.clone()
    vertices = model.embeddings.weight.detach().clone().requires_grad_()
    mean = sum(torch.linalg.matrix_power(graph.to_dense(), step) @ vertices for step in range(3)) / 3
    (mean[:USERS] @ mean[USERS:].T * weights).sum().backward()
    torch.testing.assert_close(ours, vertices.grad, rtol=1e-3, atol=1e-4)


def test_it_learns_the_groups_and_a_seed_repeats_it() -> None:
    pairs = grouped_pairs()
    found, again = (train_lightgcn(pairs, pairs, SMALL, seed=1) for _ in range(2))
    np.testing.assert_array_equal(found.users_UD, again.users_UD)
    scores = found.users_UD @ found.items_ND.T
    scores[pairs.nonzero()] = -np.inf
    best = np.argsort(-scores, axis=1)[:, :3]
    assert (best % GROUPS == np.arange(USERS)[:, None] % GROUPS).mean() > 0.9


def test_the_best_epoch_is_kept_and_patience_ends_it() -> None:
    qualities = iter([0.1, 0.3, 0.2, 0.2, 0.9])
    seen: list[np.ndarray] = []

    def quality(users_UD: np.ndarray, _items_ND: np.ndarray) -> float:
        seen.append(users_UD.copy())
        return next(qualities)

    pairs = grouped_pairs()
    found = train_lightgcn(pairs, pairs, SMALL.model_copy(update={"patience": 2}), 1, quality)
    assert (found.best_epoch, found.quality, len(seen)) == (2, 0.3, 4)
    np.testing.assert_allclose(found.users_UD, seen[1], rtol=1e-6)


def test_what_cannot_be_learnt_is_refused() -> None:
    empty = pair_matrix(np.zeros(0, int), np.zeros(0, int), 3, 3)
    with pytest.raises(NothingToLearnError, match="no pair"):
        train_lightgcn(empty, empty, SMALL, 1)
    with pytest.raises(TrainingError, match="lower the learning rate"):
        pairs = grouped_pairs()
        train_lightgcn(pairs, pairs, SMALL.model_copy(update={"learning_rate": 1e30}), 1)
