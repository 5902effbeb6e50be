"""Systems made of trained models: other weights of the halves of late fusion, and sums of scores."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from precise_core.evaluation.systems import EmbeddingScorer
from precise_core.experiments.ensembles import SumOfScores, choose_text_weight, weights_of_parts
from precise_core.models.precise import Precise
from precise_core.training.setup import TrainingInputs
from precise_core.training.validation import NDCG, validate
from tests.torch_world import ARROW, tiny_model, world_catalog, world_snapshot

CATALOG = world_catalog()
WEIGHTS = (0.001, 1.0, 1000.0)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> TrainingInputs:
    folder = tmp_path_factory.mktemp("world")
    windows = world_snapshot(folder / "training_windows", train=10)
    return TrainingInputs(windows=windows, catalog=CATALOG, out=folder, seed=1, versions={}, feed_config=ARROW)


def late_fusion() -> Precise:
    """As it starts: both halves know something, each something else."""
    torch.manual_seed(0)
    config = tiny_model("pool", late_fusion=True)
    return Precise(config, CATALOG.num_rows, CATALOG.known_token_ids, "universal", 3).eval()


def test_the_weight_of_the_text_half_is_the_one_that_is_best_on_validation(inputs: TrainingInputs) -> None:
    model, held_out = late_fusion(), inputs.window_feed("validation", 16)
    by_weight = {}
    for weight in WEIGHTS:
        by_weight[weight] = validate(model, CATALOG, held_out, weights_D=weights_of_parts(model, weight))[NDCG]
    assert len(set(by_weight.values())) == 3 and by_weight[1.0] == validate(model, CATALOG, held_out)[NDCG]
    choice = choose_text_weight(model, CATALOG, held_out, "all", WEIGHTS)
    assert choice.validation_ndcg_at_50 == max(by_weight.values()) == by_weight[choice.text_weight]
    worst = min(by_weight, key=lambda weight: by_weight[weight])
    assert choose_text_weight(model, CATALOG, held_out, "all", [worst]).text_weight == worst


def test_a_reweighted_system_adds_up_its_halves_by_that_weight() -> None:
    rng = np.random.default_rng(0)
    users, items = rng.normal(size=(4, 16)).astype(np.float32), rng.normal(size=(6, 16)).astype(np.float32)
    has_item = np.array([False] + [True] * 5)
    popular = EmbeddingScorer(np.ones((4, 1)), np.arange(6.0)[:, None])
    whole = EmbeddingScorer(
        users, items, has_user_U=np.array([True, True, True, False]), has_item_N=has_item, fallback=popular
    )
    found = whole.reweighted(weights_of_parts(late_fusion(), 3.0).numpy()).scores(np.arange(4))
    expected = users[:3, :8] @ items[:, :8].T + 3 * users[:3, 8:] @ items[:, 8:].T
    np.testing.assert_allclose(found[:3, 1:], expected[:, 1:], rtol=1e-5, atol=1e-5)
    assert (found[:3, 0] == -np.inf).all()
    np.testing.assert_array_equal(found[3], np.arange(6.0))  # a user without a vector


def test_a_sum_ranks_by_what_its_systems_say_together() -> None:
    one = EmbeddingScorer(np.array([[1.0]]), np.array([[0.9], [0.5], [0.1]]))
    two = EmbeddingScorer(np.array([[1.0]]), np.array([[0.0], [0.6], [0.7]]))
    total = SumOfScores([one, two]).scores(np.array([0]))
    np.testing.assert_allclose(total, [[0.9, 1.1, 0.8]], rtol=1e-6)
    np.testing.assert_allclose(one.scores(np.array([0])), [[0.9, 0.5, 0.1]], rtol=1e-6)  # left as they were
