"""The gate: what is published of each list, and probabilities that mean what they say."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from precise_core.recommendations.config import ListConfig
from precise_core.recommendations.gate import MEAN, PREVIOUS, Verdict, calibrate, choose_orders, in_words
from precise_core.recommendations.lists import CandidateLists
from precise_core.recommendations.orders import ORDERS, UNLEARNED, order_scores
from tests.recommendations.ranked_lists import candidate_lists

HELD_OUT = candidate_lists(5, lists=40)
POLICIES = {"all": ListConfig(), "new": ListConfig(repeat="exclude"), "repeat": ListConfig(repeat="only")}
PERFECT = HELD_OUT.labels_C.astype(np.float64)
TASKS = ("all", "buy")


def judged(
    learned: Mapping[str, np.ndarray],
    held_out: CandidateLists = HELD_OUT,
    least_lists: int = 1,
    tasks: Collection[str] = TASKS,
) -> Verdict:
    return choose_orders(held_out, learned, dict.fromkeys(learned, tasks), POLICIES, 5, least_lists)


def test_a_better_learned_order_is_published_and_a_worse_one_is_not() -> None:
    better = judged({"list": PERFECT})
    worse = judged({"list": -PERFECT})
    for task in ("all", "buy"):
        assert better.chosen[task] == dict.fromkeys(POLICIES, "list")
        assert set(worse.chosen[task].values()) <= set(ORDERS)
        assert better.figures[task]["all"]["list"] == 1.0


def test_each_task_and_list_has_its_own_best_order() -> None:
    scores = PERFECT.copy()
    scores[(HELD_OUT.tasks == "buy")[HELD_OUT.list_rows_C]] *= -1
    of_new = np.where(HELD_OUT.is_repeat_C, -PERFECT, PERFECT)
    chosen = judged({"list": scores, "new": of_new}).chosen
    assert chosen["all"]["all"] == "list" and chosen["buy"]["all"] != "list"
    assert chosen["buy"]["new"] == "new" and chosen["buy"]["repeat"] in ORDERS


def test_yesterdays_order_is_kept_while_it_is_better() -> None:
    noise = np.random.default_rng(0).random(len(PERFECT))
    yesterdays = f"{PREVIOUS}.list"
    kept = judged({"list": PERFECT + 2 * noise, yesterdays: PERFECT})
    assert set(kept.chosen["all"].values()) == {yesterdays}
    replaced = judged({"list": PERFECT, yesterdays: PERFECT + 2 * noise})
    assert set(replaced.chosen["all"].values()) == {"list"}


def test_the_luckiest_of_many_orders_is_not_published() -> None:
    """Orders that differ from the best simple one by chance alone: one of them is always above it."""
    simple = order_scores(judged({}).chosen["all"]["all"], HELD_OUT.features_CG)
    random, published, above = np.random.default_rng(3), 0, 0
    for _ in range(20):
        lucky = {str(draw): simple + random.normal(0, 0.05 * simple.std(), len(simple)) for draw in range(6)}
        verdict = judged(lucky)
        figures = verdict.figures["all"]["all"]
        above += max(figures[name] for name in lucky) > max(figures[name] for name in ORDERS)
        published += verdict.chosen["all"]["all"] in lucky
    assert above > 10 and published < above / 3


def test_the_mean_of_the_models_stands_unless_another_order_is_surely_above_it() -> None:
    random = np.random.default_rng(5)
    good = PERFECT + random.normal(0, 0.6, len(PERFECT))
    others = {str(draw): good + random.normal(0, 0.02, len(good)) for draw in range(5)}
    verdict = judged(others | {MEAN: good})
    figures = verdict.figures["all"]["all"]
    assert max(figures[name] for name in others) > figures[MEAN], "one is above it by chance"
    assert verdict.chosen["all"]["all"] == MEAN
    assert judged(others | {MEAN: good, "best": PERFECT}).chosen["all"]["all"] == "best"
    assert judged({MEAN: good, f"{PREVIOUS}.{MEAN}": PERFECT}).chosen["all"]["all"] == f"{PREVIOUS}.{MEAN}"


@pytest.mark.parametrize("name", list(ORDERS))
def test_of_equal_orders_a_simple_one_is_published(name: str) -> None:
    copies = dict.fromkeys(("list", PREVIOUS), order_scores(name, HELD_OUT.features_CG))
    chosen = judged(copies).chosen
    alone = judged({}).chosen
    assert chosen == alone


def test_a_figure_is_the_mean_ndcg_over_lists_with_something_of_their_kind_taken() -> None:
    verdict = judged({"list": PERFECT})
    for task in ("all", "buy"):
        lists = HELD_OUT.where(HELD_OUT.tasks == task)
        for name, repeat in (("all", None), ("new", False), ("repeat", True)):
            values = lists.ndcg(order_scores("neighbours", lists.features_CG), 5, repeat)
            assert verdict.figures[task][name]["neighbours"] == pytest.approx(values.mean())
            assert verdict.lists[task][name] == len(values)
    lines = in_words(verdict)
    assert len(lines) == 6 and all("list is published" in line for line in lines)


def few(task: str, lists: int) -> CandidateLists:
    """The held-out lists, with so many of one task; in each of them something new and something had was taken."""
    is_task = HELD_OUT.tasks == task
    both = HELD_OUT.has_positive(False) & HELD_OUT.has_positive(True)
    return HELD_OUT.where(~is_task | (both & (np.cumsum(is_task & both) <= lists)))


@pytest.mark.parametrize("number", [0, 1, 8, 9])
def test_with_too_few_held_out_lists_a_task_is_ordered_as_all_is(number: int) -> None:
    held_out = few("buy", number)
    best = held_out.labels_C.astype(np.float64)
    of_buy = (held_out.tasks == "buy")[held_out.list_rows_C]
    verdict = judged({"list": np.where(of_buy, -best, best), "other": np.where(of_buy, best, -best)}, held_out, 9)
    assert verdict.chosen["all"] == dict.fromkeys(POLICIES, "list")
    assert verdict.chosen["buy"] == dict.fromkeys(POLICIES, "other" if number == 9 else "list")
    lines = [line for line in in_words(verdict) if line.startswith("buy, list new")]
    if number < 9:
        reason = f"{number} held-out lists are too few (least_lists 9): the best for all that knows the task"
        assert lines == [f"buy, list new: list is published; {reason}"]


def test_a_simple_order_of_all_is_that_of_a_task_with_too_few_lists() -> None:
    held_out = few("buy", 2)
    chosen = judged({"list": -held_out.labels_C.astype(np.float64)}, held_out, 9).chosen
    assert chosen["buy"] == chosen["all"] and set(chosen["all"].values()) <= set(ORDERS)


def test_an_order_that_has_learned_nothing_of_a_task_is_not_used_for_it() -> None:
    held_out = few("buy", 2)
    verdict = judged({"list": held_out.labels_C.astype(np.float64)}, held_out, 9, tasks=("all",))
    assert verdict.chosen["all"]["all"] == "list" and set(verdict.chosen["buy"].values()) <= set(ORDERS)
    assert "2 held-out lists are too few (least_lists 9): the best for all that knows" in in_words(verdict)[3]


def test_with_too_few_lists_of_all_own_history_and_similar_users_are_published() -> None:
    verdict = judged({"list": PERFECT}, least_lists=1000)
    assert verdict.chosen == dict.fromkeys(TASKS, dict.fromkeys(POLICIES, UNLEARNED))
    assert all("too few (least_lists 1,000)" in line for line in in_words(verdict))


def test_each_list_of_a_task_has_its_own_number_of_held_out_lists() -> None:
    new = CandidateLists(**{**vars(HELD_OUT), "labels_C": HELD_OUT.labels_C * ~HELD_OUT.is_repeat_C})
    verdict = judged({"list": PERFECT}, new, 5)
    assert verdict.lists["buy"]["repeat"] == 0 and verdict.lists["buy"]["new"] >= 5
    assert verdict.chosen["buy"]["repeat"] == UNLEARNED and verdict.chosen["buy"]["new"] == "list"


def test_without_a_learned_order_a_simple_one_is_published() -> None:
    verdict = judged({})
    assert set(verdict.chosen["all"].values()) <= set(ORDERS)
    assert not any("learned" in line for line in in_words(verdict))


@pytest.mark.parametrize(("slope", "intercept"), [(1.0, 0.0), (0.3, -2.0), (4.0, 3.0), (1.0, -6.0)])
@pytest.mark.parametrize("shift", [0.0, 50.0])
def test_calibration_recovers_a_logistic_curve(slope: float, intercept: float, shift: float) -> None:
    random = np.random.default_rng(0)
    scores = random.normal(size=60_000)
    labels = random.random(60_000) < 1 / (1 + np.exp(-(slope * scores + intercept)))
    found = calibrate(scores + shift, labels.astype(np.float32))
    tolerance = 0.12 if intercept > -5 else 0.25
    assert found[0] == pytest.approx(slope, rel=tolerance)
    assert found[1] == pytest.approx(intercept - slope * shift, abs=max(tolerance * (1 + shift * slope), 0.1))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([2, 5, 40, 300]), st.sampled_from([1e-3, 1.0, 100.0]))
def test_calibration_is_the_likeliest_curve(seed: int, number: int, scale: float) -> None:
    random = np.random.default_rng(seed)
    scores = scale * random.normal(size=number)
    labels = (random.random(number) < random.random()).astype(np.float32)
    positives = labels.sum()
    targets = np.where(labels > 0, (positives + 1) / (positives + 2), 1 / (number - positives + 2))

    def loss(weights: np.ndarray) -> float:
        z = weights[0] * scores / scale + weights[1]
        return float(np.sum(np.logaddexp(0, z) - targets * z))

    slope, intercept = calibrate(scores, labels)
    best = minimize(loss, np.zeros(2), method="BFGS").fun
    assert loss(np.array([slope * scale, intercept])) <= best + 1e-3


def test_separable_and_constant_scores_have_finite_probabilities() -> None:
    labels = np.array([0.0] * 500 + [1.0] * 5, np.float32)
    slope, intercept = calibrate(np.where(labels > 0, 3.0, -3.0), labels)
    p = 1 / (1 + np.exp(-(slope * np.array([-3.0, 3.0]) + intercept)))
    assert 0 < p[0] < 0.01 and 0.8 < p[1] < 1
    for constant in (0.0, 0.1, 1e6):
        slope, intercept = calibrate(np.full(505, constant), labels)
        p = 1 / (1 + np.exp(-(slope * np.array([constant, constant * (1 + 1e-9)]) + intercept)))
        assert p == pytest.approx([6 / 507, 6 / 507], abs=0.01)
    for same in (np.zeros(50, np.float32), np.ones(50, np.float32)):
        assert np.isfinite(calibrate(np.arange(50.0), same)).all()


def test_a_better_score_is_likelier() -> None:
    random = np.random.default_rng(1)
    scores = random.normal(size=2000)
    labels = (scores + random.normal(size=2000) > 1.5).astype(np.float32)
    assert calibrate(scores, labels)[0] > 0 > calibrate(-scores, labels)[0]
