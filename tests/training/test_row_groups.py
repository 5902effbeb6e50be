"""Rows of like length go through an encoder together, and nobody notices but the clock."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from precise_core.models.config import ModelConfig
from precise_core.models.encoders import ENCODERS
from precise_core.models.precise import Precise
from precise_core.training import row_groups
from precise_core.training.row_groups import groups_of_like_length, states_by_groups
from tests.torch_world import encoder_sizes, times_of

WIDTH = 8


def left_padded(lengths: list[int], L: int) -> torch.Tensor:
    return torch.arange(L) >= L - torch.tensor(lengths)[:, None]


def model(kind: str) -> Precise:
    torch.manual_seed(3)
    encoder = encoder_sizes(kind, max_length=50)
    config = ModelConfig.model_validate({"fusion": {"mode": "id", "id_width": WIDTH}, "encoder": encoder})
    known = torch.zeros(0, dtype=torch.long)
    return Precise(config, 10, known, "universal", 1).eval()


@settings(max_examples=60, deadline=None)
@given(lengths=st.lists(st.integers(0, 12), min_size=1, max_size=30), spare=st.integers(1, 3))
def test_groups_hold_every_real_position_once(lengths: list[int], spare: int) -> None:
    valid_BL = left_padded(lengths, max(lengths) + spare)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_groups, "_POSITIONS_OF_A_PASS", 1)
        groups = groups_of_like_length(valid_BL)
    assert [row for group in groups for row in range(group.start, group.end)] == list(range(len(lengths)))
    assert sum(int(group.of(valid_BL).sum()) for group in groups) == sum(lengths)
    assert all(group.of(valid_BL).shape[1] >= 1 for group in groups)


def test_a_batch_is_taken_apart_only_where_that_spares_much_padding() -> None:
    assert len(groups_of_like_length(left_padded([50] * 32 + [10] * 96, 50))) == 4
    assert len(groups_of_like_length(left_padded([50] * 128, 50))) == 1
    assert len(groups_of_like_length(left_padded([5] * 64 + [4] * 64, 5))) == 1


@pytest.mark.parametrize("kind", sorted(ENCODERS))
@pytest.mark.parametrize("share", [0.1, 1.0])  # few positions of a row, where the last layer is computed there alone
def test_states_by_groups_are_those_of_the_whole_batch(kind: str, share: float) -> None:
    lengths = [50, 44, 31, 20, 9, 9, 5, 1, 0, 3, 3, 2] * 8
    valid_BL = left_padded(sorted(lengths, reverse=True), 50)
    e_BLD = torch.randn(*valid_BL.shape, WIDTH)
    chosen_BL = valid_BL & (torch.rand(valid_BL.shape) < share)
    rows_P, positions_P = chosen_BL.nonzero(as_tuple=True)
    trained, groups = model(kind), groups_of_like_length(valid_BL)
    assert len(groups) > 1
    with torch.no_grad():
        parts = [group.of(e_BLD) for group in groups]
        times = times_of(e_BLD)
        found_PD = states_by_groups(trained, groups, parts, valid_BL, None, times, rows_P, positions_P)
        expected_PD = trained.position_states(e_BLD, valid_BL, times=times)[rows_P, positions_P]
    torch.testing.assert_close(found_PD, expected_PD)
