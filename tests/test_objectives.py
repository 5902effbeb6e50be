"""Targets are strictly later, candidates are weighed as they were drawn, and the losses are the paper's."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from precise_core.objectives.config import NegativesConfig
from precise_core.objectives.losses import bpr_item, bpr_user, candidate_softmax
from precise_core.objectives.negatives import Candidates, CandidateSampler
from precise_core.objectives.targets import CutExamples, draw_cuts, future_targets, mask_items, positions_per_row
from precise_core.training.targeted import users_without_item

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
        for seen, possible in future.items():
            known = {item for item in possible if item >= 2}
            if seen in found:
                assert set(found[seen]) <= known
            if len(possible) <= num_targets:
                assert set(found.get(seen, [])) == known  # a short future is predicted whole
        of_row = cuts.rows_E == row
        for valid_L, target in zip(cuts.valid_mask_EL[of_row], cuts.targets_E[of_row].tolist(), strict=True):
            assert target in future[int(valid_L.sum())]


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


def test_q_is_the_share_of_batches_that_hold_the_item() -> None:
    frequencies = torch.tensor([0, 0, 60, 30, 9, 1, 0])
    sampler = CandidateSampler(NegativesConfig(uniform=1), frequencies)
    rng, rounds, count = generator(0), 4000, torch.zeros(7)
    log_q = torch.zeros(7)
    for _ in range(rounds):
        targets = torch.multinomial(frequencies.float(), 3, replacement=True, generator=rng)
        candidates = sampler.draw(targets, rng)
        count[candidates.item_indices_C] += 1
        log_q[candidates.item_indices_C] = candidates.log_q_C
    # The sum of both probabilities is an upper bound of their union, and equal to it where both are small.
    observed, expected = (count / rounds)[2:6], log_q.exp()[2:6]
    assert (observed <= expected + 0.02).all()
    assert float(observed[3]) == pytest.approx(float(expected[3]), rel=0.1)
    assert count[6] == 0  # never trained, never a negative


@pytest.mark.parametrize("in_batch", [True, False])
def test_targets_are_candidates_and_negatives_only_where_wanted(in_batch: bool) -> None:
    sampler = CandidateSampler(NegativesConfig(in_batch=in_batch, uniform=2), torch.tensor([0, 0, 5, 5, 5, 5, 5, 5]))
    candidates = sampler.draw(torch.tensor([[2, 3], [3, 4]]), generator())
    items = candidates.item_indices_C.tolist()
    assert items == sorted(set(items)) and {2, 3, 4} <= set(items)
    assert candidates.item_indices_C[candidates.columns(torch.tensor([[4, 2]]))].tolist() == [[4, 2]]
    assert (candidates.is_negative_C is None) == in_batch
    if not in_batch:
        assert candidates.is_negative_C.sum() <= 2


def test_without_targets_only_what_was_drawn_is_a_candidate() -> None:
    config, frequencies = NegativesConfig(in_batch=False, uniform=2), torch.tensor([0, 0, 5, 5, 5, 5, 5, 5])
    candidates = CandidateSampler(config, frequencies).draw(torch.arange(2, 8), generator(), with_targets=False)
    assert len(candidates.item_indices_C) <= 2 and candidates.log_q_C is None and candidates.is_negative_C is None


def test_uniform_draws_can_reach_beyond_the_task() -> None:
    drawable = torch.tensor([False, False, True, False, True, True])
    sampler = CandidateSampler(NegativesConfig(uniform=50), torch.tensor([0, 0, 9, 0, 0, 0]), drawable)
    candidates = sampler.draw(torch.tensor([2]), generator())
    assert candidates.item_indices_C.tolist() == [2, 4, 5]
    assert candidates.log_q_C.exp().tolist() == [1.0, 1.0, 1.0]  # 50 draws of 3 items: certain


def test_no_correction_leaves_the_logits_alone() -> None:
    sampler = CandidateSampler(NegativesConfig(uniform=3, logq_correction=False), torch.tensor([0, 0, 5, 5, 5]))
    candidates = sampler.draw(torch.tensor([2]), generator())
    logits = torch.randn(2, len(candidates.item_indices_C))
    assert torch.equal(candidates.corrected(logits), logits)


def test_with_the_whole_catalog_the_loss_is_the_full_softmax() -> None:
    torch.manual_seed(0)
    sampler = CandidateSampler(NegativesConfig(whole_catalog=True), torch.tensor([0, 0, 1, 2, 3, 4]))
    candidates = sampler.draw(torch.tensor([[3], [5]]), generator())
    assert candidates.item_indices_C.tolist() == [2, 3, 4, 5]
    logits = torch.randn(2, 4)
    targets = torch.tensor([[3], [5]])
    ours = candidate_softmax(logits, candidates, targets, torch.ones(2, 1, dtype=torch.bool))
    torch.testing.assert_close(ours, F.cross_entropy(logits, candidates.columns(targets)[:, 0]))


def reference_softmax(
    logits: list[list[float]], positives: list[list[int]], log_q: list[float], negative: list[bool]
) -> float:
    losses = []
    for row, own in zip(logits, positives, strict=True):
        scores = [score - q for score, q in zip(row, log_q, strict=True)]
        others = sum(math.exp(s) for j, s in enumerate(scores) if negative[j] and j not in own)
        losses += [-math.log(math.exp(scores[i]) / (math.exp(scores[i]) + others)) for i in own]
    return sum(losses) / len(losses)


def test_eq_5_with_several_positives_accidental_hits_and_correction() -> None:
    torch.manual_seed(0)
    logits, log_q = torch.randn(3, 6), torch.rand(6).log()
    negative = torch.tensor([True, True, False, True, True, True])
    candidates = Candidates(torch.arange(10, 16), log_q, negative)
    targets = torch.tensor([[10, 12], [14, 14], [11, 15]])
    mask = torch.tensor([[True, True], [True, False], [True, True]])
    ours = candidate_softmax(logits, candidates, targets, mask)
    expected = reference_softmax(logits.tolist(), [[0, 2], [4], [1, 5]], log_q.tolist(), negative.tolist())
    assert float(ours) == pytest.approx(expected, rel=1e-5)
    apart = candidate_softmax(logits, candidates, targets, mask, (logits - log_q).gather(1, targets - 10))
    assert float(apart) == pytest.approx(expected, rel=1e-5)


@settings(max_examples=25, deadline=None)
@given(positions=st.integers(1, 40), corrected=st.booleans(), partly=st.booleans(), seed=st.integers(0, 99))
def test_the_gradient_is_that_of_the_formula_also_over_several_chunks(
    positions: int, corrected: bool, partly: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    C = 9_000  # 29 rows of candidates make a chunk
    logits = torch.randn(positions, C, requires_grad=True)
    negative = torch.rand(C) < 0.5 if partly else None
    candidates = Candidates(torch.arange(C), torch.rand(C).log() if corrected else None, negative)
    targets = torch.randint(0, C, (positions, 2))
    mask = torch.rand(positions, 2) < 0.7
    mask[0] = True
    hidden = torch.randint(0, C, (positions, 3))
    s = logits if candidates.log_q_C is None else logits - candidates.log_q_C
    never = torch.zeros(positions, C, dtype=torch.bool) if negative is None else (~negative).expand(positions, C)
    never = never.scatter(1, torch.cat([targets, hidden], dim=1), True)
    others = s.masked_fill(never, float("-inf")).logsumexp(dim=1, keepdim=True)
    expected = F.softplus(others - s.gather(1, targets))[mask].mean()
    ours = candidate_softmax(logits, candidates, targets, mask, hidden_PH=hidden)
    torch.testing.assert_close(ours, expected)
    (gradient,), (wanted,) = torch.autograd.grad(ours, logits), torch.autograd.grad(expected, logits)
    torch.testing.assert_close(gradient, wanted)


def test_targets_outside_the_candidates_hide_none_of_them() -> None:
    candidates, logits = Candidates(torch.tensor([4, 7])), torch.zeros(3, 2)
    targets = torch.tensor([[3], [7], [9]])
    loss = candidate_softmax(logits, candidates, targets, torch.ones(3, 1, dtype=torch.bool), torch.zeros(3, 1))
    assert float(loss) == pytest.approx((math.log(3) + math.log(2) + math.log(3)) / 3)


def test_hidden_items_are_no_negatives_and_padding_hides_nothing() -> None:
    candidates, logits = Candidates(torch.tensor([4, 7, 9])), torch.zeros(2, 3)
    targets, own = torch.tensor([[4], [7]]), torch.tensor([[9, 0], [0, 3]])
    mask = torch.ones(2, 1, dtype=torch.bool)
    loss = candidate_softmax(logits, candidates, targets, mask, hidden_PH=own)
    assert float(loss) == pytest.approx((math.log(2) + math.log(3)) / 2)


def test_a_position_without_any_negative_has_no_loss_and_a_finite_gradient() -> None:
    logits = torch.randn(1, 1).requires_grad_()
    loss = candidate_softmax(
        logits, Candidates(torch.tensor([5])), torch.tensor([[5]]), torch.ones(1, 1, dtype=torch.bool)
    )
    (gradient,) = torch.autograd.grad(loss, logits)
    assert float(loss) == 0 and torch.isfinite(gradient).all()


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


def test_correction_keeps_popular_items_where_the_full_softmax_leaves_them() -> None:
    """Scores equal to log popularity are the optimum: nothing should move. Without correction popular items sink."""
    frequencies = torch.cat([torch.zeros(2), torch.logspace(0, 3, 200)]).long()

    def pull_on_popular(config: NegativesConfig) -> float:
        sampler, rng, pull = CandidateSampler(config, frequencies), generator(1), 0.0
        for _ in range(300):
            targets = torch.multinomial(frequencies.float(), 20, replacement=True, generator=rng)
            candidates = sampler.draw(targets, rng)
            logits = frequencies[candidates.item_indices_C].float().log().repeat(20, 1).requires_grad_()
            loss = candidate_softmax(logits, candidates, targets[:, None], torch.ones(20, 1, dtype=torch.bool))
            (gradient,) = torch.autograd.grad(loss, logits)
            pull += float(gradient.sum(dim=0)[candidates.item_indices_C > 180].sum())
        return pull / 300

    corrected = pull_on_popular(NegativesConfig(uniform=20))
    plain = pull_on_popular(NegativesConfig(uniform=20, logq_correction=False))
    assert plain > 0.1
    assert abs(corrected) < 0.3 * plain


def test_eq_6_negatives_are_other_users_of_the_same_item() -> None:
    scores = torch.tensor([[2.0, 0.5, 1.0], [0.0, 1.0, 3.0], [1.0, 1.0, 1.0]])
    allowed = torch.tensor([[False, True, False], [True, False, True], [False, False, False]])
    expected = -sum(math.log(1 / (1 + math.exp(-d))) for d in (2.0 - 0.5, 1.0 - 0.0, 1.0 - 3.0)) / 3
    ours = bpr_user(scores, allowed)
    assert ours is not None and float(ours) == pytest.approx(expected, rel=1e-5)


def test_bpr_over_items() -> None:
    ours = bpr_item(torch.tensor([1.0]), torch.tensor([[1.0, 0.0, 9.0]]), torch.tensor([[False, True, False]]))
    assert ours is not None and float(ours) == pytest.approx(math.log(1 + math.exp(-1.0)), rel=1e-5)


def test_bpr_without_any_allowed_pair_is_none() -> None:
    nothing = torch.zeros(2, 2, dtype=torch.bool)
    assert bpr_user(torch.zeros(2, 2), nothing) is None
    assert bpr_item(torch.zeros(2), torch.zeros(2, 2), nothing) is None


def test_users_who_have_the_item_are_not_negatives() -> None:
    windows_BL = torch.tensor([[2, 3, 4], [5, 4, 6]])
    examples = CutExamples(torch.tensor([0, 0, 1]), torch.empty(0), torch.empty(0), torch.tensor([3, 4, 6]))
    assert users_without_item(examples, windows_BL).tolist() == [
        [False, False, True],  # item 3: only the second window lacks it
        [False, False, False],  # item 4 is in both
        [True, True, False],
    ]
