"""Rows of like length together, so that an encoder spends little of its time on padding.

B windows, L positions, P loss positions, Q of them in a row, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from precise_core.models.precise import Precise
from precise_core.models.times import Times
from precise_core.objectives.targets import positions_per_row

_GROUPS = 4
_POSITIONS_OF_A_PASS = 512  # what a pass costs whatever its size, in positions, measured at width 64
_WORTH_CHOOSING = 0.75  # share of positions up to which the last layer is computed for them alone


@dataclass(frozen=True)
class RowGroup:
    """Neighbouring rows of a left-padded batch, and the first column that one of them uses."""

    start: int
    end: int
    first: int

    def of(self, x_BL: torch.Tensor) -> torch.Tensor:
        """The group's part of a batch."""
        return x_BL[self.start : self.end, self.first :]

    def places(self, rows_P: torch.Tensor, positions_P: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Those loss positions that lie in the group, as rows and columns of its part."""
        here_P = (rows_P >= self.start) & (rows_P < self.end)
        return rows_P[here_P] - self.start, positions_P[here_P] - self.first


def groups_of_like_length(valid_mask_BL: torch.Tensor) -> list[RowGroup]:
    """The batch as one group, or as a few, where that spares more padding than the further passes cost.

    The feed sorts windows by length, so neighbours are alike: a batch that begins with the longest of all windows and
    ends with short ones is half padding.
    """
    B, L = valid_mask_BL.shape
    lengths_B = valid_mask_BL.sum(dim=1)
    groups, start = [], 0
    for part in lengths_B.split(-(-B // _GROUPS)):
        groups.append(RowGroup(start, start + len(part), L - max(1, int(part.max()))))
        start += len(part)
    positions = sum((group.end - group.start) * (L - group.first) for group in groups)
    whole = RowGroup(0, B, min(group.first for group in groups))
    spared = B * (L - whole.first) - positions
    return groups if spared > (len(groups) - 1) * _POSITIONS_OF_A_PASS else [whole]


def states_by_groups(
    model: Precise,
    groups: Sequence[RowGroup],
    e_parts: Sequence[torch.Tensor],
    valid_mask_BL: torch.Tensor,
    masked_BL: torch.Tensor | None,
    times: Times | None,
    rows_P: torch.Tensor,
    positions_P: torch.Tensor,
) -> torch.Tensor:
    """States of the last layer at some positions of a batch, P x D.

    Args:
        valid_mask_BL: True = real position of the batch.
        masked_BL: True = the mask vector is there instead; None = nowhere.
        times: Of every position of the batch; None where the model reads none.
        rows_P, positions_P: Row of each position, in ascending order, and its column.
    """
    h_parts = []
    for group, e_BLD in zip(groups, e_parts, strict=True):
        masked_e_BLD = model.masked(e_BLD, None if masked_BL is None else group.of(masked_BL))
        inputs = (masked_e_BLD, group.of(valid_mask_BL), times and times.each(group.of))
        h_parts.append(_states_at(model, *inputs, *group.places(rows_P, positions_P)))
    return torch.cat(h_parts)


def _states_at(
    model: Precise,
    e_BLD: torch.Tensor,
    valid_mask_BL: torch.Tensor,
    times: Times | None,
    rows_P: torch.Tensor,
    positions_P: torch.Tensor,
) -> torch.Tensor:
    B, L, D = e_BLD.shape
    if not len(rows_P):
        return e_BLD.new_zeros(0, D)
    at_BQ, slots_P = positions_per_row(rows_P, positions_P, B)
    if at_BQ.shape[1] <= _WORTH_CHOOSING * L:
        h_BQD = model.position_states(e_BLD, valid_mask_BL, at_BQ, times)
    else:
        h_BQD, slots_P = model.position_states(e_BLD, valid_mask_BL, times=times), positions_P
    # By one index: the gradient of two is more expensive.
    return h_BQD.flatten(0, 1).index_select(0, rows_P * h_BQD.shape[1] + slots_P)
