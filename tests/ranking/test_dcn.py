"""The ranking model: its formula, its two injections, and a hash that is the same everywhere."""

from __future__ import annotations

import doctest
import subprocess
import sys

import numpy as np
import pytest
import torch

import precise_core.ranking.dcn as dcn_module
from precise_core.ranking.config import DCNConfig
from precise_core.ranking.dcn import DCN, CrossNetwork, hash_feature, look_up_feature

SMALL = DCNConfig(embedding_width=4, hash_buckets=50, deep_widths=(8,), dropout=0.0)


def inputs(rows: int = 6, width: int = 4) -> tuple[torch.Tensor, ...]:
    random = torch.Generator().manual_seed(0)
    return (
        torch.randint(0, 50, (rows, 3), generator=random),
        torch.randn(rows, 2, generator=random),
        torch.randn(rows, 2 * width, generator=random),
        torch.ones(rows, 2),
        torch.randn(rows, 2, generator=random),
    )


def test_the_cross_network_is_its_formula() -> None:
    network, x0 = CrossNetwork(width=5, layers=3), torch.randn(4, 5)
    x = x0
    for layer in network.layers:
        x = x0 * (x @ layer.weight.T + layer.bias) + x
    torch.testing.assert_close(network(x0), x)


def test_a_cross_layer_learns_a_product_that_no_linear_layer_can() -> None:
    torch.manual_seed(0)
    network, x = CrossNetwork(width=2, layers=1), torch.randn(256, 2)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.05)
    for _ in range(300):
        loss = ((network(x).sum(dim=1) - x[:, 0] * x[:, 1]) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 1e-3


@pytest.mark.parametrize("inject_vectors", [True, False])
@pytest.mark.parametrize("inject_score", [True, False])
def test_each_injection_changes_the_output_exactly_when_it_is_on(inject_vectors: bool, inject_score: bool) -> None:
    torch.manual_seed(1)
    config = SMALL.model_copy(update={"inject_vectors": inject_vectors, "inject_score": inject_score})
    model = DCN([50] * 3, 2, vector_width=4, config=config)
    sparse, dense, vectors, flags, score = inputs()
    before = model(sparse, dense, vectors, flags, score)
    assert (model(sparse, dense, vectors + 1, flags, score) != before).any().item() is inject_vectors
    assert (model(sparse, dense, vectors, flags - 1, score) != before).any().item() is inject_vectors
    assert (model(sparse, dense, vectors, flags, score + 1) != before).any().item() is inject_score


def test_the_plain_dcn_reads_neither_vectors_nor_score() -> None:
    model = DCN([50] * 3, 2, vector_width=0, config=SMALL)
    sparse, dense, vectors, flags, score = inputs()
    torch.testing.assert_close(
        model(sparse, dense, vectors, flags, score), model(sparse, dense, -vectors, -flags, -score)
    )


def test_the_score_meets_only_the_last_layer() -> None:
    model = DCN([50] * 3, 2, vector_width=4, config=SMALL)
    sparse, dense, vectors, flags, score = inputs()
    change = model(sparse, dense, vectors, flags, score + 1) - model(sparse, dense, vectors, flags, score)
    torch.testing.assert_close(change, torch.full((6,), model.output.weight[0, -2:].sum().item()))


def test_features_do_not_share_rows_of_the_embedding() -> None:
    model = DCN([50, 20, 50], 2, vector_width=0, config=SMALL)
    sparse, dense, *rest = inputs(1)
    sparse[:] = 7
    model(sparse, dense, *rest).backward()
    touched = model.embeddings.weight.grad.abs().sum(dim=1).nonzero().squeeze(1)
    assert touched.tolist() == [7, 57, 77]


def test_missing_values_have_a_bucket_of_their_own() -> None:
    values = np.array(["", None, *(f"value-{i}" for i in range(500))], dtype=object)
    buckets = hash_feature("scene", values, 20)
    assert buckets[:2].tolist() == [0, 0]
    assert set(buckets[2:]) == set(range(1, 20))


def test_a_vocabulary_knows_missing_unknown_and_its_own_values() -> None:
    values = np.array(["", None, "a", "b", "z"], dtype=object)
    assert look_up_feature(values, {"a": 2, "b": 3}).tolist() == [0, 0, 2, 3, 1]


def test_the_hash_knows_the_feature_and_survives_odd_text() -> None:
    values = np.array([f"value-{i}" for i in range(50)])
    assert (hash_feature("a", values, 1000) != hash_feature("b", values, 1000)).mean() > 0.9
    assert len(hash_feature("a", np.array(["\ud800", "\x00x", "🦄"], dtype=object), 10)) == 3
    assert hash_feature("a", np.array([], dtype=object), 10).tolist() == []


def test_the_hash_is_the_same_in_another_process() -> None:
    code = (
        "import numpy as np; from precise_core.ranking.dcn import hash_feature;"
        "print(hash_feature('scene', np.array(['a', 'b', 'ü']), 20000).tolist())"
    )
    here = hash_feature("scene", np.array(["a", "b", "ü"]), 20000).tolist()
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=None)
    assert there.stdout.strip() == str(here)


def test_the_examples_in_the_docstrings_run() -> None:
    results = doctest.testmod(dcn_module)
    assert results.attempted > 0
    assert results.failed == 0
