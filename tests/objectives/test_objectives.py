"""Candidates are weighed as they were drawn, what is right is no negative, and the losses are the paper's."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from precise_core.models.times import Times
from precise_core.objectives.config import NegativesConfig
from precise_core.objectives.losses import bpr_item, bpr_user, candidate_softmax
from precise_core.objectives.negatives import Candidates, CandidateSampler, Hits
from precise_core.objectives.targets import CutExamples, RightItems
from precise_core.training.targeted_loss import users_without_item


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def places(candidates: Candidates, items_PH: torch.Tensor) -> Hits:
    """Where the items of each row stand among the candidates."""
    P, H = items_PH.shape
    return candidates.hits(RightItems(items_PH, torch.arange(P), torch.zeros(P).long(), torch.full((P,), H)))


@settings(max_examples=100, deadline=None)
@given(
    windows=st.lists(st.lists(st.integers(0, 9), min_size=4, max_size=4), min_size=1, max_size=3),
    candidates=st.sets(st.integers(2, 11), min_size=1),
    runs=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3), st.integers(1, 4)), max_size=6),
)
def test_a_run_of_a_window_is_found_among_the_candidates(
    windows: list[list[int]], candidates: set[int], runs: list[tuple[int, int, int]]
) -> None:
    runs = [(row, start, min(size, 4 - start)) for row, start, size in sorted(runs) if row < len(windows)]
    rows, starts, sizes = torch.tensor(runs, dtype=torch.long).view(-1, 3).unbind(dim=1)
    items = sorted(candidates)
    right = RightItems(torch.tensor(windows), rows, starts, sizes)
    for asked, spans in ((right, runs), (right.whole_windows(), [(row, 0, 4) for row, _, _ in runs])):
        positions, columns = Candidates(torch.tensor(items)).hits(asked)
        assert positions.tolist() == sorted(positions.tolist())
        found = {(p, items[column]) for p, column in zip(positions.tolist(), columns.tolist(), strict=True)}
        expected = {(p, i) for p, (row, start, size) in enumerate(spans) for i in windows[row][start : start + size]}
        assert found == {(p, i) for p, i in expected if i in candidates}


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
    ours = candidate_softmax(
        logits, candidates, targets, torch.ones(2, 1, dtype=torch.bool), places(candidates, targets)
    )
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
    hidden = places(candidates, targets)
    ours = candidate_softmax(logits, candidates, targets, mask, hidden)
    expected = reference_softmax(logits.tolist(), [[0, 2], [4], [1, 5]], log_q.tolist(), negative.tolist())
    assert float(ours) == pytest.approx(expected, rel=1e-5)
    apart = candidate_softmax(logits, candidates, targets, mask, hidden, (logits - log_q).gather(1, targets - 10))
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
    hits = places(candidates, torch.cat([targets, hidden], dim=1))
    ours = candidate_softmax(logits, candidates, targets, mask, hits)
    torch.testing.assert_close(ours, expected)
    (gradient,), (wanted,) = torch.autograd.grad(ours, logits), torch.autograd.grad(expected, logits)
    torch.testing.assert_close(gradient, wanted)


def test_targets_outside_the_candidates_hide_none_of_them() -> None:
    candidates, logits = Candidates(torch.tensor([4, 7])), torch.zeros(3, 2)
    targets = torch.tensor([[3], [7], [9]])
    mask, hidden = torch.ones(3, 1, dtype=torch.bool), places(candidates, targets)
    loss = candidate_softmax(logits, candidates, targets, mask, hidden, torch.zeros(3, 1))
    assert float(loss) == pytest.approx((math.log(3) + math.log(2) + math.log(3)) / 3)


def test_hidden_items_are_no_negatives_and_padding_hides_nothing() -> None:
    candidates, logits = Candidates(torch.tensor([4, 7, 9])), torch.zeros(2, 3)
    targets, own = torch.tensor([[4], [7]]), torch.tensor([[9, 0, 4], [0, 3, 7]])
    mask = torch.ones(2, 1, dtype=torch.bool)
    loss = candidate_softmax(logits, candidates, targets, mask, places(candidates, own))
    assert float(loss) == pytest.approx((math.log(2) + math.log(3)) / 2)


def test_a_position_without_any_negative_has_no_loss_and_a_finite_gradient() -> None:
    logits = torch.randn(1, 1).requires_grad_()
    candidates, targets = Candidates(torch.tensor([5])), torch.tensor([[5]])
    mask, hidden = torch.ones(1, 1, dtype=torch.bool), places(candidates, targets)
    loss = candidate_softmax(logits, candidates, targets, mask, hidden)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert float(loss) == 0 and torch.isfinite(gradient).all()


def test_correction_keeps_popular_items_where_the_full_softmax_leaves_them() -> None:
    """Scores equal to log popularity are the optimum: nothing should move. Without correction popular items sink."""
    frequencies = torch.cat([torch.zeros(2), torch.logspace(0, 3, 200)]).long()

    def pull_on_popular(config: NegativesConfig) -> float:
        sampler, rng, pull = CandidateSampler(config, frequencies), generator(1), 0.0
        for _ in range(300):
            targets = torch.multinomial(frequencies.float(), 20, replacement=True, generator=rng)
            candidates = sampler.draw(targets, rng)
            logits = frequencies[candidates.item_indices_C].float().log().repeat(20, 1).requires_grad_()
            targets_P1, mask = targets[:, None], torch.ones(20, 1, dtype=torch.bool)
            loss = candidate_softmax(logits, candidates, targets_P1, mask, places(candidates, targets_P1))
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
    rows, cuts = torch.tensor([0, 0, 1]), torch.tensor([1, 2, 2])
    right = RightItems(windows_BL, rows, cuts, torch.ones_like(cuts))
    times = Times(torch.empty(0), torch.empty(0))
    examples = CutExamples(rows, torch.empty(0), torch.empty(0), times, torch.tensor([3, 4, 6]), right)
    assert users_without_item(examples).tolist() == [
        [False, False, True],  # item 3: only the second window lacks it
        [False, False, False],  # item 4 is in both
        [True, True, False],
    ]
