"""What the losses ask of the fusion: every distinct item once, and experts that share the texts."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from precise_core.models.precise import Precise, Stage, fuse_distinct
from precise_core.training.loop import LossFunction
from precise_core.training.targeted_loss import targeted_loss
from precise_core.training.universal_loss import balance_penalty, universal_loss
from tests.objectives.test_loss_functions import batch_of
from tests.torch_world import NUM_ITEMS, grouped_windows, tiny_model, tiny_targeted, tiny_universal, world_catalog

CATALOG = world_catalog()
BATCH = batch_of([(list(items), list(days)) for items, days, _ in grouped_windows(32, seed=0)])
TRAINED_V = torch.arange(NUM_ITEMS + 2) >= 2


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def model_of(stage: Stage = "universal", balance_weight: float = 0.01) -> Precise:
    torch.manual_seed(0)
    fusion = tiny_model().fusion.model_copy(update={"balance_weight": balance_weight})
    model = Precise(tiny_model(fusion=fusion), CATALOG.num_rows, CATALOG.known_token_ids, stage, 3)
    return model.train()


def loss_of(model: Precise, **negatives: Any) -> LossFunction:
    negatives = {"uniform": 8} | negatives
    if model.stage == "universal":
        return universal_loss(model, CATALOG, tiny_universal(negatives=negatives), TRAINED_V.long())
    return targeted_loss(model, CATALOG, tiny_targeted(negatives=negatives), TRAINED_V.long(), TRAINED_V)


@pytest.mark.parametrize("stage", ["universal", "targeted"])
@pytest.mark.parametrize("in_batch", [True, False])
def test_a_batch_fuses_each_distinct_item_and_text_once(
    monkeypatch: pytest.MonkeyPatch, stage: Stage, in_batch: bool
) -> None:
    model = model_of(stage)
    items: list[torch.Tensor] = []
    texts: list[torch.Tensor] = []
    id_half, catalog_texts = model.fusion.id_half, model.fusion.catalog_texts
    monkeypatch.setattr(model.fusion, "id_half", lambda indices: items.append(indices) or id_half(indices))
    monkeypatch.setattr(
        model.fusion, "catalog_texts", lambda catalog, rows: texts.append(rows) or catalog_texts(catalog, rows)
    )
    assert loss_of(model, in_batch=in_batch)(BATCH, torch.Generator().manual_seed(0)) is not None
    for rows, most in ((items, NUM_ITEMS + 1), (texts, NUM_ITEMS)):  # padding is fused, too; two items have no text
        assert len(rows) == 1
        assert len(rows[0]) == len(torch.unique(rows[0])) <= most
    assert set(range(2, NUM_ITEMS + 2)) <= set(items[0].tolist())


def test_the_balance_penalty_by_hand() -> None:
    """weight · K · Σ_j (share of texts that chose expert j) · (mean probability of expert j)."""
    model = model_of(balance_weight=0.5)
    fuse_distinct(model, CATALOG, torch.arange(3, 8))  # five texts of two tokens
    known = model.fusion.known_token_ids_W.tolist()
    shares, probabilities = torch.zeros(3), torch.zeros(3)
    for item in range(3, 8):
        rows = [1 + known.index(token) for token in (10 + item % 2, 20 + item)]
        logits = model.fusion.token_table.weight[rows].mean(dim=0) @ model.fusion.text.gate.weight.T
        shares[logits.topk(2).indices] += 1 / 5
        probabilities += logits.softmax(dim=0) / 5
    torch.testing.assert_close(balance_penalty(model), 0.5 * 3 * (shares * probabilities).sum())


def test_the_balance_penalty_is_top_k_where_all_experts_are_alike() -> None:
    model = model_of(balance_weight=1.0)
    torch.nn.init.zeros_(model.fusion.text.gate.weight)
    fuse_distinct(model, CATALOG, torch.arange(2, NUM_ITEMS + 2))
    assert torch.as_tensor(balance_penalty(model)).item() == pytest.approx(2)


@pytest.mark.parametrize("stage", ["universal", "targeted"])
def test_balancing_brings_back_an_expert_that_no_text_chose(stage: Stage) -> None:
    assert load_after(stage, balance_weight=0.0)[2] == 0
    assert load_after(stage, balance_weight=1.0)[2] > 0.3  # even: .67 of the texts each


def load_after(stage: Stage, balance_weight: float) -> list[float]:
    """The experts' load after some steps from a gate that gives every text to the first two."""
    model = model_of(stage, balance_weight)
    direction = torch.full((8,), 0.5)
    with torch.no_grad():
        model.fusion.token_table.weight += direction
        model.fusion.text.gate.weight[:] = torch.stack([direction, direction, -direction]) / 4
    loss, optimizer = loss_of(model), torch.optim.Adam(model.parameters(), lr=0.01)
    for step in range(25):
        found = loss(BATCH, torch.Generator().manual_seed(step))
        assert found is not None
        optimizer.zero_grad()
        found.mean.backward()
        optimizer.step()
        if not step:
            assert model.fusion.expert_load() == [1, 1, 0]
    return model.fusion.expert_load()
