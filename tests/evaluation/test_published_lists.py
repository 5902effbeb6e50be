"""The published lists of a few users against plain loops, and beside the best reference."""

from __future__ import annotations

import math
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from precise_core.bootstrap import paired_difference
from precise_core.config.tasks import TaskConfig
from precise_core.errors import NothingToEvaluateError
from precise_core.evaluation.config import EvaluationConfig
from precise_core.evaluation.names import main_cut
from precise_core.evaluation.protocol import evaluate_ranking
from precise_core.evaluation.published_lists import Bar, measure_lists, published_lists, system_names
from precise_core.evaluation.questions import EvaluationInputs, EventArrays, OfflineEvaluation, QuestionSettings
from precise_core.recommendations.config import ListConfig
from precise_core.sequences.config import WindowsConfig
from schemas import EVALUATION_METRICS
from schemas import columns as c

AS_OF = datetime(2024, 3, 1, tzinfo=UTC)
USERS, ITEMS, K = 5, 9, 4
POLICIES = {
    "all": ListConfig(),
    "new": ListConfig(repeat="exclude"),
    "repeat": ListConfig(repeat="only"),
    "varied": ListConfig(max_per_category=1),
}
FILTERS = {"all": "all", "new": "new", "repeat": "repeat", "varied": "all"}
Events = list[tuple[int, int, bool]]  # user, item, in the test period
Lists = dict[tuple[str, str], list[str]]  # user and list: item ids

events = st.lists(
    st.tuples(st.integers(0, USERS - 1), st.integers(2, ITEMS - 1), st.booleans()), min_size=1, max_size=40
)
lists = st.dictionaries(
    st.tuples(st.sampled_from(["u0", "u1", "u2", "u3", c.ANYBODY, "u9"]), st.sampled_from([*POLICIES, "gone"])),
    st.lists(st.integers(2, ITEMS - 1).map(lambda item: f"i{item}"), min_size=1, max_size=6, unique=True),
    max_size=16,
)  # fmt: skip


def evaluation_of(rows: Events) -> OfflineEvaluation:
    seconds = [int(AS_OF.timestamp()) + (60 if is_test else -60 - place) for place, (_, _, is_test) in enumerate(rows)]
    arrays = EventArrays(
        user_ids=[f"u{user}" for user in range(USERS)],
        user_rows_E=np.array([user for user, _, _ in rows]),
        item_indices_E=np.array([item for _, item, _ in rows]),
        seconds_E=np.array(seconds),
        scenes_E=np.array(["s"] * len(rows)),
        actions_E=np.array(["a"] * len(rows)),
        num_rows=ITEMS,
    )
    ids = pa.array([f"i{item}" for item in range(2, ITEMS)])
    inputs = EvaluationInputs(arrays, ids, np.arange(2, ITEMS), {"click": np.zeros(0, np.int64)})
    config = EvaluationConfig(test_days=1, ks=(2, K), bootstrap_samples=100, popular_days=(1,))
    return OfflineEvaluation(
        inputs, QuestionSettings(AS_OF, {"click": TaskConfig(action="a")}, config, WindowsConfig(), 17)
    )


def table_of(chosen: Lists) -> pa.Table:
    rows = [
        (user, name, rank, item, "recently_popular" if user == c.ANYBODY else "lists-1/list")
        for (user, name), items in chosen.items()
        for rank, item in enumerate(items, 1)
    ]
    names = (c.USER_ID, c.LIST, c.RANK, c.ITEM_ID, c.MODEL_VERSION)
    types = (pa.string(), pa.string(), pa.int32(), pa.string(), pa.string())
    schema = pa.schema(list(zip(names, types, strict=True)))
    return pa.Table.from_pylist([dict(zip(names, row, strict=True)) for row in rows], schema=schema)


def expected_list(chosen: Lists, user: int, name: str) -> list[str]:
    """What a consumer of the table finds for a user."""
    of = f"u{user}" if any(of == f"u{user}" for of, _ in chosen) else c.ANYBODY
    return chosen.get((of, name), [])[:K]


def truth_of(rows: Events, user: int, user_filter: str) -> set[str]:
    had = {item for of, item, is_test in rows if of == user and not is_test}
    came = {item for of, item, is_test in rows if of == user and is_test}
    kept = {"all": came, "new": came - had, "repeat": came & had}[user_filter]
    return {f"i{item}" for item in kept}


def ndcg(found: list[str], truth: set[str], k: int) -> float:
    gain = sum(1 / math.log2(place + 2) for place, item in enumerate(found[:k]) if item in truth)
    return gain / sum(1 / math.log2(place + 2) for place in range(min(k, len(truth))))


@settings(deadline=None, max_examples=60)
@given(events, lists)
def test_every_list_is_measured_as_its_users_find_it(rows: Events, chosen: Lists) -> None:
    rows = [*rows, (0, 3, True)]
    evaluation = evaluation_of(rows)
    question, names = evaluation.question("click"), system_names(POLICIES)
    bar = Bar.of(evaluate_ranking({}, question), (), question)
    there = {name for _, name in chosen if name in POLICIES}
    answered = {
        name for name in there if any(truth_of(rows, user, FILTERS[name]) for user in range(USERS))
    }  # fmt: skip
    found = published_lists(evaluation, table_of(chosen), POLICIES, "click")
    if not answered:
        with pytest.raises(NothingToEvaluateError):
            measure_lists(found, question, bar)
        return
    measured, lines = measure_lists(found, question, bar)
    assert not lines and all(set(row) == set(EVALUATION_METRICS.column_names) for row in measured)
    assert {row["system"] for row in measured} == {names[name] for name in answered}
    for name in answered:
        for k in (2, K):
            values = [
                ndcg(expected_list(chosen, user, name), truth, k)
                for user in range(USERS)
                if (truth := truth_of(rows, user, FILTERS[name]))
            ]
            (row,) = [
                row for row in measured
                if (row["system"], row["user_filter"]) == (names[name], FILTERS[name])
                and (row["metric"], row["k"], row["item_group"]) == ("ndcg", k, "all")
            ]  # fmt: skip
            assert row["value"] == pytest.approx(np.mean(values)) and row["users"] == len(values)
            assert row["question"] == "recommendations" and row["model_version"]


def test_only_a_second_list_of_a_policy_is_named() -> None:
    assert system_names(POLICIES) == {
        "all": "recommendations", "new": "recommendations", "repeat": "recommendations",
        "varied": "recommendations (varied)",
    }  # fmt: skip


def test_the_bar_is_the_best_simple_reference_and_the_comparison_is_paired() -> None:
    rows: Events = [(user, item, False) for user in range(USERS) for item in (2, 2, 3, 4 + user % 3)]
    rows += [(user, item, True) for user in range(USERS) for item in (2, 8)]
    evaluation = evaluation_of(rows)
    question, references = evaluation.question("click"), evaluation.references("click")
    retrieved = evaluate_ranking({**references, "PRECISE": references["personal_frequency"]}, question)
    bar = Bar.of(retrieved, references, question)
    assert bar.k == K and set(bar.values) == {"all", "new", "repeat"} and "PRECISE" not in bar.values["all"]
    own: Lists = {(f"u{user}", name): ["i8", "i5"] for user in range(USERS) for name in ("all", "new")}
    measured, lines = measure_lists(published_lists(evaluation, table_of(own), POLICIES, "click"), question, bar)
    gains = {row["user_filter"]: row for row in measured if row["metric"] == "ndcg_gain"}
    assert set(gains) == {"all", "new"} and len(lines) == 2
    ours = np.array([ndcg(expected_list(own, user, "new"), truth_of(rows, user, "new"), K) for user in range(5)])
    best = max(bar.values["new"].values(), key=lambda found: float(found.mean()))
    expected = paired_difference(ours, best, question.samples, question.seed)
    found = gains["new"]
    assert (found["value"], found["ci_low"], found["ci_high"], found["p_value"]) == pytest.approx(expected)
    assert bar.values["new"][found["reference"]].mean() == best.mean() and found["k"] == K
    assert lines[1].startswith(f"click, new: recommendations 1.0000 against {found['reference']} ")
    assert f": {expected[0]:+.4f} [{expected[1]:+.4f}, {expected[2]:+.4f}], p = {expected[3]:.3f}" in lines[1]


def test_the_cut_that_decides_is_no_longer_than_a_list() -> None:
    assert [main_cut(ks) for ks in ((10, 30, 50), (5, 10), (10, 100), (100, 200))] == [50, 10, 10, 100]
