"""What every fusion mode and both stages promise: padding, causality, cold items, save and load, device-free scores."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from precise_core.errors import ModelError
from precise_core.models.catalog import ItemCatalog
from precise_core.models.config import FusionConfig
from precise_core.models.fusion import ItemFusion, MixtureOfExperts
from precise_core.models.precise import Precise, Stage, fuse_distinct
from schemas import columns as c
from tests.torch_world import LENGTH, NUM_ITEMS, tiny_model, world_catalog

MODES = ("id", "llm", "pool", "moe", "late")  # the last: moe, with an encoder for either half
STAGES: tuple[Stage, ...] = ("universal", "targeted")
contract = pytest.mark.parametrize(("mode", "stage"), list(itertools.product(MODES, STAGES)))


def build(mode: str, stage: Stage = "universal", **changes: Any) -> Precise:
    catalog = world_catalog()
    torch.manual_seed(0)
    if mode == "late":
        mode, changes = "moe", {"late_fusion": True, **changes}
    model = Precise(tiny_model(mode, **changes), catalog.num_rows, catalog.known_token_ids, stage, 3)
    if model.head is not None:  # a head that does something
        torch.nn.init.normal_(model.head.out.weight)
    return model.eval()


def states(model: Precise, sequences: list[list[int]], width: int) -> tuple[torch.Tensor, torch.Tensor]:
    items = torch.tensor([[0] * (width - len(s)) + s for s in sequences])
    e_BLD = fuse_distinct(model, world_catalog(), items)[0]
    return e_BLD.detach().clone(), items > 0


@contract
def test_padding_never_changes_a_result(mode: str, stage: Stage) -> None:
    model = build(mode, stage)
    tight = model.user_embeddings(*states(model, [[2, 5, 9]], 3))
    padded = model.user_embeddings(*states(model, [[2, 5, 9], [3, 4, 5, 6, 7, 8]], LENGTH))
    torch.testing.assert_close(tight[0], padded[0])
    e_BLD, valid = states(model, [[2, 5, 9]], LENGTH)
    e_BLD[:, :5] = 1e6  # whatever stands at padding
    torch.testing.assert_close(model.user_embeddings(e_BLD, valid)[0], tight[0])
    assert (model.position_states(e_BLD, valid)[:, :5] == 0).all()


@contract
def test_only_targeted_training_lets_earlier_items_see_later_ones(mode: str, stage: Stage) -> None:
    model = build(mode, stage)
    before = model.position_states(*states(model, [[2, 5, 9, 4]], 4))
    after = model.position_states(*states(model, [[2, 5, 9, 7]], 4))
    unchanged = torch.allclose(before[:, :3], after[:, :3], atol=1e-6)
    assert unchanged == (stage == "universal")
    assert not torch.allclose(before[:, 3], after[:, 3], atol=1e-4)


@contract
def test_a_sequence_of_nothing_is_finite(mode: str, stage: Stage) -> None:
    model = build(mode, stage)
    e_BLD, valid = states(model, [[], [3]], 2)
    assert torch.isfinite(model.user_embeddings(e_BLD, valid)).all()


@contract
def test_every_parameter_is_trained(mode: str, stage: Stage) -> None:
    model = build(mode, stage).train()
    catalog = world_catalog()
    e_BLD, e_CD = fuse_distinct(model, catalog, torch.arange(2, 10).view(2, 4), torch.arange(2, NUM_ITEMS + 2))
    h_BD = model.user_embeddings(e_BLD, torch.ones(2, 4, dtype=torch.bool))
    loss = F.cross_entropy(model.logits(h_BD, e_CD), torch.tensor([8, 9]))
    (loss + (model.fusion.balance_loss() or 0)).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@contract
@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_a_plain_dot_product_of_serving_vectors_ranks_like_the_logits(mode: str, stage: Stage, similarity: str) -> None:
    model = build(mode, stage, similarity=similarity)
    h_BD = model.user_embeddings(*states(model, [[2, 5, 9], [3, 4]], 3))
    e_ND = fuse_distinct(model, world_catalog(), torch.arange(2, NUM_ITEMS + 2))[0]
    served = model.serving_user_vectors(h_BD) @ model.serving_item_vectors(e_ND).T
    scale = model.temperature if similarity == "cosine" else 1.0
    torch.testing.assert_close(model.logits(h_BD, e_ND) * scale, served)
    if similarity == "cosine":
        assert served.abs().max().item() <= 1 + 1e-6
    else:
        torch.testing.assert_close(served, h_BD @ e_ND.T)


@contract
def test_a_new_item_is_the_unknown_item_with_its_own_text(mode: str, stage: Stage) -> None:
    model = build(mode, stage)
    catalog = world_catalog()
    tokens, counts = catalog.token_ids_VT[[5, 5]], catalog.token_counts_V[[5, 5]]
    beyond, unknown = model.item_embeddings(torch.tensor([10_000, c.UNKNOWN_INDEX]), tokens, counts)
    torch.testing.assert_close(beyond, unknown)
    if mode != "id":
        other = model.item_embeddings(torch.tensor([10_000]), catalog.token_ids_VT[[6]], catalog.token_counts_V[[6]])
        assert not torch.allclose(beyond, other[0])


@pytest.mark.parametrize("mode", ["id", "pool", "moe"])
def test_an_item_without_training_uses_the_unknown_row(mode: str) -> None:
    model = build(mode)
    events = torch.ones(model.num_item_rows, dtype=torch.long)
    events[7] = 0
    model.fusion.set_trained_items(events)
    id_rows = model.fusion.id_table.weight
    torch.testing.assert_close(model.fusion.id_half(torch.tensor([7, 8])), id_rows[[c.UNKNOWN_INDEX, 8]])


def test_an_item_with_too_few_events_shares_the_unknown_row_and_starts_from_it_later() -> None:
    fusion = ItemFusion(FusionConfig(mode="id", id_width=4, min_id_events=5), 10, torch.tensor([], dtype=torch.long))
    events = torch.tensor([0, 0, 9, 5, 4, 1, 0, 7, 7, 7])
    fusion.set_trained_items(events)
    before = fusion.id_table.weight.detach().clone()
    rows = fusion.id_half(torch.arange(2, 10))
    torch.testing.assert_close(rows, before[[2, 3, c.UNKNOWN_INDEX, c.UNKNOWN_INDEX, c.UNKNOWN_INDEX, 7, 8, 9]])
    rows.sum().backward()
    assert fusion.id_table.weight.grad is not None
    assert (
        fusion.id_table.weight.grad[[4, 5, 6]].abs().sum() == 0
        and fusion.id_table.weight.grad[c.UNKNOWN_INDEX].min() == 3
    )
    events[4] = 5
    fusion.set_trained_items(events)
    torch.testing.assert_close(fusion.id_half(torch.tensor([2, 4])), before[[2, c.UNKNOWN_INDEX]])
    fusion.id_half(torch.tensor([4])).sum().backward()
    assert fusion.id_table.weight.grad[4].min() == 1  # a row of its own from now on


def test_id_dropout_replaces_a_share_of_ids_and_only_while_training() -> None:
    fusion = ItemFusion(FusionConfig(mode="id", id_width=4, id_dropout=0.3), 50, torch.tensor([], dtype=torch.long))
    items = torch.full((4000,), 9)
    torch.manual_seed(0)
    dropped = (fusion.train().id_half(items) == fusion.id_table.weight[c.UNKNOWN_INDEX]).all(dim=1).float().mean()
    assert 0.26 < float(dropped) < 0.34
    assert (fusion.eval().id_half(items) == fusion.id_table.weight[9]).all()


@pytest.mark.parametrize("mode", ["llm", "pool", "moe"])
def test_text_is_read_up_to_its_count_and_may_be_empty(mode: str) -> None:
    fusion = ItemFusion(FusionConfig(mode=mode, id_width=4, token_width=4), 9, torch.tensor([5, 6, 7])).eval()
    texts = torch.tensor([[5, 6, 7], [5, 6, 0], [7, 7, 7], [6, 5, 99]])
    half = fusion.text_half(texts, torch.tensor([2, 2, 0, 2]))
    torch.testing.assert_close(half[0], half[1])
    torch.testing.assert_close(half[0], half[3])  # no order inside a text: a mean and an attention without positions
    assert (half[2] == 0).all()
    assert torch.isfinite(half).all()


def test_tokens_unseen_in_training_share_one_row() -> None:
    fusion = ItemFusion(FusionConfig(mode="pool", id_width=4, token_width=4), 9, torch.tensor([5, 8])).eval()
    half = fusion.text_half(torch.tensor([[3], [6], [999], [5], [8]]), torch.ones(5).int())
    torch.testing.assert_close(half[0], half[1])
    torch.testing.assert_close(half[0], half[2])
    torch.testing.assert_close(half[3:], fusion.token_table.weight[[1, 2]])


def test_token_vectors_are_put_into_the_rows_of_their_tokens() -> None:
    fusion = ItemFusion(FusionConfig(mode="pool", id_width=4, token_width=2), 9, torch.tensor([5, 8]))
    vectors = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert fusion.set_token_vectors(torch.tensor([8, 77]), vectors) == 1
    torch.testing.assert_close(fusion.token_table.weight[2].detach(), vectors[0])


def reference_experts(moe: MixtureOfExperts, x: torch.Tensor, count: int) -> torch.Tensor:
    """Eq. 3 and 4 as written: values per token, then attention; gate over the top k only."""
    x = x[:count]
    logits = x.mean(dim=0) @ moe.gate.weight.T
    chosen = logits.topk(moe.top_k).indices.tolist()
    gates = dict(zip(chosen, torch.stack([logits[j] for j in chosen]).softmax(0), strict=True))
    out = torch.zeros(x.shape[1])
    for j, gate in gates.items():
        attention = (x @ moe.queries_KD[j]).softmax(0)
        out = out + gate * (attention[:, None] * (x @ moe.values_KDD[j])).sum(dim=0)
    return out


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 999), count=st.integers(1, 5), top_k=st.integers(1, 4))
def test_experts_equal_the_paper_s_formula(seed: int, count: int, top_k: int) -> None:
    torch.manual_seed(seed)
    moe = MixtureOfExperts(FusionConfig(token_width=6, num_experts=4, top_k=top_k)).eval()
    x, others = torch.randn(5, 6), torch.randn(9, 6)
    counts = torch.tensor([2, count, 0, 7])
    rows = torch.cat([torch.arange(5, 7), torch.arange(count), torch.arange(7, 14)])
    ours = moe(torch.cat([x, others]), rows, counts)
    torch.testing.assert_close(ours[1], reference_experts(moe, x, count), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours[3], reference_experts(moe, others[2:], 7), rtol=1e-4, atol=1e-5)
    assert not ours[2].any()


def test_expert_load_counts_texts_per_expert() -> None:
    model = build("moe").train()
    fuse_distinct(model, world_catalog(), torch.arange(2, NUM_ITEMS + 2))
    load = model.fusion.expert_load()
    assert len(load) == 3 and sum(load) == pytest.approx(2, abs=1e-3)
    assert build("pool").fusion.expert_load() == []


@pytest.mark.parametrize("mode", MODES)
def test_fusing_each_distinct_item_once_equals_fusing_every_position(mode: str) -> None:
    model, catalog = build(mode), world_catalog()
    positions, others = torch.tensor([[2, 3, 2], [0, 21, 3]]), torch.tensor([3, 1])
    together = fuse_distinct(model, catalog, positions, others)
    for indices, fused in zip((positions, others), together, strict=True):
        flat = indices.flatten()
        alone = model.item_embeddings(flat, catalog.token_ids_VT[flat], catalog.token_counts_V[flat])
        torch.testing.assert_close(fused, alone.view(*indices.shape, -1))


def test_a_residual_head_starts_as_the_last_state_and_the_paper_s_does_not() -> None:
    catalog = world_catalog()
    for residual in (True, False):
        model = Precise(tiny_model(residual_head=residual), catalog.num_rows, catalog.known_token_ids, "targeted", 3)
        e_BLD, valid = states(model.eval(), [[2, 5, 9]], 3)
        last = model.position_states(e_BLD, valid)[:, -1]
        assert torch.allclose(model.user_embeddings(e_BLD, valid), last) == residual


def test_a_catalog_survives_save_and_load(tmp_path: Path) -> None:
    catalog = world_catalog()
    loaded = ItemCatalog.load(catalog.save(tmp_path / "catalog.safetensors"))
    assert torch.equal(loaded.token_ids_VT, catalog.token_ids_VT)
    assert torch.equal(loaded.token_counts_V, catalog.token_counts_V)
    assert loaded.tokenizer_id == catalog.tokenizer_id
    (tmp_path / "broken").write_bytes(b"not safetensors")
    with pytest.raises(ModelError, match="broken: not an item catalog"):
        ItemCatalog.load(tmp_path / "broken")


def test_items_with_one_text_share_one_row_of_texts() -> None:
    catalog = ItemCatalog(torch.tensor([[0, 0], [0, 0], [4, 5], [4, 0], [4, 5]]), torch.tensor([0, 0, 2, 1, 2]), "t")
    assert catalog.text_rows_V[2] == catalog.text_rows_V[4] != catalog.text_rows_V[3]
    assert torch.equal(catalog.token_ids_VT[catalog.text_items_X[catalog.text_rows_V]], catalog.token_ids_VT)
