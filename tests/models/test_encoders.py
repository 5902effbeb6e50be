"""What every registered encoder promises. A new file in precise_core/models/encoders/ is tested here by being there."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from precise_core.errors import ModelError
from precise_core.models.config import EncoderConfig
from precise_core.models.encoders import ENCODERS, SequenceEncoder, register
from precise_core.models.precise import Precise, fuse_distinct
from precise_core.models.times import Times
from tests.torch_world import LENGTH, encoder_sizes, times_of, tiny_model, world_catalog

WIDTH = 8
KINDS = sorted(ENCODERS)
# Without positions the order is in the causal mask alone: see test_learn.py.
WITHOUT_POSITIONS = {"learn"}
contract = pytest.mark.parametrize("kind", KINDS)
both_masks = pytest.mark.parametrize(("kind", "is_causal"), list(itertools.product(KINDS, [True, False])))


def build(kind: str, is_causal: bool = True, layers: int = 2) -> SequenceEncoder:
    torch.manual_seed(0)
    config = EncoderConfig.model_validate(encoder_sizes(kind, layers=layers, dropout=0.3))
    encoder = ENCODERS[kind](config, WIDTH, is_causal)
    if kind not in WITHOUT_POSITIONS:
        nn.init.normal_(encoder.positions.weight)
    return encoder.eval()


def run(
    encoder: SequenceEncoder, e_BLD: torch.Tensor, valid_BL: torch.Tensor, at_BQ: torch.Tensor | None = None
) -> torch.Tensor:
    return encoder(e_BLD, valid_BL, at_BQ, times_of(e_BLD))


def valid(lengths: list[int], width: int) -> torch.Tensor:
    return torch.arange(width) >= (width - torch.tensor(lengths))[:, None]


@both_masks
def test_padding_never_changes_a_state(kind: str, is_causal: bool) -> None:
    encoder, e_13D = build(kind, is_causal), torch.randn(1, 3, WIDTH)
    tight = run(encoder, e_13D, valid([3], 3))
    padded_18D = torch.full((1, LENGTH, WIDTH), 1e6)
    padded_18D[:, -3:] = e_13D
    padded = run(encoder, padded_18D, valid([3], LENGTH))
    torch.testing.assert_close(padded[:, -3:], tight)
    assert (padded[:, :-3] == 0).all()


@both_masks
def test_only_a_causal_encoder_hides_later_items_from_earlier_ones(kind: str, is_causal: bool) -> None:
    encoder, e_14D = build(kind, is_causal), torch.randn(1, 4, WIDTH)
    changed_14D = e_14D.clone()
    changed_14D[:, 3] = torch.randn(WIDTH)
    before, after = run(encoder, e_14D, valid([4], 4)), run(encoder, changed_14D, valid([4], 4))
    assert torch.allclose(before[:, :3], after[:, :3], atol=1e-6) == is_causal
    assert not torch.allclose(before[:, 3], after[:, 3], atol=1e-4)


@both_masks
def test_states_at_chosen_positions_are_those_of_all(kind: str, is_causal: bool) -> None:
    encoder, e_24D = build(kind, is_causal), torch.randn(2, 4, WIDTH)
    at_BQ = torch.tensor([[3, 0, 1], [3, 3, 2]])
    everywhere = run(encoder, e_24D, valid([4, 2], 4))
    chosen = run(encoder, e_24D, valid([4, 2], 4), at_BQ)
    torch.testing.assert_close(chosen, everywhere[torch.arange(2)[:, None], at_BQ])


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in WITHOUT_POSITIONS])
def test_the_order_of_items_matters(kind: str) -> None:
    encoder, e_13D = build(kind), torch.randn(1, 3, WIDTH)
    swapped = run(encoder, e_13D[:, [1, 0, 2]], valid([3], 3))
    assert not torch.allclose(run(encoder, e_13D, valid([3], 3))[:, 2], swapped[:, 2], atol=1e-4)


@both_masks
def test_a_sequence_of_nothing_is_finite(kind: str, is_causal: bool) -> None:
    assert torch.isfinite(run(build(kind, is_causal), torch.randn(2, 3, WIDTH), valid([0, 2], 3))).all()


@contract
def test_every_parameter_is_trained(kind: str) -> None:
    encoder = build(kind).train()
    run(encoder, torch.randn(2, LENGTH, WIDTH), valid([LENGTH, 3], LENGTH)).pow(3).sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@contract
def test_dropout_acts_while_training_and_only_then(kind: str) -> None:
    encoder, e_BLD, mask = build(kind), torch.randn(2, 4, WIDTH), valid([4, 4], 4)
    assert torch.equal(run(encoder, e_BLD, mask), run(encoder, e_BLD, mask))
    encoder.train()
    assert not torch.equal(run(encoder, e_BLD, mask), run(encoder, e_BLD, mask))


@contract
def test_weights_carry_the_whole_encoder(kind: str) -> None:
    first, second = build(kind), build(kind)
    with torch.no_grad():
        for parameter in second.parameters():
            parameter.add_(1)
    second.load_state_dict(first.state_dict())
    e_BLD, mask = torch.randn(2, 4, WIDTH), valid([4, 1], 4)
    torch.testing.assert_close(run(second, e_BLD, mask), run(first, e_BLD, mask))


@contract
def test_too_long_a_sequence_is_refused(kind: str) -> None:
    with pytest.raises(ModelError, match=f"at most {LENGTH}"):
        run(build(kind), torch.randn(1, LENGTH + 1, WIDTH), valid([3], LENGTH + 1))


@contract
def test_a_masked_item_model_asks_at_a_mask_behind_the_newest_item(kind: str) -> None:
    encoder = encoder_sizes(kind, layers=1)
    config, catalog = tiny_model("id", prediction="masked_item", encoder=encoder), world_catalog()
    model = Precise(config, catalog.num_rows, catalog.known_token_ids, "universal", 3).eval()
    items = torch.tensor([[2, 3, 4, 5, 6, 7, 8, 9]])  # as long as allowed: the oldest makes room for the mask
    e_BLD = fuse_distinct(model, catalog, items)[0]
    times = times_of(e_BLD)
    user = model.user_embeddings(e_BLD, items > 0, times)
    shifted = fuse_distinct(model, catalog, torch.tensor([[3, 4, 5, 6, 7, 8, 9, 9]]))[0]
    masked = model.masked(shifted, torch.arange(LENGTH)[None] == LENGTH - 1)
    events_BL = torch.cat([times.events_BL[:, 1:], times.asked_BL[:, -1:]], dim=1)  # the mask is when the user is asked
    torch.testing.assert_close(user, model.position_states(masked, items > 0, times=Times(events_BL, events_BL))[:, -1])
    with pytest.raises(ModelError, match="no targeted stage"):
        Precise(config, catalog.num_rows, catalog.known_token_ids, "targeted", 3)


def test_an_unknown_encoder_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"no encoder 'mamba'.*bert4rec.*sasrec.*transformer"):
        EncoderConfig(kind="mamba")


def test_every_kind_that_a_configuration_accepts_is_registered() -> None:
    for kind in KINDS:
        assert EncoderConfig(kind=kind).kind == kind
        assert ENCODERS[kind].__module__.endswith(f".{kind}")


def test_a_file_has_one_encoder() -> None:
    with pytest.raises(ModelError, match="'sasrec' is registered already, as SASRecEncoder"):
        register(ENCODERS["sasrec"])
