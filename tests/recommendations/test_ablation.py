"""What PRECISE is worth: the difference of two orders over the same held-out lists."""

from __future__ import annotations

import numpy as np
import pytest

from precise_core.recommendations.ablation import in_words, precise_gains
from precise_core.recommendations.config import ListConfig
from precise_core.recommendations.lists import CandidateLists
from schemas.recommendations import FEATURE_NAMES
from tests.recommendations.ranked_lists import candidate_lists

LISTS = candidate_lists(1, lists=40)
POLICIES = {"all": ListConfig(), "new": ListConfig(repeat="exclude")}
NOISE_C = np.random.default_rng(0).random(len(LISTS.labels_C))


def test_an_order_that_knows_what_is_taken_gains_all_that_there_is() -> None:
    gains = precise_gains(LISTS, LISTS.labels_C.astype(float), NOISE_C, POLICIES, 5, seed=0)
    assert gains.keys() == {"all", "buy"}
    for by_list in gains.values():
        assert by_list.keys() == POLICIES.keys()
        for of in by_list.values():
            assert of["with"] == 1 and of["gain"] == pytest.approx(1 - of["without"])
            assert of["ci_low"] > 0 and of["p_value"] < 0.01


def test_two_equal_orders_differ_by_nothing() -> None:
    of = precise_gains(LISTS, NOISE_C, NOISE_C, POLICIES, 5, seed=0)["all"]["all"]
    assert (of["gain"], of["ci_low"], of["ci_high"], of["p_value"]) == (0, 0, 0, 1)
    assert in_words({"all": {"all": of}}) == [
        f"all, list all: PRECISE adds +0.0000 [+0.0000, +0.0000] to {of['without']:.4f}, p = 1.000, 20 held-out lists"
    ]


def test_what_the_model_alone_found_is_not_found_without_it() -> None:
    """Of each list one taken candidate was found by U2I alone: without it, even a perfect order has it last."""
    features_CG = LISTS.features_CG.copy()
    first_taken = [LISTS.starts[row] + LISTS.labels_C[LISTS.starts[row] :].argmax() for row in range(len(LISTS))]
    ranks = [place for place, name in enumerate(FEATURE_NAMES) if name.startswith("rank_")]
    features_CG[np.ix_(first_taken, ranks)] = 0
    features_CG[first_taken, FEATURE_NAMES.index("rank_u2i")] = 1
    lists = CandidateLists(**{**vars(LISTS), "features_CG": features_CG})
    perfect_C = lists.labels_C.astype(float)
    of = precise_gains(lists, perfect_C, perfect_C, {"all": ListConfig()}, 5, seed=0)["all"]["all"]
    two_of_three = (1 + 1 / np.log2(3)) / (1 + 1 / np.log2(3) + 0.5)
    assert of["with"] == 1 and of["without"] == pytest.approx(two_of_three)
