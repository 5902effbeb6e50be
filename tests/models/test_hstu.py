"""HSTU: every layer is the published formula, and when things happened counts where it is known."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from precise_core.config import load_config
from precise_core.errors import ConfigError, ModelError
from precise_core.models.config import EncoderConfig
from precise_core.models.encoders.hstu import HSTUBlock, HSTUEncoder, time_buckets
from precise_core.models.times import Times, usual_gap
from precise_core.settings import Settings
from precise_core.training.checkpoint import Checkpoint
from precise_core.training.setup import TrainingInputs
from precise_core.training.targeted import train_targeted
from precise_core.vectors.encoding import HistoryTimes, encode_users
from tests.torch_world import (
    ARROW,
    LENGTH,
    encoder_sizes,
    tiny_model,
    tiny_targeted,
    universal_training,
    world_catalog,
    world_snapshot,
)

WIDTH, HEADS = 8, 2
SECONDS = torch.tensor([[0, 100, 100, 5_000, 90_000], [0, 0, 0, 7, 40_000_000]])
ASKED = torch.tensor([200_000, 40_000_001])
VALID = torch.tensor([[False, True, True, True, True], [False, False, False, True, True]])
DivideBy = Literal["max_length", "visible"]


def encoder(is_causal: bool = True, layers: int = 1, **changes: Any) -> HSTUEncoder:
    torch.manual_seed(0)
    config = EncoderConfig.model_validate(encoder_sizes("hstu", layers=layers, heads=HEADS, **changes))
    made = HSTUEncoder(config, WIDTH, is_causal)
    with torch.no_grad():  # larger than at the start, so that every term counts
        for parameter in made.parameters():
            parameter.normal_(std=0.5)
    return made.eval()


def times(shift: int = 0) -> Times:
    return Times.of_histories(SECONDS + shift, ASKED + shift)


def normed(x: torch.Tensor) -> torch.Tensor:
    return (x - x.mean()) / (x.var(unbiased=False) + 1e-6).sqrt()


def bucket(seconds: int) -> int:
    return min(128, math.floor(math.log(max(1, abs(seconds))) / 0.301))


def layer_by_hand(block: HSTUBlock, x_LD: torch.Tensor, row: int, is_causal: bool, divide_by: DivideBy) -> torch.Tensor:
    """One user's states after one layer, number by number."""
    L, d = len(x_LD), WIDTH // HEADS
    W_u, W_q = block.gate_query.weight.chunk(2)
    W_v, W_k = block.value_key.weight.chunk(2)
    u, q, v, k = ([F.silu(W @ normed(x)) for x in x_LD] for W in (W_u, W_q, W_v, W_k))
    p, t = block.position_bias.weight[:, 0], block.time_bias.weight[:, 0] if block.time_bias else None
    asked = [*SECONDS[row, 1:].tolist(), int(ASKED[row])]
    after = []
    for i in range(L):
        visible = [j for j in range(L) if VALID[row, j] and (j <= i or not is_causal)]
        n = LENGTH if divide_by == "max_length" else len(visible)
        mixed = torch.zeros(WIDTH)
        for head in range(HEADS):
            part = slice(head * d, (head + 1) * d)
            for j in visible:
                bias = p[j - i + LENGTH - 1]
                if t is not None:
                    bias = bias + t[bucket(asked[i] - int(SECONDS[row, j]))]
                mixed[part] = mixed[part] + F.silu(q[i][part] @ k[j][part] + bias) / n * v[j][part]
        after.append(x_LD[i] + block.out.weight @ (u[i] * normed(mixed)) + block.out.bias)
    return torch.stack(after)


@pytest.mark.parametrize("is_causal", [True, False])
@pytest.mark.parametrize("divide_by", ["max_length", "visible"])
@pytest.mark.parametrize("time_bias", [True, False])
def test_a_layer_is_the_published_formula(is_causal: bool, divide_by: DivideBy, time_bias: bool) -> None:
    made = encoder(is_causal, divide_by=divide_by, time_bias=time_bias)
    e_BLD = torch.randn(2, 5, WIDTH)
    (block,) = made.blocks
    assert isinstance(block, HSTUBlock)
    with torch.no_grad():
        found = made(e_BLD, VALID, times=times() if time_bias else None)
        for row, first in enumerate([1, 3]):
            # The oldest item stands at place 0.
            x_LD = torch.zeros(5, WIDTH)
            x_LD[first:] = e_BLD[row, first:] * math.sqrt(WIDTH) + made.positions.weight[: 5 - first]
            expected = layer_by_hand(block, x_LD, row, is_causal, divide_by)
            torch.testing.assert_close(found[row, first:], expected[first:], rtol=1e-5, atol=1e-6)


def test_buckets_are_steps_of_the_natural_logarithm_and_the_last_one_is_open() -> None:
    seconds = [0, 1, -1, 2, 3, 60, 3600, 86_400, -86_400, 10**9, 10**17]
    assert time_buckets(torch.tensor(seconds)).tolist() == [bucket(number) for number in seconds]
    assert time_buckets(torch.tensor(2**62)) == 128


def test_places_and_times_count_but_not_the_date() -> None:
    made, e_BLD = encoder(layers=2), torch.randn(2, 5, WIDTH)
    with torch.no_grad():
        before = made(e_BLD, VALID, times=times())
        assert torch.equal(made(e_BLD, VALID, times=times(shift=86_400 * 365)), before)
        later = SECONDS.clone()
        later[0, 3] += 10**6
        moved = made(e_BLD, VALID, times=Times.of_histories(later, ASKED + 10**6))
        assert not torch.allclose(moved[0, -1], before[0, -1], atol=1e-4)
        asked_later = made(e_BLD, VALID, times=Times.of_histories(SECONDS, ASKED + 10**6))
        assert torch.equal(asked_later[:, :-1], before[:, :-1])  # the question is put at the newest event alone
        assert not torch.allclose(asked_later[0, -1], before[0, -1], atol=1e-4)
        for block in made.blocks:
            nn.init.zeros_(block.position_bias.weight)
        assert not torch.allclose(made(e_BLD, VALID, times=times())[0, -1], before[0, -1], atol=1e-4)


def test_every_layer_has_biases_of_its_own_which_the_heads_share() -> None:
    shapes = {name: tuple(parameter.shape) for name, parameter in encoder(layers=2).named_parameters()}
    for layer in range(2):
        assert shapes[f"blocks.{layer}.position_bias.weight"] == (2 * LENGTH - 1, 1)
        assert shapes[f"blocks.{layer}.time_bias.weight"] == (129, 1)
        assert shapes[f"blocks.{layer}.gate_query.weight"] == (2 * WIDTH, WIDTH)
    assert len(shapes) == 1 + 2 * 6  # no norm has weights, there is no feed-forward network
    assert not any("time_bias" in name for name, _ in encoder(time_bias=False).named_parameters())


def test_a_short_history_is_not_strangled_where_the_sum_is_divided_by_what_is_visible() -> None:
    """The norm of the mixed values has an epsilon of 1e-6, which values divided by a long max_length do not reach."""
    torch.manual_seed(0)
    added = {}
    for divide_by in ("max_length", "visible"):
        sizes = encoder_sizes("hstu", layers=1, max_length=50, dropout=0.0, divide_by=divide_by, time_bias=False)
        made = HSTUEncoder(EncoderConfig.model_validate(sizes), 64, True).eval()
        nn.init.zeros_(made.blocks[0].out.bias)
        x_11D, valid_11 = torch.randn(1, 1, 64), torch.ones(1, 1).bool()
        with torch.no_grad():
            added[divide_by] = float((made(x_11D, valid_11) - made.inputs(x_11D, valid_11)).norm())
    assert added["visible"] > 4 * added["max_length"]


def test_without_times_a_model_that_reads_them_is_refused() -> None:
    with pytest.raises(ModelError, match="encoder hstu reads when events happened: it needs times"):
        encoder()(torch.randn(1, 3, WIDTH), torch.ones(1, 3).bool())
    assert encoder(time_bias=False)(torch.randn(1, 3, WIDTH), torch.ones(1, 3).bool()).shape == (1, 3, WIDTH)


def settings(tmp_path: Path, encoder: str, source: str) -> Settings:
    file = tmp_path / "x.yaml"
    file.write_text(
        f"{{name: x, warehouse: w, as_of: 2024-01-10, source: {source}, model: {{encoder: {encoder}}},"
        " windows: {split: leave_one_out}}"
    )
    return load_config(file, Settings)


def test_made_up_times_are_refused_when_the_configuration_is_read(tmp_path: Path) -> None:
    ordered, real = "{kind: amazon_sequences, data: d, domain: Beauty}", "{kind: synthetic}"
    with pytest.raises(ConfigError, match=r"hstu reads when events happened.*amazon_sequences are made up.*time_bias"):
        settings(tmp_path, "{kind: hstu}", ordered)
    assert not settings(tmp_path, "{kind: hstu, time_bias: false}", ordered).model.encoder.uses_times
    assert settings(tmp_path, "{kind: hstu}", real).model.encoder.uses_times
    assert not settings(tmp_path, "{kind: sasrec}", ordered).model.encoder.uses_times


def test_a_width_of_what_it_does_not_have_is_refused() -> None:
    hstu = EncoderConfig(kind="hstu")
    assert hstu.ffn_width is None and EncoderConfig.model_validate(hstu.model_dump()) == hstu
    with pytest.raises(ValueError, match="ffn_width 256: hstu has no feed-forward network; set it to null"):
        EncoderConfig(kind="hstu", ffn_width=256)
    with pytest.raises(ValueError, match="ffn_width null: sasrec has a feed-forward network"):
        EncoderConfig(kind="sasrec", ffn_width=None)


def test_the_usual_gap_is_between_instants_of_one_user() -> None:
    histories = [np.array([0, 0, 10, 40]), np.array([1_000]), np.array([5_000, 5_020])]
    assert usual_gap(histories) == 20
    assert usual_gap([np.array([7])]) == 0 == usual_gap([])


def test_both_stages_train_and_a_user_s_vector_depends_on_when_it_is_asked_for(tmp_path: Path) -> None:
    windows = world_snapshot(tmp_path / "training_windows", ("all", "share"), train=60)
    config = tiny_model("id", encoder=encoder_sizes("hstu", layers=1))
    universal = universal_training(windows, tmp_path / "checkpoints", config, epochs=1)
    inputs = TrainingInputs(
        windows=windows,
        catalog=world_catalog(),
        task="share",
        out=tmp_path / "checkpoints",
        seed=5,
        versions={},
        validation_at=10_000,
        feed_config=ARROW,
    )
    targeted = train_targeted(inputs, tiny_targeted(epochs=1), universal)
    histories = [np.array([2, 4, 6]), np.array([3])]
    seconds = [np.array([100, 101, 102]), np.array([100])]
    for checkpoint in (universal, targeted):
        soon, late = (_users(checkpoint, histories, HistoryTimes(seconds, np.array([at, at]))) for at in (103, 10**7))
        assert np.abs(soon - late).max() > 1e-4
        with pytest.raises(ModelError, match="it needs times"):
            _users(checkpoint, histories, None)


def _users(checkpoint: Checkpoint, histories: list[np.ndarray], times: HistoryTimes | None) -> np.ndarray:
    return encode_users(checkpoint.load_model(), world_catalog(), histories, LENGTH, times=times)
