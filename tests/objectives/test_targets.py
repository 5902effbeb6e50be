"""Targets are strictly later, every item of the future is equally likely, and all of it is known to be right."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from precise_core.objectives.targets import (
    RightItems,
    draw_cuts,
    future_targets,
    mask_items,
    positions_per_row,
    same_instant,
)

L = 7


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@st.composite
def windows(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Left-padded windows of few items (so that they repeat) with shared instants; 1 = unknown item."""
    rows = draw(
        st.lists(
            st.lists(st.tuples(st.integers(1, 9), st.integers(0, 2)), min_size=1, max_size=L), min_size=1, max_size=4
        )
    )
    items, times, valid = (torch.zeros(len(rows), L, dtype=kind) for kind in (torch.long, torch.long, torch.bool))
    for b, events in enumerate(rows):
        clock = 100
        for position, (item, gap) in enumerate(events, start=L - len(events)):
            clock += gap
            items[b, position], times[b, position], valid[b, position] = item, clock, True
    return items, times, valid


def instants(items: torch.Tensor, times: torch.Tensor, valid: torch.Tensor) -> list[tuple[int, list[int]]]:
    """One row's instants, oldest first: (first position, items)."""
    found: list[tuple[int, list[int]]] = []
    for position in range(L):
        if valid[position] and found and times[position] == times[position - 1]:
            found[-1][1].append(int(items[position]))
        elif valid[position]:
            found.append((position, [int(items[position])]))
    return found


def right_items(right: RightItems) -> list[list[int]]:
    """Of each position."""
    runs = zip(right.rows_P.tolist(), right.start_P.tolist(), right.size_P.tolist(), strict=True)
    return [right.item_indices_BL[row, start : start + size].tolist() for row, start, size in runs]


@settings(max_examples=150, deadline=None)
@given(batch=windows(), num_targets=st.integers(1, 4), seed=st.integers(0, 99))
def test_positions_predict_items_of_the_next_instant(
    batch: tuple[torch.Tensor, torch.Tensor, torch.Tensor], num_targets: int, seed: int
) -> None:
    drawn = future_targets(*batch, num_targets, generator(seed))
    found = {}
    for row, position, targets, mask in zip(
        drawn.rows_P.tolist(), drawn.positions_P.tolist(), drawn.targets_PM, drawn.target_mask_PM, strict=True
    ):
        found[row, position] = (targets.tolist(), targets[mask].tolist())
    expected = {}
    for row, (items, times, valid) in enumerate(zip(*batch, strict=True)):
        groups = instants(items, times, valid)
        seen = [item for _, group in groups[:-1] for item in group]
        assert drawn.item_indices_BL[row][drawn.valid_mask_BL[row]].tolist() == seen  # the last instant is not an input
        assert (drawn.item_indices_BL[row][~drawn.valid_mask_BL[row]] == 0).all()
        if groups:
            moved = drawn.item_indices_BL.shape[1] - groups[-1][0]
            for (start, _), (_, following) in zip(groups[1:], groups[1:], strict=True):
                expected[row, start - 1 + moved] = following
    longest = int(drawn.valid_mask_BL.sum(dim=1).max())
    assert drawn.item_indices_BL.shape[1] == max(longest, 1)  # no column is padding alone
    assert right_items(drawn.right) == [expected[place] for place in found]
    for place, (all_entries, real) in found.items():
        following = expected[place]
        known = {item for item in following if item >= 2}
        assert set(real) <= known and len(set(real)) == len(real) and set(all_entries) == set(real)
        if len(following) <= num_targets:
            assert set(real) == known  # a small basket is predicted whole
    for place, following in expected.items():
        if len(following) <= num_targets and any(item >= 2 for item in following):
            assert place in found


def test_without_ties_every_position_predicts_the_next_item() -> None:
    items, times = torch.tensor([[0, 2, 3, 4, 5]]), torch.tensor([[0, 10, 20, 30, 40]])
    drawn = future_targets(items, times, items > 0, 2, generator())
    assert drawn.item_indices_BL.tolist() == [[2, 3, 4]]
    assert drawn.positions_P.tolist() == [0, 1, 2]
    assert drawn.targets_PM[:, 0].tolist() == [3, 4, 5]
    assert drawn.target_mask_PM.tolist() == [[True, False]] * 3


def test_a_position_is_asked_at_the_next_event_and_the_newest_one_at_what_it_predicts() -> None:
    items, times = torch.tensor([[0, 2, 3, 4, 5], [6, 7, 8, 9, 2]]), torch.tensor([[0, 1, 4, 4, 9], [1, 3, 3, 7, 7]])
    drawn = future_targets(items, times, items > 0, 1, generator())
    assert drawn.times.events_BL.tolist() == [[1, 4, 4], [1, 3, 3]]
    assert drawn.times.asked_BL.tolist() == [[4, 4, 9], [3, 3, 7]]
    cuts = draw_cuts(items, times, items > 0, 9, generator())
    for row, valid, events, asked in zip(
        cuts.rows_E.tolist(), cuts.valid_mask_EL, cuts.times.events_BL, cuts.times.asked_BL, strict=True
    ):
        real = times[row][items[row] > 0].tolist()
        seen = int(valid.sum())
        assert events[valid].tolist() == real[:seen] and asked[valid].tolist() == real[1 : seen + 1]
    assert len(cuts.rows_E) == 4


def test_every_item_of_a_basket_is_drawn_equally_often() -> None:
    items, times = torch.tensor([[2, 3, 4, 5]]).repeat(4000, 1), torch.tensor([[10, 20, 20, 20]]).repeat(4000, 1)
    drawn = future_targets(items, times, items > 0, 2, generator())
    shares = torch.bincount(drawn.targets_PM.flatten(), minlength=6)[3:] / 8000
    torch.testing.assert_close(shares, torch.full((3,), 1 / 3), atol=0.02, rtol=0)


@settings(max_examples=150, deadline=None)
@given(batch=windows(), cuts=st.integers(1, 9), seed=st.integers(0, 99))
def test_cuts_are_instants_predicted_from_everything_before_them(
    batch: tuple[torch.Tensor, torch.Tensor, torch.Tensor], cuts: int, seed: int
) -> None:
    drawn = draw_cuts(*batch, cuts, generator(seed))
    histories: dict[int, list[list[int]]] = {row: [] for row in range(len(batch[0]))}
    for row, items, valid, target in zip(
        drawn.rows_E.tolist(), drawn.item_indices_EL, drawn.valid_mask_EL, drawn.targets_E.tolist(), strict=True
    ):
        histories[row].append(items[valid].tolist())
        groups = instants(*(part[row] for part in batch))
        possible = {len([i for _, group in groups[:n] for i in group]): groups[n][1] for n in range(1, len(groups))}
        everything = [item for _, group in groups for item in group]
        size = len(histories[row][-1])
        assert histories[row][-1] == everything[:size]
        assert target in possible[size] and target >= 2
    for row, cut_histories in histories.items():
        sizes = [len(history) for history in cut_histories]
        assert len(set(sizes)) == len(sizes) <= cuts  # no instant twice
        groups = instants(*(part[row] for part in batch))
        if all(item >= 2 for _, group in groups for item in group):
            assert len(sizes) == min(cuts, max(0, len(groups) - 1))


@settings(max_examples=150, deadline=None)
@given(batch=windows(), num_targets=st.integers(1, 4), horizon=st.integers(1, 8), seed=st.integers(0, 99))
def test_a_horizon_reaches_all_instants_within_it_and_the_next_one_in_any_case(
    batch: tuple[torch.Tensor, torch.Tensor, torch.Tensor], num_targets: int, horizon: int, seed: int
) -> None:
    drawn = future_targets(*batch, num_targets, generator(seed), horizon)
    plain = future_targets(*batch, num_targets, generator(seed))
    assert torch.equal(drawn.item_indices_BL, plain.item_indices_BL)
    cuts = draw_cuts(*batch, L, generator(seed), horizon)
    drawn_right, cuts_right = right_items(drawn.right), right_items(cuts.right)
    for row, (items, times, valid) in enumerate(zip(*batch, strict=True)):
        groups = instants(items, times, valid)
        future = {}  # of every number of events seen
        for number, (start, following) in enumerate(groups[1:], start=1):
            until = int(times[start - 1]) + horizon
            later = [item for first, group in groups[number + 1 :] if times[first] <= until for item in group]
            future[sum(len(group) for _, group in groups[:number])] = following + later
        padding = int((~drawn.valid_mask_BL[row]).sum())
        of_row = drawn.rows_P == row
        found = {}
        for position, targets, mask in zip(
            drawn.positions_P[of_row].tolist(), drawn.targets_PM[of_row], drawn.target_mask_PM[of_row], strict=True
        ):
            found[position + 1 - padding] = real = targets[mask].tolist()
            assert len(set(real)) == len(real)
        right_of_row = [right for right, is_here in zip(drawn_right, of_row.tolist(), strict=True) if is_here]
        assert right_of_row == [future[seen] for seen in found]
        for seen, possible in future.items():
            known = {item for item in possible if item >= 2}
            if seen in found:
                assert set(found[seen]) <= known
            if len(possible) <= num_targets:
                assert set(found.get(seen, [])) == known  # a short future is predicted whole
        of_row = cuts.rows_E == row
        right_of_row = [right for right, is_here in zip(cuts_right, of_row.tolist(), strict=True) if is_here]
        seen_E, targets_E = cuts.valid_mask_EL[of_row].sum(dim=1).tolist(), cuts.targets_E[of_row].tolist()
        assert right_of_row == [future[seen] for seen in seen_E]
        assert all(target in right for target, right in zip(targets_E, right_of_row, strict=True))


def test_every_item_within_the_horizon_is_drawn_equally_often() -> None:
    items = torch.arange(2, 10).repeat(4000, 1)
    times = torch.tensor([[0, 60, 60, 120, 180, 240, 300, 360]]).repeat(4000, 1)
    drawn = future_targets(items, times, items > 0, 2, generator(), horizon_seconds=240)
    first = drawn.targets_PM[drawn.positions_P == 0]  # may be any of the five up to 240 s
    shares = torch.bincount(first.flatten(), minlength=10) / 8000
    torch.testing.assert_close(shares[3:8], torch.full((5,), 1 / 5), atol=0.02, rtol=0)
    assert (first[:, 0] != first[:, 1]).all()
    cuts = draw_cuts(items, times, items > 0, 1, generator(), horizon_seconds=240)
    from_first = cuts.targets_E[cuts.valid_mask_EL.sum(dim=1) == 1]
    shares = torch.bincount(from_first, minlength=10) / len(from_first)
    torch.testing.assert_close(shares[3:8], torch.full((5,), 1 / 5), atol=0.08, rtol=0)


@settings(max_examples=150, deadline=None)
@given(batch=windows(), num_targets=st.integers(1, 4), horizon=st.integers(0, 8), seed=st.integers(0, 99))
def test_on_request_only_items_new_to_the_user_are_targets(
    batch: tuple[torch.Tensor, torch.Tensor, torch.Tensor], num_targets: int, horizon: int, seed: int
) -> None:
    def targets(only_new: bool) -> dict[tuple[int, int], set[int]]:
        drawn = future_targets(*batch, num_targets, generator(seed), horizon, only_new)
        places = zip(drawn.rows_P.tolist(), drawn.positions_P.tolist(), strict=True)
        real = [set(items[mask].tolist()) for items, mask in zip(drawn.targets_PM, drawn.target_mask_PM, strict=True)]
        seen = {}
        for (row, position), items in zip(places, real, strict=True):
            inputs = drawn.item_indices_BL[row][: position + 1]
            seen[row, position] = items - set(inputs.tolist()) if not only_new else items
            assert only_new is False or not items & set(inputs.tolist())
        return {place: items for place, items in seen.items() if items}

    assert targets(only_new=True) == targets(only_new=False)
    cuts = [draw_cuts(*batch, L, generator(seed), horizon, only_new) for only_new in (False, True)]
    found: list[list[tuple[int, list[int], int]]] = []
    for drawn in cuts:
        histories = [
            items[valid].tolist() for items, valid in zip(drawn.item_indices_EL, drawn.valid_mask_EL, strict=True)
        ]
        found.append(list(zip(drawn.rows_E.tolist(), histories, drawn.targets_E.tolist(), strict=True)))
    assert found[1] == [(row, history, item) for row, history, item in found[0] if item not in history]


def test_positions_are_grouped_by_row() -> None:
    rows, positions = torch.tensor([0, 0, 2, 2, 2]), torch.tensor([4, 6, 1, 2, 3])
    at, slots = positions_per_row(rows, positions, 4)
    assert at.tolist() == [[4, 6, 0], [0, 0, 0], [1, 2, 3], [0, 0, 0]]
    assert at[rows, slots].tolist() == positions.tolist()


def test_the_same_seed_draws_the_same() -> None:
    items, times = torch.arange(2, 22).view(2, 10), torch.arange(20).view(2, 10) // 3
    for draw in (
        lambda g: future_targets(items, times, items > 0, 2, g).targets_PM,
        lambda g: draw_cuts(items, times, items > 0, 2, g).targets_E,
    ):
        assert torch.equal(draw(generator(1)), draw(generator(1)))


@settings(max_examples=100, deadline=None)
@given(batch=windows(), seed=st.integers(0, 99))
def test_masks_cover_known_items_only_and_at_least_one_of_a_window(
    batch: tuple[torch.Tensor, torch.Tensor, torch.Tensor], seed: int
) -> None:
    items, _, valid = batch
    masked = mask_items(items, valid, 0.3, generator(seed))
    known = valid & (items >= 2)
    assert not (masked & ~known).any()
    assert (masked.any(dim=1) == known.any(dim=1)).all()


def test_half_of_the_windows_are_asked_for_their_newest_item_alone() -> None:
    items = torch.arange(2, 12).repeat(2000, 1)
    masked = mask_items(items, items > 0, 0.2, generator())
    only_newest = masked[:, -1] & (masked.sum(dim=1) == 1)
    assert 0.47 < float(only_newest.float().mean()) < 0.55
    others = masked[~only_newest].float().mean()
    assert 0.19 < float(others) < 0.24


@settings(max_examples=100, deadline=None)
@given(batch=windows())
def test_at_a_masked_position_its_whole_instant_is_right(
    batch: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
) -> None:
    items, times, valid = batch
    rows, positions = valid.nonzero(as_tuple=True)
    expected = []
    for row in range(len(items)):
        for _, group in instants(items[row], times[row], valid[row]):
            expected += [group] * len(group)
    assert right_items(same_instant(items, times, rows, positions)) == expected
