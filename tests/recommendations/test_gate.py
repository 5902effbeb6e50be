"""The gate: what is published of each list, and probabilities that mean what they say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from precise_core.recommendations.config import ListConfig
from precise_core.recommendations.gate import PREVIOUS, calibrate, choose_orders, in_words
from precise_core.recommendations.lists import CandidateLists
from precise_core.recommendations.orders import ORDERS, order_scores
from tests.recommendations.ranked_lists import candidate_lists

HELD_OUT = candidate_lists(5, lists=40)
POLICIES = {"all": ListConfig(), "new": ListConfig(repeat="exclude"), "repeat": ListConfig(repeat="only")}
PERFECT = HELD_OUT.labels_C.astype(np.float64)


def test_a_better_learned_order_is_published_and_a_worse_one_is_not() -> None:
    better = choose_orders(HELD_OUT, {"list": PERFECT}, POLICIES, 5)
    worse = choose_orders(HELD_OUT, {"list": -PERFECT}, POLICIES, 5)
    for task in ("all", "buy"):
        assert better.chosen[task] == dict.fromkeys(POLICIES, "list")
        assert set(worse.chosen[task].values()) <= set(ORDERS)
        assert better.figures[task]["all"]["list"] == 1.0


def test_each_task_and_list_has_its_own_best_order() -> None:
    scores = PERFECT.copy()
    scores[(HELD_OUT.tasks == "buy")[HELD_OUT.list_rows_C]] *= -1
    of_new = np.where(HELD_OUT.is_repeat_C, -PERFECT, PERFECT)
    chosen = choose_orders(HELD_OUT, {"list": scores, "new": of_new}, POLICIES, 5).chosen
    assert chosen["all"]["all"] == "list" and chosen["buy"]["all"] != "list"
    assert chosen["buy"]["new"] == "new" and chosen["buy"]["repeat"] in ORDERS


def test_yesterdays_order_is_kept_while_it_is_better() -> None:
    noise = np.random.default_rng(0).random(len(PERFECT))
    kept = choose_orders(HELD_OUT, {"list": PERFECT + 2 * noise, PREVIOUS: PERFECT}, POLICIES, 5)
    assert set(kept.chosen["all"].values()) == {PREVIOUS}
    replaced = choose_orders(HELD_OUT, {"list": PERFECT, PREVIOUS: PERFECT + 2 * noise}, POLICIES, 5)
    assert set(replaced.chosen["all"].values()) == {"list"}


@pytest.mark.parametrize("name", list(ORDERS))
def test_of_equal_orders_a_simple_one_is_published(name: str) -> None:
    copies = dict.fromkeys(("list", PREVIOUS), order_scores(name, HELD_OUT.features_CG))
    chosen = choose_orders(HELD_OUT, copies, POLICIES, 5).chosen
    alone = choose_orders(HELD_OUT, {}, POLICIES, 5).chosen
    assert chosen == alone


def test_a_figure_is_the_mean_ndcg_over_lists_with_something_of_their_kind_taken() -> None:
    verdict = choose_orders(HELD_OUT, {"list": PERFECT}, POLICIES, 5)
    for task in ("all", "buy"):
        lists = HELD_OUT.where(HELD_OUT.tasks == task)
        for name, repeat in (("all", None), ("new", False), ("repeat", True)):
            values = lists.ndcg(order_scores("neighbours", lists.features_CG), 5, repeat)
            assert verdict.figures[task][name]["neighbours"] == pytest.approx(values.mean())
            assert verdict.lists[task][name] == len(values)
    lines = in_words(verdict)
    assert len(lines) == 6 and all("list is published" in line for line in lines)


def test_a_list_of_which_nothing_was_held_out_is_not_judged() -> None:
    new = CandidateLists(**{**vars(HELD_OUT), "labels_C": HELD_OUT.labels_C * ~HELD_OUT.is_repeat_C})
    verdict = choose_orders(new, {"list": PERFECT}, POLICIES, 5)
    assert verdict.lists["buy"]["repeat"] == 0
    assert "repeat" not in verdict.chosen["buy"] and "new" in verdict.chosen["buy"]
    assert not any("list repeat" in line for line in in_words(verdict))


def test_without_a_learned_order_a_simple_one_is_published() -> None:
    verdict = choose_orders(HELD_OUT, {}, POLICIES, 5)
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
