"""The evaluation protocol against plain loops, and the table rows it makes."""

from __future__ import annotations

import statistics
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import precise_core.evaluation.protocol as protocol
from precise_core.bootstrap import paired_difference
from precise_core.errors import DataError, ModelError
from precise_core.evaluation.groups import item_groups, scene_groups
from precise_core.evaluation.impressions import ImpressionTask, compare_impressions, evaluate_impressions, gains
from precise_core.evaluation.protocol import (
    EvaluationResult,
    EvaluationTask,
    MetricKey,
    evaluate_lists,
    evaluate_ranking,
)
from precise_core.evaluation.references import MostPopular, TrainingLog
from precise_core.evaluation.systems import EmbeddingScorer
from precise_core.experiments.seeds import compare_over_seeds, figures_over_seeds, spread_over_seeds
from precise_core.recommendations.neighbours import pair_matrix
from schemas import EVALUATION_METRICS
from tests.evaluation.impression_metrics import auc, gauc, log_loss

AS_OF = datetime(2024, 3, 1, tzinfo=UTC)
COUNTS = np.array([50, 40, 30, 20, 10, 4, 3, 2, 0, 0])
ITEMS = len(COUNTS)


class Fixed:
    """A system whose scores are given."""

    def __init__(self, scores_UN: np.ndarray) -> None:
        self._scores = scores_UN.astype(np.float32)

    def scores(self, user_rows_B: np.ndarray) -> np.ndarray:
        return self._scores[user_rows_B]


def make_task(random: np.random.Generator, users: int = 6, **overrides: object) -> EvaluationTask:
    truth, history = random.random((users, ITEMS)) < 0.3, random.random((users, ITEMS)) < 0.3
    truth[0, 0], history[0, 0] = True, False  # somebody has something to find, under both filters
    arguments = {
        "task": "click",
        "as_of": AS_OF,
        "truth": pair_matrix(*truth.nonzero(), users, ITEMS),
        "history": pair_matrix(*history.nonzero(), users, ITEMS),
        "candidates_N": random.random(ITEMS) < 0.8,
        "groups": item_groups(COUNTS, 0.25),
        "ks": (2, 4),
        "samples": 100,
    }
    return EvaluationTask(**{**arguments, **overrides})  # type: ignore[arg-type]


def value_of(result: EvaluationResult, system: str, user_filter: str, group: str, metric: str, k: int) -> float:
    wanted = (system, user_filter, group, metric, k)
    names = ("system", "user_filter", "item_group", "metric", "k")
    return next(row["value"] for row in result.rows if tuple(row[name] for name in names) == wanted)


@given(st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_every_figure_equals_plain_loops(seed: int) -> None:
    random = np.random.default_rng(seed)
    task = make_task(random)
    scores = random.integers(0, 4, (6, ITEMS))
    result = evaluate_ranking({"m": Fixed(scores)}, task)
    truth, history = task.truth.toarray(), task.history.toarray()
    questions = {(key.user_filter, key.item_group) for key in result.per_user}
    repeats = {("repeat", "all")} if (truth & history).any() else set()
    assert questions == {(user_filter, group) for user_filter in ("all", "new") for group in task.groups} | repeats
    for user_filter, group in questions:
        values = []
        for user in task.user_rows:
            banned = {"all": np.zeros(ITEMS, bool), "new": history[user], "repeat": ~history[user]}[user_filter]
            wanted = set(np.flatnonzero(truth[user] & ~banned & task.groups[group]))
            order = sorted(
                np.flatnonzero(task.candidates_N & ~banned),
                key=lambda row: (-scores[user, row], truth[user, row], row),
            )
            values.append(len(wanted & set(order[:4])) / min(4, len(wanted)) if wanted else np.nan)
        per_user = result.per_user[MetricKey("m", user_filter, group, "recall", 4)]
        np.testing.assert_allclose(per_user, values)
        if not np.isnan(values).all():
            assert value_of(result, "m", user_filter, group, "recall", 4) == pytest.approx(np.nanmean(values))


def test_repeats_are_not_asked_for_where_nobody_repeats() -> None:
    random = np.random.default_rng(3)
    truth, history = random.random((6, ITEMS)) < 0.3, random.random((6, ITEMS)) < 0.3
    pairs = [pair_matrix(*chosen.nonzero(), 6, ITEMS) for chosen in (truth & ~history, history)]
    task = make_task(random, truth=pairs[0], history=pairs[1])
    rows = evaluate_ranking({"m": Fixed(random.random((6, ITEMS)))}, task).rows
    assert {row["user_filter"] for row in rows} == {"all", "new"}


def test_small_blocks_give_the_same_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    task = make_task(np.random.default_rng(4), users=30)
    system = {"m": Fixed(np.random.default_rng(5).random((30, ITEMS)))}
    whole = evaluate_ranking(system, task).rows
    monkeypatch.setattr(protocol, "_BLOCK_SCORES", 3 * ITEMS)
    assert evaluate_ranking(system, task).rows == whole


def test_rows_fit_the_table_and_its_key() -> None:
    task = make_task(np.random.default_rng(6))
    system = Fixed(np.random.default_rng(7).random((6, ITEMS)))
    rows = evaluate_ranking({"m": system, "n": system}, task, model_versions={"m": "universal-1"}).rows
    names = set(EVALUATION_METRICS.column_names)
    assert all(set(row) == names for row in rows)
    keys = [tuple(row[name] for name in EVALUATION_METRICS.key) for row in rows]
    assert len(set(keys)) == len(keys)
    assert {row["model_version"] for row in rows} == {"universal-1", None}
    assert {row["metric"] for row in rows} == {"recall", "ndcg", "hit_rate", "coverage", "novelty"}
    for row in rows:
        if row["metric"] != "coverage":
            assert row["ci_low"] <= row["value"] <= row["ci_high"]
            assert row["users"] > 0


def test_items_outside_the_candidates_are_never_ranked_but_count_as_missed() -> None:
    task = make_task(
        np.random.default_rng(0),
        users=1,
        truth=pair_matrix(np.array([0, 0]), np.array([1, 2]), 1, ITEMS),
        history=pair_matrix(np.empty(0), np.empty(0), 1, ITEMS),
        candidates_N=np.arange(ITEMS) != 1,
    )
    result = evaluate_ranking({"m": Fixed(np.array([[0, 9, 8, 0, 0, 0, 0, 0, 0, 0]]))}, task)
    assert value_of(result, "m", "all", "all", "recall", 2) == 0.5


def test_coverage_is_the_share_of_candidates_that_anybody_sees() -> None:
    task = make_task(np.random.default_rng(1), candidates_N=np.ones(ITEMS, bool))
    same = evaluate_ranking({"m": Fixed(np.tile(np.arange(ITEMS), (6, 1)))}, task)
    assert value_of(same, "m", "all", "all", "coverage", 4) == 0.4
    assert value_of(same, "m", "all", "unseen", "coverage", 4) == 1.0
    assert value_of(same, "m", "all", "hot", "coverage", 4) == 0.0


def test_pessimistic_ties_take_away_what_the_order_of_rows_gave() -> None:
    task = make_task(np.random.default_rng(2), users=20, candidates_N=np.ones(ITEMS, bool))
    constant = {"m": Fixed(np.zeros((20, ITEMS)))}
    by_row = value_of(evaluate_ranking(constant, task, pessimistic=False), "m", "all", "all", "ndcg", 4)
    published = value_of(evaluate_ranking(constant, task), "m", "all", "all", "ndcg", 4)
    assert published < by_row


def test_novelty_is_the_mean_surprise_of_the_listed_items_in_bits() -> None:
    history = np.zeros((6, ITEMS), bool)
    history[:4, 0], history[0, 1] = True, True  # 4 users with a history: item 0 had by all, 1 by one, 2 by nobody
    task = make_task(
        np.random.default_rng(1), candidates_N=np.ones(ITEMS, bool), history=pair_matrix(*history.nonzero(), 6, ITEMS)
    )
    result = evaluate_ranking({"m": Fixed(np.tile(-np.arange(ITEMS), (6, 1)))}, task, user_filters=["all"])
    assert value_of(result, "m", "all", "all", "novelty", 2) == pytest.approx((0 + 2) / 2)
    assert value_of(result, "m", "all", "all", "novelty", 4) == pytest.approx((0 + 2 + 2 + 2) / 4)
    empty = evaluate_lists({"m": np.full((6, 4), -1)}, task)
    assert not [row for row in empty.rows if row["metric"] == "novelty"]


def test_only_the_user_filters_asked_for_are_measured() -> None:
    task = make_task(np.random.default_rng(12))
    system = {"m": Fixed(np.random.default_rng(13).random((6, ITEMS)))}
    both = evaluate_ranking(system, task).rows
    for user_filter in ("all", "new"):
        alone = evaluate_ranking(system, task, user_filters=[user_filter]).rows
        assert alone == [row for row in both if row["user_filter"] == user_filter]
    with pytest.raises(DataError, match=r"user_filters \['seen'\]: not known; there are \['all', 'new', 'repeat'\]"):
        evaluate_ranking(system, task, user_filters=["seen"])


def test_an_item_belongs_to_the_scene_of_most_of_its_events() -> None:
    items = np.array([0, 0, 0, 1, 1, 2, 4])
    scenes = np.array(["live", "videos", "live", "videos", "live", "videos", "articles"], object)
    groups = scene_groups(items, scenes, 5)
    assert {name: np.flatnonzero(mask).tolist() for name, mask in groups.items()} == {
        "scene:articles": [4],
        "scene:live": [0, 1],  # item 1 is in both once
        "scene:videos": [2],
    }
    assert scene_groups(items, np.full(7, "default", object), 5) == {}


def test_seeds_are_summarised_and_compared_by_the_mean_of_each_user() -> None:
    task = make_task(np.random.default_rng(14), users=50, candidates_N=np.ones(ITEMS, bool))
    base = Fixed(np.random.default_rng(15).random((50, ITEMS)))

    def result(seed: int) -> EvaluationResult:
        noise = np.random.default_rng(seed).random((50, ITEMS))
        return evaluate_ranking({"m": Fixed(noise + 0.3 * task.truth.toarray()), "base": base}, task)

    results = [result(seed) for seed in range(3)]
    spread = spread_over_seeds(results)
    figures = [value_of(result, "m", "all", "all", "ndcg", 4) for result in results]
    found = spread[MetricKey("m", "all", "all", "ndcg", 4)]
    assert (found.mean, found.deviation, found.seeds) == (
        pytest.approx(statistics.mean(figures)),
        pytest.approx(statistics.stdev(figures)),
        3,
    )
    assert spread[MetricKey("base", "all", "all", "ndcg", 4)].deviation == 0
    assert np.isnan(spread_over_seeds(results[:1])[MetricKey("m", "all", "all", "ndcg", 4)].deviation)

    wanted = {"system": "m", "user_filter": "new", "item_group": "cold", "metric": "recall", "k": 2}
    (compared,) = [
        row
        for row in compare_over_seeds(results, "base", samples=200, seed=1)
        if all(row[name] == value for name, value in wanted.items())
    ]
    key = MetricKey(**wanted)
    ours = sum(result.per_user[key] for result in results) / 3
    expected = paired_difference(ours, results[0].per_user[key._replace(system="base")], 200, 1)
    numbers = [compared[name] for name in ("difference", "ci_low", "ci_high", "p_value")]
    assert numbers == pytest.approx(list(expected))
    with pytest.raises(DataError, match="result 1 is of 3 users, result 0 of 47"):
        spread_over_seeds([results[0], EvaluationResult(np.arange(3))])
    with pytest.raises(DataError, match="there is no result"):
        compare_over_seeds([], "base", samples=100, seed=1)


def test_without_an_answer_of_the_reference_there_are_figures_and_no_differences() -> None:
    task = make_task(np.random.default_rng(1))
    result = evaluate_ranking({"m": Fixed(np.random.default_rng(2).random((6, ITEMS)))}, task)
    found = figures_over_seeds([result], ["not asked"], samples=100, seed=1)
    assert {row["system"] for row in found["figures"]} == {"m"} and found["differences"] == []


def test_to_further_references_there_are_the_differences_that_the_results_page_shows() -> None:
    random = np.random.default_rng(4)
    task = make_task(random, users=40, ks=(10, 30, 50))
    systems = {name: Fixed(random.random((40, ITEMS))) for name in ("m", "first", "second")}
    result = evaluate_ranking(systems, task)
    rows = figures_over_seeds([result], ["first", "second"], samples=100, seed=1)["differences"]
    to = {
        name: {(row["metric"], row["k"], row["item_group"]) for row in rows if row["reference"] == name}
        for name in ("first", "second")
    }
    assert to["second"] == {(metric, k, "all") for metric in ("recall", "ndcg") for k in (10, 50)}
    assert to["second"] < to["first"] and ("novelty", 30, "all") in to["first"] and ("recall", 10, "hot") in to["first"]
    # What is written is what comparing everything says.
    assert [row for row in rows if row["reference"] == "second"] == [
        row
        for row in result.compare("second", samples=100, seed=1)
        if (row["metric"], row["k"], row["item_group"]) in to["second"]
    ]


def test_comparison_knows_better_from_equal() -> None:
    random = np.random.default_rng(3)
    task = make_task(random, users=200, candidates_N=np.ones(ITEMS, bool))
    noise = random.random((200, ITEMS))
    systems = {"base": Fixed(noise), "same": Fixed(noise), "better": Fixed(noise + 0.5 * task.truth.toarray())}
    compared = evaluate_ranking(systems, task).compare("base", samples=200, seed=1)
    chosen = {
        row["system"]: row
        for row in compared
        if row["metric"] == "ndcg" and row["k"] == 4 and row["item_group"] == "all"
    }
    assert chosen["better"]["ci_low"] > 0
    assert chosen["better"]["p_value"] < 0.01
    assert (chosen["same"]["difference"], chosen["same"]["p_value"]) == (0.0, 1.0)
    with pytest.raises(DataError, match="no system 'x'"):
        evaluate_ranking(systems, task).compare("x", samples=100, seed=1)


def test_cold_users_get_the_popular_items_and_cold_items_are_not_ranked() -> None:
    random = np.random.default_rng(8)
    users, items = random.normal(size=(4, 3)), random.normal(size=(ITEMS, 3))
    items[7] = np.nan
    log = TrainingLog(np.zeros(3, int), np.array([2, 2, 1]), np.zeros(3, int), 4, ITEMS)
    has_user, has_item = np.array([True, False, True, True]), np.arange(ITEMS) != 7
    scorer = EmbeddingScorer(users, items, has_user_U=has_user, has_item_N=has_item, fallback=MostPopular(log))
    scores = scorer.scores(np.array([3, 1]))
    np.testing.assert_allclose(scores[0, has_item], items[has_item] @ users[3], rtol=1e-5)
    assert scores[0, 7] == -np.inf
    assert scores[1, :3].tolist() == [0, 1, 2]
    with pytest.raises(ModelError, match="1 users have no vector"):
        EmbeddingScorer(users, items, has_user_U=has_user).scores(np.arange(4))


def test_recalled_lists_are_measured_like_rankings() -> None:
    task = make_task(np.random.default_rng(9), candidates_N=np.ones(ITEMS, bool))
    scores = np.random.default_rng(10).random((6, ITEMS))
    lists = np.argsort(-scores, axis=1)[:, :4]
    ranking, recall = evaluate_ranking({"m": Fixed(scores)}, task), evaluate_lists({"m": lists}, task)
    for key in recall.per_user:
        np.testing.assert_array_equal(recall.per_user[key], ranking.per_user[key])
    assert {row["question"] for row in recall.rows} == {"recall"}
    empty = evaluate_lists({"m": np.full((6, 4), -1)}, task)
    assert value_of(empty, "m", "all", "all", "hit_rate", 4) == 0.0


def test_questions_that_cannot_be_asked_are_refused() -> None:
    random = np.random.default_rng(0)
    with pytest.raises(DataError, match="no user has an event in the test period"):
        make_task(random, truth=pair_matrix(np.empty(0), np.empty(0), 6, ITEMS))
    with pytest.raises(DataError, match="do not fit together"):
        make_task(random, candidates_N=np.ones(3, bool))
    with pytest.raises(ModelError, match="system m: scores"):
        evaluate_ranking({"m": Fixed(np.zeros((6, 3)))}, make_task(random))
    with pytest.raises(DataError, match="lists of m: 2 users"):
        evaluate_lists({"m": np.zeros((2, 3), int)}, make_task(random))


def test_impressions_of_a_ranking_model() -> None:
    random = np.random.default_rng(11)
    users, labels = random.integers(0, 40, 800), random.integers(0, 2, 800)
    good = np.clip(0.5 + 0.3 * (labels - 0.5) + random.normal(0, 0.1, 800), 0.01, 0.99)
    systems = {"dcn": np.full(800, 0.5), "dcn+all": good}
    task = ImpressionTask("click", AS_OF, users, labels, samples=100)
    rows = evaluate_impressions(systems, task, model_versions={"dcn+all": "universal-1"})
    assert all(set(row) == set(EVALUATION_METRICS.column_names) for row in rows)
    values = {(row["system"], row["metric"]): row["value"] for row in rows}
    assert values["dcn+all", "auc"] == pytest.approx(auc(labels, good))
    assert values["dcn+all", "gauc"] == pytest.approx(gauc(users, labels, good))
    assert values["dcn+all", "log_loss"] == pytest.approx(log_loss(labels, good))
    assert (values["dcn", "auc"], values["dcn", "gauc"]) == (0.5, 0.5)
    compared = {row["metric"]: row for row in compare_impressions(systems, "dcn", task)}
    assert compared["gauc"]["ci_low"] > 0 > compared["log_loss"]["ci_high"]
    assert compared["auc"]["difference"] == pytest.approx(values["dcn+all", "auc"] - 0.5)
    gained = gains(list(compared.values()), task, model_versions={"dcn+all": "universal-1"})
    assert all(set(row) == set(EVALUATION_METRICS.column_names) and row["ci_low"] > 0 for row in gained)
    assert [row["metric"] for row in gained] == ["auc_gain", "gauc_gain", "log_loss_gain"]
    assert gained[2]["value"] == -compared["log_loss"]["difference"]
    with pytest.raises(DataError, match="without both labels"):
        ImpressionTask("click", AS_OF, users, np.zeros(800))
    with pytest.raises(DataError, match="system short: 3 probabilities"):
        evaluate_impressions({"short": np.zeros(3)}, task)
