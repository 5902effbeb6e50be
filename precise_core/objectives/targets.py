"""What is to be predicted from a window: items of a strictly later instant.

Several events may share one instant (a shopping basket). None of them is known before that instant, so no item of it
may be predicted from another one. Where no two events share an instant and the horizon is 0, this is plain next-item
prediction.

With a horizon the targets come from all instants up to that long after the newest event seen, and from the next one
in any case: the dense all-action loss of PinnerFormer (https://arxiv.org/abs/2205.04507), for vectors that are written
once a night and used until the next one.

All items that the targets are drawn from are equally right: those that were not drawn are no negatives either.

B windows, L positions, P loss positions, M targets per position, E examples.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from precise_core.models.times import Times
from schemas import columns as c


@dataclass(frozen=True)
class RightItems:
    """Every item that is right for a position, drawn as a target or not: a run of columns of its window.

    Attributes:
        item_indices_BL: The windows.
        rows_P: Window of each position.
        start_P: First column of its run.
        size_P: Length of it, at least 1.
    """

    item_indices_BL: torch.Tensor
    rows_P: torch.Tensor
    start_P: torch.Tensor
    size_P: torch.Tensor

    def whole_windows(self) -> RightItems:
        """All items of each position's window, as if every one were right."""
        length = self.item_indices_BL.shape[1]
        return replace(self, start_P=torch.zeros_like(self.start_P), size_P=torch.full_like(self.size_P, length))


@dataclass(frozen=True)
class PositionTargets:
    """Inputs of a causal encoder and what its positions predict (Universal Training).

    Attributes:
        item_indices_BL: The windows without their last instant, left-padded again to the longest of them: it is only
            ever predicted, and the newest position must be one that is trained, because serving reads the user vector
            there.
        valid_mask_BL: True = real position.
        times: Of every position; the newest is asked at the instant that it predicts.
        rows_P: Window of each loss position.
        positions_P: Its position: the last one of an instant, where the whole instant has been seen.
        targets_PM: Items drawn from the next instant, or from all within the horizon, without repetition.
        target_mask_PM: True = a real target; every row has at least one, which the other entries repeat.
        right: The whole future that the targets were drawn from, in the windows as they were given.
    """

    item_indices_BL: torch.Tensor
    valid_mask_BL: torch.Tensor
    times: Times
    rows_P: torch.Tensor
    positions_P: torch.Tensor
    targets_PM: torch.Tensor
    target_mask_PM: torch.Tensor
    right: RightItems


@dataclass(frozen=True)
class CutExamples:
    """(history, next item) pairs (Targeted Training).

    Attributes:
        rows_E: Window each example was cut from.
        item_indices_EL: Events before the cut, left-padded.
        valid_mask_EL: True = real position; every row has at least one.
        times: Of every position; the newest is asked at the cut.
        targets_E: An item of the instant at the cut, or of all within the horizon.
        right: The whole future that the target was drawn from.
    """

    rows_E: torch.Tensor
    item_indices_EL: torch.Tensor
    valid_mask_EL: torch.Tensor
    times: Times
    targets_E: torch.Tensor
    right: RightItems


def future_targets(
    item_indices_BL: torch.Tensor,
    event_ts_BL: torch.Tensor,
    valid_mask_BL: torch.Tensor,
    num_targets: int,
    generator: torch.Generator,
    horizon_seconds: int = 0,
    only_new: bool = False,
) -> PositionTargets:
    """Up to ``num_targets`` items of the future for the last position of every instant but the last.

    With ``only_new`` those that the window held before count as drawn and are left out.
    """
    L = item_indices_BL.shape[1]
    is_last_BL = _ends_instant(event_ts_BL)
    rows_P, positions_P = (is_last_BL & valid_mask_BL)[:, : L - 1].nonzero(as_tuple=True)
    start_P = positions_P + 1
    size_P = _size_of_future(event_ts_BL, is_last_BL, rows_P, start_P, horizon_seconds)
    # Even steps round a circle, from a random start: every item is equally likely and none is drawn twice.
    first_P = (uniform((len(size_P),), generator, size_P.device) * size_P).long()
    draw_M = torch.arange(num_targets, device=size_P.device)
    step_P1 = (size_P // num_targets).clamp(min=1)[:, None]
    offset_PM = (first_P[:, None] + draw_M * step_P1) % size_P[:, None]
    columns_PM = start_P[:, None] + offset_PM
    targets_PM = item_indices_BL[rows_P[:, None], columns_PM]
    mask_PM = (draw_M < size_P[:, None]) & (targets_PM >= c.FIRST_ITEM_INDEX)
    if only_new:
        mask_PM = mask_PM & (_first_column(item_indices_BL)[rows_P[:, None], columns_PM] > positions_P[:, None])
    mask_PM = mask_PM & ~_repeats_an_earlier_draw(targets_PM)
    kept_P = mask_PM.any(dim=1)
    targets_PM = targets_PM.where(mask_PM, targets_PM.gather(1, mask_PM.long().argmax(dim=1, keepdim=True)))
    last_start_B = _last_start(is_last_BL)
    from_BL, valid_BL = _columns_before(last_start_B, valid_mask_BL)
    first = L - max(1, int(valid_BL.sum(dim=1).max()))
    from_BL, valid_BL = from_BL[:, first:], valid_BL[:, first:]
    items_BL = item_indices_BL.gather(1, from_BL) * valid_BL
    times = Times.of_histories(event_ts_BL, event_ts_BL[:, -1]).each(lambda x_BL: x_BL.gather(1, from_BL))
    moved_P = (positions_P + L - first - last_start_B[rows_P])[kept_P]
    rows_P = rows_P[kept_P]
    right = RightItems(item_indices_BL, rows_P, start_P[kept_P], size_P[kept_P])
    return PositionTargets(items_BL, valid_BL, times, rows_P, moved_P, targets_PM[kept_P], mask_PM[kept_P], right)


def positions_per_row(
    rows_P: torch.Tensor, positions_P: torch.Tensor, num_rows: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions grouped by row, B x Q, and the column of each one; rows_P must be sorted. Free columns hold 0."""
    counts_B = torch.bincount(rows_P, minlength=num_rows)
    slots_P = torch.arange(len(rows_P), device=rows_P.device) - (counts_B.cumsum(0) - counts_B)[rows_P]
    at_BQ = rows_P.new_zeros(num_rows, int(counts_B.max()))
    at_BQ[rows_P, slots_P] = positions_P
    return at_BQ, slots_P


def draw_cuts(
    item_indices_BL: torch.Tensor,
    event_ts_BL: torch.Tensor,
    valid_mask_BL: torch.Tensor,
    cuts_per_window: int,
    generator: torch.Generator,
    horizon_seconds: int = 0,
    only_new: bool = False,
) -> CutExamples:
    """Up to ``cuts_per_window`` different instants of each window; an item of the future of each, from what was before.

    The horizon is counted from the newest event before the cut. With ``only_new`` a cut whose item was there before is
    left out.
    """
    B, L = item_indices_BL.shape
    is_last_BL = _ends_instant(event_ts_BL)
    can_cut_BL = torch.zeros_like(is_last_BL)
    can_cut_BL[:, 1:] = (is_last_BL & valid_mask_BL)[:, :-1]
    keys_BL = uniform((B, L), generator, can_cut_BL.device).masked_fill(~can_cut_BL, -1.0)
    drawn = keys_BL.topk(min(cuts_per_window, L), dim=1)
    rows_E, column_E = (drawn.values >= 0).nonzero(as_tuple=True)
    cut_E = drawn.indices[rows_E, column_E]
    size_E = _size_of_future(event_ts_BL, is_last_BL, rows_E, cut_E, horizon_seconds)
    chosen_E = cut_E + (uniform((len(cut_E),), generator, cut_E.device) * size_E).long()
    targets_E = item_indices_BL[rows_E, chosen_E]
    known_E = targets_E >= c.FIRST_ITEM_INDEX
    if only_new:
        known_E = known_E & (_first_column(item_indices_BL)[rows_E, chosen_E] >= cut_E)
    rows_E, cut_E, size_E, targets_E = rows_E[known_E], cut_E[known_E], size_E[known_E], targets_E[known_E]
    longest = int(cut_E.max()) if len(cut_E) else 1
    from_EL, valid_EL = (x_EL[:, L - longest :] for x_EL in _columns_before(cut_E, valid_mask_BL[rows_E]))
    history_EL = item_indices_BL[rows_E].gather(1, from_EL) * valid_EL
    times = Times.of_histories(event_ts_BL, event_ts_BL[:, -1]).each(lambda x_BL: x_BL[rows_E].gather(1, from_EL))
    right = RightItems(item_indices_BL, rows_E, cut_E, size_E)
    return CutExamples(rows_E, history_EL, valid_EL, times, targets_E, right)


def mask_items(
    item_indices_BL: torch.Tensor, valid_mask_BL: torch.Tensor, share: float, generator: torch.Generator
) -> torch.Tensor:
    """True = masked: a random share of the known items, and at least one of every window that has any.

    In half of the windows only the newest item is masked, which is how the model is used when it serves (BERT4Rec,
    section 3.6, adds such samples once; as many of them as of the others train faster).
    """
    B, L = item_indices_BL.shape
    known_BL = valid_mask_BL & (item_indices_BL >= c.FIRST_ITEM_INDEX)
    keys_BL = uniform((B, L), generator, known_BL.device).masked_fill(~known_BL, 2.0)
    is_lowest_BL = (keys_BL == keys_BL.amin(dim=1, keepdim=True)) & known_BL
    place_L = torch.arange(L, device=known_BL.device)
    newest_BL = known_BL & (place_L == torch.where(known_BL, place_L, -1).amax(dim=1, keepdim=True))
    only_newest_B1 = uniform((B, 1), generator, known_BL.device) < 0.5
    return torch.where(only_newest_B1, newest_BL, known_BL & (keys_BL < share) | is_lowest_BL)


def same_instant(
    item_indices_BL: torch.Tensor, event_ts_BL: torch.Tensor, rows_P: torch.Tensor, positions_P: torch.Tensor
) -> RightItems:
    """What is right at a masked position: all items of its instant, because they have no order."""
    is_last_BL = _ends_instant(event_ts_BL)
    # From the other end the first event of an instant is the last one.
    is_first_BL = _ends_instant(event_ts_BL.flip(1))
    start_P = event_ts_BL.shape[1] - 1 - _instant_end(is_first_BL).flip(1)[rows_P, positions_P]
    return RightItems(item_indices_BL, rows_P, start_P, _instant_end(is_last_BL)[rows_P, positions_P] - start_P + 1)


def uniform(shape: tuple[int, ...], generator: torch.Generator, device: torch.device) -> torch.Tensor:
    """Numbers from 0 to 1, drawn on the CPU whatever the device, so that a run draws the same on each."""
    return torch.rand(shape, generator=generator).to(device)


def _last_start(is_last_BL: torch.Tensor) -> torch.Tensor:
    """Column where the last instant of each window begins."""
    B, L = is_last_BL.shape
    if L == 1:
        return torch.zeros(B, dtype=torch.long, device=is_last_BL.device)
    start_L = torch.arange(1, L, device=is_last_BL.device)
    return torch.where(is_last_BL[:, : L - 1], start_L, 0).amax(dim=1)


def _ends_instant(event_ts_BL: torch.Tensor) -> torch.Tensor:
    is_last_BL = torch.ones_like(event_ts_BL, dtype=torch.bool)
    is_last_BL[:, :-1] = event_ts_BL[:, 1:] != event_ts_BL[:, :-1]
    return is_last_BL


def _instant_end(is_last_BL: torch.Tensor) -> torch.Tensor:
    """Position of the last event of each event's instant: the nearest marked position at or after it."""
    L = is_last_BL.shape[1]
    marked_BL = torch.where(is_last_BL, torch.arange(L, device=is_last_BL.device), L)
    return marked_BL.flip(1).cummin(dim=1).values.flip(1)


def _first_column(item_indices_BL: torch.Tensor) -> torch.Tensor:
    """Where in its window each item is for the first time."""
    return (item_indices_BL[:, :, None] == item_indices_BL[:, None, :]).long().argmax(dim=2)


def _size_of_future(
    event_ts_BL: torch.Tensor,
    is_last_BL: torch.Tensor,
    rows_P: torch.Tensor,
    start_P: torch.Tensor,
    horizon_seconds: int,
) -> torch.Tensor:
    """Events from ``start_P`` to the end of its instant, or to the end of the horizon where that is later."""
    end_P = _instant_end(is_last_BL)[rows_P, start_P]
    if horizon_seconds:
        until_P1 = event_ts_BL[rows_P, start_P - 1][:, None] + horizon_seconds
        within_P = torch.searchsorted(event_ts_BL[rows_P], until_P1, right=True)[:, 0]
        end_P = torch.maximum(end_P, within_P - 1)
    return end_P - start_P + 1


def _columns_before(cut_B: torch.Tensor, valid_mask_BL: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Where the positions before the cut come from once they are moved to the right end, and which of them are real."""
    L = valid_mask_BL.shape[1]
    source_BL = torch.arange(L, device=cut_B.device) - (L - cut_B)[:, None]
    from_BL = source_BL.clamp(min=0)
    return from_BL, (source_BL >= 0) & valid_mask_BL.gather(1, from_BL)


def _repeats_an_earlier_draw(targets_PM: torch.Tensor) -> torch.Tensor:
    same_PMM = targets_PM[:, :, None] == targets_PM[:, None, :]
    return same_PMM.tril(diagonal=-1).any(dim=2)
