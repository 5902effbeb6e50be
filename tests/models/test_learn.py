"""LEARN: one tower for users and items, from frozen sentence vectors, without positions and without ids."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from precise_core.models.config import FusionConfig, ModelConfig
from precise_core.models.precise import Precise, fuse_distinct
from precise_core.training.setup import TrainingInputs, build_model
from precise_core.training.universal import train_universal
from precise_core.training.universal_loss import universal_loss
from precise_core.vectors.encoding import encode_catalog, encode_users, fuse_catalog, query_vectors
from tests.objectives.test_loss_functions import batch_of
from tests.torch_world import ARROW, LENGTH, NUM_ITEMS, encoder_sizes, states_catalog, tiny_universal, world_snapshot

CATALOG = states_catalog()
ITEMS = torch.arange(3, NUM_ITEMS + 2)  # item 2 has no text


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def config(**changes: Any) -> ModelConfig:
    return ModelConfig.model_validate(
        {
            "fusion": {"mode": "llm", "token_width": 8, "token_init": "sentence"},
            "encoder": encoder_sizes("learn", **changes),
            "item_tower": "encoder",
            "temperature": 0.05,
            "learned_temperature": False,
        }
    )


def learn(**changes: Any) -> Precise:
    return build_model(config(**changes), CATALOG, None, torch.ones(CATALOG.num_rows), seed=0).eval()


def user_of(model: Precise, *items: int) -> torch.Tensor:
    e_1LD = fuse_distinct(model, CATALOG, torch.tensor([items]))[0]
    return model.serving_user_vectors(model.user_embeddings(e_1LD, torch.ones(1, len(items), dtype=torch.bool)))[0]


def item_vectors(model: Precise, *items: int) -> torch.Tensor:
    return model.serving_item_vectors(fuse_distinct(model, CATALOG, torch.tensor(items))[0])


def test_a_user_of_one_item_is_that_item() -> None:
    model = learn()
    assert torch.equal(user_of(model, 7), item_vectors(model, 7)[0])
    fused = fuse_catalog(model, CATALOG, ITEMS.numpy())
    np.testing.assert_allclose(query_vectors(model, fused), encode_catalog(model, CATALOG, ITEMS.numpy()), atol=1e-6)


def test_one_layer_cannot_tell_the_order_of_earlier_items_and_two_can() -> None:
    for layers in (1, 2):
        model = learn(layers=layers, dropout=0.0)
        with torch.no_grad():
            for parameter in model.encoder.parameters():
                parameter.normal_(std=0.5)
        is_same = torch.allclose(user_of(model, 5, 9, 12), user_of(model, 9, 5, 12), atol=1e-6)
        assert is_same == (layers == 1)
        assert not torch.allclose(user_of(model, 5, 9, 12), user_of(model, 5, 12, 9), atol=1e-4)


def test_an_item_is_the_mean_of_its_text_s_states_at_length_one_and_these_are_not_trained() -> None:
    model = learn().train()
    assert CATALOG.states is not None
    start = int(CATALOG.states.starts_V[7])
    mean_H = CATALOG.states.states_SH[start : start + 2].mean(dim=0)
    fused = fuse_distinct(model, CATALOG, torch.tensor([7, 2]))[0]
    torch.testing.assert_close(fused[0], model.fusion.projection(mean_H / mean_H.norm()))
    assert (fused[1] == 0).all()  # no text
    e_BLD, e_CD = fuse_distinct(model, CATALOG, torch.arange(3, 11).view(2, 4), ITEMS)
    logits = model.logits(model.user_embeddings(e_BLD, torch.ones(2, 4, dtype=torch.bool)), e_CD)
    F.cross_entropy(logits, torch.tensor([8, 9])).backward()
    assert CATALOG.states.states_SH.grad is None
    trained = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert trained == {name for name, _ in model.named_parameters()} - {"log_temperature"}
    assert not any("id_table" in name or "positions" in name or "token_table" in name for name in trained)


def test_the_loss_has_a_column_for_every_distinct_target() -> None:
    """Two users with the same target: neither has the other's as a negative, and each keeps its own."""
    model = learn()
    batch = batch_of([([3, 4, 9], [1, 1, 2]), ([5, 6, 9], [1, 1, 2]), ([7, 8, 10], [1, 1, 2])])
    negatives = {"in_batch": True, "uniform": 0, "logq_correction": False}
    frequencies_V = torch.bincount(batch.item_indices_BL.flatten(), minlength=CATALOG.num_rows)
    found = universal_loss(model, CATALOG, tiny_universal(negatives=negatives), frequencies_V)(
        batch, torch.Generator().manual_seed(0)
    )
    users = torch.stack([user_of(model, *items) for items in ((3, 4), (5, 6), (7, 8))])
    logits = 20 * users @ item_vectors(model, 9, 10).T
    assert found is not None and found.weight == 3
    torch.testing.assert_close(found.mean, F.cross_entropy(logits, torch.tensor([0, 0, 1])))


def test_what_is_trained_is_what_is_served() -> None:
    model = learn()
    histories = [np.array([3, 9, 12]), np.array([5])]
    users = encode_users(model, CATALOG, histories, LENGTH)
    items = encode_catalog(model, CATALOG, ITEMS.numpy(), batch=7)
    np.testing.assert_allclose(np.linalg.norm(items, axis=1), 1, atol=1e-5)
    e_BLD, e_CD = fuse_distinct(model, CATALOG, torch.tensor([[3, 9, 12], [0, 0, 5]]), ITEMS)
    with torch.no_grad():
        h_BD = model.user_embeddings(e_BLD, torch.tensor([[True] * 3, [False, False, True]]))
        np.testing.assert_allclose(20 * users @ items.T, model.logits(h_BD, e_CD).numpy(), atol=1e-4)
        pairs = model.pair_logits_of_parts(h_BD, e_CD[:4].view(2, 2, -1))[0]
    np.testing.assert_allclose(pairs, 20 * np.einsum("bd,bmd->bm", users, items[:4].reshape(2, 2, -1)), atol=1e-4)


def test_it_trains_and_an_item_newer_than_the_model_has_a_vector_by_its_text(tmp_path: Path) -> None:
    inputs = TrainingInputs(
        windows=world_snapshot(tmp_path / "training_windows", train=60),
        catalog=CATALOG,
        out=tmp_path / "checkpoints",
        seed=5,
        versions={},
        feed_config=ARROW,
    )
    negatives = {"uniform": 8, "logq_correction": False}
    checkpoint = train_universal(inputs, config(layers=1), tiny_universal(epochs=1, negatives=negatives))
    model = checkpoint.load_model()
    torch.testing.assert_close(model.temperature, torch.tensor(0.05))
    grown = states_catalog(NUM_ITEMS + 3)
    newest = np.arange(NUM_ITEMS + 2, NUM_ITEMS + 5)
    vectors = encode_catalog(model, grown, newest)
    assert np.abs(vectors[0] - vectors[1]).max() > 1e-3  # each by its own text


def test_experts_have_nothing_to_choose_from_in_a_sentence() -> None:
    with pytest.raises(ValueError, match="token_init sentence: a text is one vector, and the experts of mode moe need"):
        FusionConfig(token_init="sentence")
    assert FusionConfig(token_init="sentence", mode="pool").reads_states
