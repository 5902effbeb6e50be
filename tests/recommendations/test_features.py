"""Features: documented, finite, made where there is something to make them of, and true of the events."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings

from precise_core.recommendations.batches import TaskCandidates
from precise_core.recommendations.features import FeatureFacts, UserTallies, candidate_features
from precise_core.recommendations.history import tally
from precise_core.recommendations.orders import ORDERS, order_scores
from schemas.recommendations import CANDIDATE_FEATURES, FEATURE_NAMES, FEATURES
from tests.recommendations.world import (
    BITS,
    DAY,
    INSTANT,
    Histories,
    any_histories,
    block,
    config,
    known,
    make,
    random_histories,
)

HISTORIES, ALL = random_histories(21), config()
KNOWN = known(HISTORIES, ALL)
MADE = make(HISTORIES, KNOWN, ALL)


def feature(made: TaskCandidates, name: str) -> np.ndarray:
    return made.features_CG[:, FEATURE_NAMES.index(name)].astype(np.float64)


def test_every_feature_is_documented_once() -> None:
    assert len(set(FEATURE_NAMES)) == len(FEATURE_NAMES)
    assert all(column.doc.strip().endswith(".") and column.type == "float" for column in FEATURES)
    assert set(FEATURE_NAMES) < set(CANDIDATE_FEATURES.column_names)


@pytest.mark.parametrize("name", [name for name in FEATURE_NAMES if not name.startswith("rank_u2i")])
def test_every_feature_is_made_where_all_sources_know_something(name: str) -> None:
    assert feature(MADE["buy"], name).any(), name


def test_ranks_of_the_indexes_are_features_too() -> None:
    made = MADE["buy"].candidates
    found = replace(made, ranks=made.ranks | {name: np.full(len(made), 4.0) for name in ("u2i", "u2i2i")})
    users = UserTallies.of(block(HISTORIES).events, KNOWN)
    facts, of_task = FeatureFacts(KNOWN, ["buy"]).at("buy", found.item_rows_C), block(HISTORIES).of_task(1)
    features = candidate_features(found, users, tally(of_task, of_task.item_rows_E), KNOWN, facts)
    for name in ("u2i", "u2i2i"):
        assert (features[:, FEATURE_NAMES.index(f"rank_{name}")] == 0.5).all()


@settings(max_examples=40, deadline=None)
@given(any_histories())
def test_no_feature_and_no_simple_order_is_ever_nan_or_infinite(histories: Histories) -> None:
    with np.errstate(all="raise", under="ignore"):
        for made in make(histories, known(histories, ALL), ALL).values():
            assert made.features_CG.dtype == np.float32
            assert np.isfinite(made.features_CG).all()
            for name in ORDERS:
                assert np.isfinite(order_scores(name, made.features_CG)).all()


def test_a_catalog_of_one_item() -> None:
    histories: Histories = {"u": [(2, INSTANT - 1, 3), (2, INSTANT - 7305 * DAY, 1)], "v": [], "w": [(2, INSTANT, 3)]}
    made = make(histories, known(histories, ALL, items=3), ALL)["all"]
    assert np.isfinite(made.features_CG).all()
    assert made.candidates.item_rows_C.tolist() == [2, 2, 2]
    assert made.is_repeat_C.tolist() == [True, False, False]


def ages(user: str, bit: int = 0) -> list[tuple[int, float]]:
    return [
        (item, (INSTANT - time) / DAY) for item, time, bits in HISTORIES[user] if time < INSTANT and bits >> bit & 1
    ]


@pytest.mark.parametrize("task", list(BITS))
def test_features_of_a_pair_are_counted_from_the_users_events(task: str) -> None:
    made, names = MADE[task], list(HISTORIES)
    columns = {name: feature(made, name) for name in FEATURE_NAMES}
    for at, (row, item) in enumerate(zip(made.candidates.user_rows_C, made.candidates.item_rows_C, strict=True)):
        everything, of_task = ages(names[row]), ages(names[row], BITS[task])
        groups = {
            "item": [age for one, age in everything if one == item],
            "task_item": [age for one, age in of_task if one == item],
            "category": [
                age
                for one, age in everything
                if KNOWN.categories_N[item] and KNOWN.categories_N[one] == KNOWN.categories_N[item]
            ],
            "text": [
                age for one, age in everything if KNOWN.texts_N[item] and KNOWN.texts_N[one] == KNOWN.texts_N[item]
            ],
        }
        for about, own in groups.items():
            days = {int(age) for age in own}
            interval = (max(own) - min(own)) / (len(days) - 1) if len(days) > 1 else 0
            expected = {
                "events": len(own),
                "days": len(days),
                "first_age": max(own, default=3650),
                "last_age": min(own, default=3650),
                "interval": interval,
                "overdue": min(own) / max(interval, 0.5) if interval else 0,
            }
            expected |= {f"events_{within}d": sum(age <= within for age in own) for within in (7, 28, 84)}
            expected |= {f"decayed_{half}d": sum(0.5 ** (age / half) for age in own) for half in (10, 31, 125)}
            for name, value in expected.items():
                if f"{about}_{name}" in columns:
                    found = columns[f"{about}_{name}"][at]
                    assert found == pytest.approx(np.log1p(value), rel=1e-5, abs=1e-6), (about, name, item)


def test_features_of_a_user_are_counted_from_his_events() -> None:
    made, names = MADE["all"], list(HISTORIES)
    for at, (row, item) in enumerate(zip(made.candidates.user_rows_C, made.candidates.item_rows_C, strict=True)):
        own = ages(names[row])
        items = {one for one, _ in own}
        first = {one: max(age for other, age in own if other == one) for one in items}
        expected = {
            "user_events": np.log1p(len(own)),
            "user_events_28d": np.log1p(sum(age <= 28 for _, age in own)),
            "user_items": np.log1p(len(items)),
            "user_repeat_share": 1 - len(items) / len(own) if own else None,
            "user_new_items_28d": np.log1p(sum(age <= 28 for age in first.values())),
            "user_first_age": np.log1p(max((age for _, age in own), default=0)),
            "user_last_age": np.log1p(min((age for _, age in own), default=3650)),
            "user_item_share": sum(one == item for one, _ in own) / max(len(own), 1),
        }
        for name, value in expected.items():
            if value is not None:
                assert feature(made, name)[at] == pytest.approx(value, rel=1e-5, abs=1e-6), name


def test_a_user_without_events_had_nothing_before() -> None:
    """His share of repeats is a number between 0 and 1: none of his events is a repeat."""
    mine = MADE["all"].candidates.user_rows_C == list(HISTORIES).index("nobody")
    assert mine.any()
    assert set(feature(MADE["all"], "user_repeat_share")[mine]) == {0.0}


def test_ranks_and_scores_are_features_as_documented() -> None:
    made = MADE["buy"]
    for source, ranks in made.candidates.ranks.items():
        expected = [1 / np.sqrt(rank) if np.isfinite(rank) else 0 for rank in ranks]
        np.testing.assert_allclose(feature(made, f"rank_{source}"), expected, rtol=1e-6)
    users = made.candidates.user_rows_C
    for source, scores in made.candidates.scores.items():
        np.testing.assert_allclose(feature(made, f"score_{source}"), scores, rtol=1e-6)
        for user in set(users.tolist()):
            most = max(scores[users == user])
            expected = scores[users == user] / most if most else scores[users == user]
            np.testing.assert_allclose(feature(made, f"relative_{source}")[users == user], expected, rtol=1e-5)


def test_items_without_a_category_have_none_in_common() -> None:
    histories: Histories = {"u": [(3, INSTANT - DAY, 1)], "v": [(6, INSTANT - DAY, 1)]}
    of = known(histories, ALL)
    assert of.categories_N[3] == of.categories_N[6] == 0
    made = make(histories, of, ALL)["all"]
    other = (made.candidates.user_rows_C == 0) & (made.candidates.item_rows_C == 6)
    assert other.sum() == 1
    assert not feature(made, "category_decayed_125d")[other].any()
    assert not feature(made, "all_category_share")[other].any()


def test_simple_orders_prefer_what_their_names_say() -> None:
    made, k = MADE["buy"], 1
    for user in range(len(HISTORIES)):
        mine = np.flatnonzero(made.candidates.user_rows_C == user)
        for order, name in (
            ("own_decayed", "task_item_decayed_125d"),
            ("personal_frequency", "task_item_events"),
            ("neighbours", "score_neighbours"),
            ("ease", "score_ease"),
            ("recently_popular", "task_popular_7d"),
            ("most_popular", "task_users"),
        ):
            best = mine[np.argsort(-order_scores(order, made.features_CG)[mine], kind="stable")[:k]]
            assert feature(made, name)[best] == pytest.approx(feature(made, name)[mine].max(), abs=1e-3), order


@pytest.mark.parametrize("again", [False, True])
def test_what_is_never_taken_twice_stands_behind_what_similar_users_had(again: bool) -> None:
    """Where nobody takes anything twice, a user's own items are the last; where somebody does, they are the first."""
    histories: Histories = {
        "u": [(2, INSTANT - 3 * DAY, 1), (3, INSTANT - 2 * DAY, 1)],
        "v": [(2, INSTANT - 3 * DAY, 1), (3, INSTANT - 2 * DAY, 1), (4, INSTANT - DAY, 1)],
        "w": [
            (2, INSTANT - 9 * DAY, 1),
            (3, INSTANT - 8 * DAY, 1),
            *[(item, INSTANT - DAY, 1) for item in (2, 3) if again],
        ],
    }
    made = make(histories, known(histories, ALL), ALL)["all"]
    mine = made.candidates.user_rows_C == 0
    items, scores = made.candidates.item_rows_C[mine], order_scores("own_and_similar_users", made.features_CG)[mine]
    order = items[np.argsort(-scores)].tolist()
    assert (order[:2] if again else order[-2:]) in ([2, 3], [3, 2]) and 4 in order
