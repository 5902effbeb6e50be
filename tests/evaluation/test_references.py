"""The simple references against plain loops: what they say is what a person would count."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from precise_core.config import validated
from precise_core.errors import ConfigError
from precise_core.evaluation.config import EvaluationConfig, ExperimentConfig
from precise_core.evaluation.metrics import top_k_rows
from precise_core.evaluation.names import EASE, ITEM_KNN, LAST_ITEM_KNN, SIMPLE_REFERENCES, TIFU_KNN, USER_KNN
from precise_core.evaluation.references import MostPopular, OwnDecayed, OwnHistory, PersonalFrequency
from precise_core.evaluation.simple_references import build_references
from precise_core.recommendations.neighbours import pair_matrix
from tests.evaluation.small_logs import DAY, ITEMS, USERS, Rows, events, make_log


def test_most_popular_counts_only_the_last_days_before_the_instant() -> None:
    log = make_log([(0, 0, DAY), (0, 0, DAY), (1, 0, 2 * DAY), (0, 1, 9 * DAY), (1, 1, 9 * DAY), (2, 2, 10 * DAY)])
    recent = MostPopular(log, days=7, as_of_seconds=10 * DAY).scores(np.array([0, 3]))
    assert recent[:, :3].tolist() == [[0, 2, 0], [0, 2, 0]]  # item 2 is of the instant itself, item 0 is too old
    assert MostPopular(log).scores(np.array([0]))[0, :3].tolist() == [3, 2, 1]


@given(events)
@settings(max_examples=60, deadline=None)
def test_personal_frequency_orders_own_items_then_popular_ones(rows: Rows) -> None:
    ranked = top_k_rows(PersonalFrequency(make_log(rows)).scores(np.arange(USERS)), ITEMS)
    popular = Counter(item for _, item, _ in rows)
    for user in range(USERS):
        counts = Counter(item for who, item, _ in rows if who == user)
        latest = {item: max(when for who, what, when in rows if (who, what) == (user, item)) for item in counts}
        own = sorted(counts, key=lambda item: (-counts[item], -latest[item], -popular[item], item))
        others = sorted(set(range(ITEMS)) - set(own), key=lambda item: (-popular[item], item))
        assert ranked[user].tolist() == own + others


@given(events, st.sampled_from([0.5, 3.0, 400.0]))
@settings(max_examples=60, deadline=None)
def test_own_decayed_orders_by_faded_events_then_the_popular_of_28_days(rows: Rows, days: float) -> None:
    rows = sorted(((user, item, when * 9 * DAY) for user, item, when in rows), key=lambda row: row[2])
    as_of = 45 * DAY  # the last of the events are of the instant itself
    ranked = top_k_rows(OwnDecayed(make_log(rows), as_of_seconds=as_of, days=days).scores(np.arange(USERS)), ITEMS)
    popular = Counter(item for _, item, when in rows if as_of - 28 * DAY <= when < as_of)
    for user in range(USERS):
        strength: dict[int, float] = {}
        latest: dict[int, int] = {}
        for item, when in ((item, when) for who, item, when in rows if who == user):
            strength[item] = strength.get(item, 0) + np.exp(-(as_of - when) / DAY / days)
            latest[item] = max(latest.get(item, 0), when)
        own = sorted(strength, key=lambda item: (-strength[item], -latest[item], -popular[item], item))
        others = sorted(set(range(ITEMS)) - set(own), key=lambda item: (-popular[item], item))
        assert ranked[user].tolist() == own + others


def test_own_decayed_keeps_faded_items_before_popular_ones() -> None:
    rows = [(0, 0, 0), (0, 1, DAY), *((1, 2, 20_000 * DAY - 1) for _ in range(1000))]
    scores = OwnDecayed(make_log(rows), as_of_seconds=20_000 * DAY, days=1.0).scores(np.array([0]))
    assert top_k_rows(scores, 3).tolist() == [[1, 0, 2]]  # e^-19,999 is 0 even in float64: the later one is first


def test_own_history_is_the_logarithm_of_faded_events() -> None:
    log = make_log([(0, 3, 0), (0, 3, 5 * DAY), (1, 2, 9 * DAY)])
    scores = OwnHistory(log, as_of_seconds=10 * DAY, days=5.0).scores(np.array([0, 2]))
    assert scores[0, 3] == pytest.approx(np.log1p(np.exp(-2) + np.exp(-1)))
    assert np.count_nonzero(scores) == 1
    with pytest.raises(ConfigError, match="days 0"):
        OwnHistory(log, as_of_seconds=0, days=0)


def test_an_empty_log_scores_nothing() -> None:
    references = build_references(make_log([]), EvaluationConfig(), as_of_seconds=9)
    for name, scorer in references.items():
        scores = scorer.scores(np.array([1, 3]))
        assert scores.dtype == np.float32, name
        np.testing.assert_array_equal(scores, np.zeros((2, ITEMS)), err_msg=name)


def test_an_experiment_can_compare_with_every_reference_whose_name_has_no_days() -> None:
    references = build_references(make_log([(0, 0, 0)]), EvaluationConfig(), as_of_seconds=9)
    assert list(references) == ["most_popular_7d", "most_popular_1d", "most_popular_28d", *SIMPLE_REFERENCES]
    ExperimentConfig(also_against=SIMPLE_REFERENCES)


def test_popular_days_may_be_one_number_and_the_first_is_the_fallback() -> None:
    assert EvaluationConfig().fallback_reference == "most_popular_7d"
    one = validated(EvaluationConfig, {"popular_days": 14})
    assert one.popular_days == (14,)
    assert one.fallback_reference == "most_popular_14d"
    several = validated(EvaluationConfig, {"popular_days": [28, 1]})
    assert validated(EvaluationConfig, several.model_dump(mode="json")) == several
    references = build_references(make_log([(0, 0, 0)]), several, as_of_seconds=9)
    assert several.fallback_reference in references
    assert {"most_popular_28d", "most_popular_1d"} < set(references)
    for wrong in (0, [], [7, 0], [7, "1"], [True], True, "7", 7.0, None):
        with pytest.raises(ConfigError, match="popular_days"):
            validated(EvaluationConfig, {"popular_days": wrong})


def random_rows(count: int) -> Rows:
    random = np.random.default_rng(2)
    return [tuple(row) for row in np.stack([random.integers(0, n, count) for n in (USERS, ITEMS, 9)], 1).tolist()]


def test_scores_do_not_depend_on_the_block_and_may_be_changed() -> None:
    for scorer in build_references(make_log(random_rows(60)), EvaluationConfig(), as_of_seconds=9).values():
        together = scorer.scores(np.array([2, 0]))
        expected = together.copy()
        together[:] = -1
        np.testing.assert_array_equal(scorer.scores(np.array([0])), expected[1:])
        np.testing.assert_array_equal(scorer.scores(np.array([2])), expected[:1])


@given(events, st.permutations(range(USERS)))
@settings(max_examples=40, deadline=None)
def test_renumbered_users_keep_their_scores(rows: Rows, names: list[int]) -> None:
    renamed = [(names[user], item, when) for user, item, when in rows]
    before, after = (
        build_references(make_log(events), EvaluationConfig(), as_of_seconds=9) for events in (rows, renamed)
    )
    for name, scorer in before.items():
        renumbered = after[name].scores(np.array(names))
        np.testing.assert_allclose(renumbered, scorer.scores(np.arange(USERS)), rtol=1e-4, atol=1e-6, err_msg=name)


@given(events)
@settings(max_examples=40, deadline=None)
def test_a_user_of_other_items_changes_no_score_but_popularity(rows: Rows) -> None:
    stranger = [(USERS - 1, ITEMS - 1, 0)]
    before, after = (
        build_references(make_log(events), EvaluationConfig(), as_of_seconds=9) for events in (rows, rows + stranger)
    )
    for name in (ITEM_KNN, LAST_ITEM_KNN, USER_KNN, TIFU_KNN, EASE):
        one, other = (found[name].scores(np.arange(USERS - 1)) for found in (before, after))
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6, err_msg=name)


def test_pairs_are_counted_once() -> None:
    matrix = pair_matrix(np.array([1, 1, 0]), np.array([2, 2, 1]), 3, 4)
    assert matrix.dtype == bool
    assert matrix.toarray().nonzero()[0].tolist() == [0, 1]
    assert matrix.nnz == 2
