"""How far lists are from those before: what is counted as lost, shorter and in common, and what is no loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from pyspark.sql import DataFrame, SparkSession

from precise_core.config.gates import ListLimitsConfig
from precise_core.errors import ValidationError
from precise_core.recommendations.list_changes import list_changes, served_share
from schemas import columns as c
from validation.checks import Level
from validation.gate import GateResult
from validation.publication import gate_lists

Lists = Mapping[tuple[str, str, str], str]  # user, task, list -> items, a letter each
TASKS, NAMES = ("all", "buy"), ("all", "a `list`.")

BEFORE: Lists = {
    ("u", "all", "all"): "abcd",
    ("u", "all", "a `list`."): "xy",
    ("v", "all", "all"): "abcd",
    ("w", "all", "all"): "ab",
    ("u", "buy", "all"): "ab",
    (c.ANYBODY, "all", "all"): "abcdefgh",
}


def frame(spark: SparkSession, lists: Lists) -> DataFrame:
    rows = [(*key, rank, item) for key, items in lists.items() for rank, item in enumerate(items, start=1)]
    names = f"{c.USER_ID} string, {c.TASK} string, {c.LIST} string, {c.RANK} int, {c.ITEM_ID} string"
    return spark.createDataFrame(rows, names)


def changes(
    spark: SparkSession,
    after: Lists,
    before: Lists = BEFORE,
    tasks: Sequence[str] = TASKS,
    lists: Sequence[str] = NAMES,
    k: int = 10,
) -> dict[str, dict[str, float]]:
    found = list_changes(frame(spark, before), frame(spark, after), tasks, lists, k, sample=100)
    return {task: {name: round(value, 4) for name, value in figures.items()} for task, figures in found.items()}


def test_what_is_lost_shorter_and_in_common(spark: SparkSession) -> None:
    after: Lists = {  # nothing is on the second list any more
        ("u", "all", "all"): "abef",  # 2 of 6 in common
        ("v", "all", "all"): "dcba",
        (c.ANYBODY, "all", "all"): "abcdefgh",
        ("new", "all", "all"): "zzz",
        ("u", "buy", "a `list`."): "q",
    }
    expected = {
        "all": {"lost_share": round(1 / 3, 4), "length_ratio": 0.0, "overlap": round((1 / 3 + 1) / 2, 4)},
        "buy": {"lost_share": 0.0, "length_ratio": 0.0},  # the new list is not counted for the one that is gone
    }
    assert changes(spark, after) == expected


def test_a_list_that_is_empty_for_everybody_is_as_short_as_it_is(spark: SparkSession) -> None:
    before: Lists = {(user, "all", name): "abcde" for user in "uvw" for name in ("all", "new", "repeat")}
    after = {key: items if key[2] != "new" else items[:1] for key, items in before.items()}
    found = changes(spark, after, before=before, lists=["all", "new", "repeat"])
    assert found["all"] == {"lost_share": 0.0, "length_ratio": 0.2, "overlap": 1.0}


@pytest.mark.parametrize(("anybody", "ratio"), [({"all": "a", "new": "b"}, 1.0), ({"all": "abcde"}, 0.0), ({}, 0.0)])
def test_a_list_that_anybody_has_lost_is_gone_and_a_shorter_one_is_not(
    spark: SparkSession, anybody: Mapping[str, str], ratio: float
) -> None:
    users: Lists = {("u", "all", "all"): "abcde", ("u", "all", "new"): "cde"}
    before = users | {(c.ANYBODY, "all", name): "abcde" for name in ("all", "new")}
    after = users | {(c.ANYBODY, "all", name): items for name, items in anybody.items()}
    found = changes(spark, after, before=before, lists=["all", "new"])
    assert found["all"] == {"lost_share": 0.0, "length_ratio": ratio, "overlap": 1.0}


def test_nothing_has_changed(spark: SparkSession) -> None:
    same = {"lost_share": 0.0, "length_ratio": 1.0, "overlap": 1.0}
    assert changes(spark, BEFORE) == {"all": same, "buy": same}


def test_a_task_of_which_nobody_has_lists_any_more(spark: SparkSession) -> None:
    after = {key: items for key, items in BEFORE.items() if key[1] != "buy"}
    assert changes(spark, after)["buy"] == {"lost_share": 1.0}


def test_what_was_taken_out_of_the_configuration_is_no_loss(spark: SparkSession) -> None:
    after = {key: items[:2] for key, items in BEFORE.items() if key[1:] == ("all", "all")}
    found = changes(spark, after, tasks=["all"], lists=["all"], k=2)
    assert found == {"all": {"lost_share": 0.0, "length_ratio": 1.0, "overlap": 1.0}}


def test_before_the_first_lists_there_is_nothing_to_compare_with(spark: SparkSession) -> None:
    assert changes(spark, BEFORE, before={}) == {}
    assert changes(spark, BEFORE, lists=["renamed"]) == {}


def test_served_are_those_with_lists_of_those_who_should_have_some(spark: SparkSession) -> None:
    expected = spark.createDataFrame([(name,) for name in ("u", "v", "w", "x", c.ANYBODY)], [c.USER_ID])
    assert served_share(frame(spark, BEFORE), expected) == {"served_share": 0.75}
    nothing_taken = {key: items for key, items in BEFORE.items() if key[0] != c.ANYBODY}
    assert served_share(frame(spark, nothing_taken), expected) == {}


def test_a_refusal_names_figure_value_limit_and_setting(spark: SparkSession) -> None:
    facts = {"lost_share": 0.5, "length_ratio": 0.06, "served_share": 0.7, "overlap": 0.0}

    def outcome(level: Level) -> GateResult:
        limits = ListLimitsConfig()
        return gate_lists(spark, facts, run_id="r", task="buy", limits=limits, level=level)

    with pytest.raises(ValidationError, match="table recommendations: 3 of 4 .* nothing was written") as refused:
        outcome("fail").raise_on_failure()
    line = str(refused.value)
    for words in (
        "buy: at most 0.1 of the users lose their lists, gates.lists.largest_lost_share",
        "buy: each list is at least 0.5 times as long as before, gates.lists.smallest_length_ratio",
        "buy: at least 0.8 of the users get a list, gates.lists.smallest_served_share",
        *(f"on {name}): found {value:g}" for name, value in facts.items() if name != "overlap"),
    ):
        assert words in line
    assert "overlap" not in line and "\n" not in line
    accepted = outcome("warn")
    accepted.raise_on_failure()
    assert len(accepted.warnings) == 3
