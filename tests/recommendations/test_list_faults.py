"""Lists when something is wrong: hardly any data, nothing lately, a broken model, a bad night, a killed training."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import write_deltalake
from pyspark.sql import SparkSession

from precise_core import consume
from precise_core.artefacts import LIST_RANKERS, put_rankers_in_use, rankers_in_use
from precise_core.errors import DataError
from precise_core.warehouse.tables import Warehouse
from schemas import (
    CANDIDATE_FEATURES,
    EVALUATION_METRICS,
    EVENTS,
    IMPRESSIONS,
    ITEM_TOKENS,
    ITEM_VOCABULARY,
    ITEMS,
    RECOMMENDATIONS,
    RUNS,
    VALIDATION_RESULTS,
    Table,
)
from schemas import columns as c
from tests.fake_warehouse import put
from tests.night import arrow_table, copy_of, job_of_its_own, run, said
from tests.recommendations.ranked_lists import rows as feature_rows

pytestmark = pytest.mark.faults  # each makes lists of a warehouse of its own

JOBS = ("build_neighbours", "build_candidate_features", "train_list_ranker", "recommend")
AS_OF = datetime(2024, 2, 20, tzinfo=UTC)  # of conf/synthetic.yaml
USERS, NUM_ITEMS, NEWCOMER = 12, 10, "newcomer"

Row = dict[str, Any]


def event(number: int, user: int, item: int, before: timedelta) -> Row:
    when = AS_OF - before
    known = {c.EVENT_ID: f"e{number}", c.USER_ID: f"u{user}", c.ITEM_ID: f"i{item}", c.EVENT_TS: when}
    return known | {c.EVENT_DATE: when.date(), c.SCENE: "articles", c.ACTION: "click"}


def events_of_a_day() -> list[Row]:
    """Everybody has six clicks within 20 hours; nobody shares anything."""
    pairs = [(user, step) for user in range(USERS) for step in range(6)]
    return [
        event(number, user, min(user * step % 7 + step % 3, 9), timedelta(hours=20 - 3 * step, minutes=user))
        for number, (user, step) in enumerate(pairs)
    ]


def build(warehouse: Path, events: list[Row]) -> Path:
    """A catalog of ten without texts, and somebody who was shown something and did nothing."""
    put(warehouse, ITEMS, [{c.ITEM_ID: f"i{item}", c.TITLE: f"Item {item}"} for item in range(NUM_ITEMS)])
    vocabulary = [{c.ITEM_ID: f"i{item}", c.ITEM_INDEX: item + 2} for item in range(NUM_ITEMS)]
    put(warehouse, ITEM_VOCABULARY, vocabulary)
    put(warehouse, ITEM_TOKENS, [])
    put(warehouse, EVENTS, events)
    shown = {c.IMPRESSION_ID: "1", c.USER_ID: NEWCOMER, c.ITEM_ID: "i1", c.IMPRESSION_TS: AS_OF - timedelta(hours=1)}
    put(warehouse, IMPRESSIONS, [shown])
    return warehouse


def run_all(warehouse: Path, *flags: str) -> None:
    for job in JOBS:
        assert run(job, warehouse, *flags) == 0


def version(warehouse: Path, table: Table = RECOMMENDATIONS) -> int:
    return Warehouse(str(warehouse)).version(table)


def reasons(warehouse: Path, user: str, task: str = "all") -> list[tuple[str, str, str]]:
    """Item, reason and model_version of a user's first list, as readers get them."""
    found = consume.recommendations(warehouse, [user], task=task).select([c.ITEM_ID, c.REASON, c.MODEL_VERSION])
    return [(row[c.ITEM_ID], row[c.REASON], row[c.MODEL_VERSION]) for row in found.to_pylist()]


@pytest.fixture(scope="module")
def one_day(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The lists of a log of a day, with a source switched off."""
    assert spark is not None
    warehouse = build(tmp_path_factory.mktemp("lists") / "warehouse", events_of_a_day())
    run_all(warehouse, "--set", 'recommendations.sources={"history": 20, "users": 20, "trending": 20, "ease": 0}')
    return warehouse


def test_a_log_of_a_day_gives_everybody_lists(one_day: Path) -> None:
    own = arrow_table(one_day, "recommendations").to_pandas()
    assert set(own[c.USER_ID]) == {*(f"u{user}" for user in range(USERS)), NEWCOMER, c.ANYBODY}
    assert own.groupby([c.USER_ID, c.TASK, c.LIST])[c.RANK].max().max() <= NUM_ITEMS
    assert {name for found in own[c.SOURCES] for name in found} == {"history", "users", "popular"}


def test_a_task_that_nobody_took_anything_of_has_no_list_and_the_others_have(one_day: Path) -> None:
    assert reasons(one_day, "u1", "click_articles")
    with pytest.raises(DataError, match=r"no list 'all' of task 'share'; there are \['all / all', .*'click_articles"):
        consume.recommendations(one_day, ["u1"], task="share")


def test_what_was_popular_of_all_time_stands_in_where_nothing_was_taken_in_28_days(
    one_day: Path, tmp_path: Path
) -> None:
    warehouse = copy_of(one_day, tmp_path / "warehouse")
    counts = arrow_table(warehouse, "events").to_pandas()[c.ITEM_ID].value_counts()
    lately = reasons(warehouse, NEWCOMER)
    assert run("recommend", warehouse, "--set", "as_of=2024-06-01T00:00:00Z") == 0
    for task in ("all", "click_articles"):
        for user in (NEWCOMER, "somebody else"):
            found = reasons(warehouse, user, task)
            assert [item for item, *_ in found] == [item for item, *_ in lately] and len(found) == len(counts)
            for item, words, order in found:
                taken = "once" if counts[item] == 1 else f"{counts[item]:,} times"
                called = "popular: taken" if counts[item] >= 5 else "taken by others"
                assert (words, order) == (f"{called} {taken}", "popular")
    assert {order for *_, order in lately} == {"popular_28d"}
    assert all(words.endswith(" in 28 days") for _, words, _ in lately)


def test_where_all_users_are_new_they_get_lists_and_the_night_says_that_nothing_was_learned(
    one_day: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody did anything before the period that is learned from."""
    warehouse = copy_of(one_day, tmp_path / "warehouse")
    put_rankers_in_use(warehouse, {}, LIST_RANKERS)
    capsys.readouterr()
    run_all(warehouse, "--set", "recommendations.horizon_days=10")
    out = said(capsys)
    assert "nothing was learned, " in out and "nothing has been learned yet: own history and similar users" in out
    assert "users: 0 in = 0 out + 0 rejected or left out" in out  # of candidate_features: nobody had a history
    assert arrow_table(warehouse, "candidate_features").num_rows == 0
    for user in ("u1", NEWCOMER):
        assert reasons(warehouse, user)


def test_lists_without_a_published_model_are_measured(
    night: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    warehouse = copy_of(night, tmp_path / "warehouse")
    for name in ("published_models", "recall_candidates", "ranking_scores"):
        shutil.rmtree(warehouse / "tables" / name)
    capsys.readouterr()
    assert run("evaluate", warehouse) == 0
    assert "no model is published: PRECISE's systems are left out" in said(capsys)
    found = arrow_table(warehouse, EVALUATION_METRICS.name).to_pandas()
    assert set(found["question"]) == {"retrieval", "recommendations"}
    assert {"recommendations", "personal_frequency"} <= set(found["system"])
    assert not found["system"].str.contains("PRECISE").any()
    assert run("build_report", warehouse, "--out", str(tmp_path / "report.html")) == 0


def only_three_users(warehouse: Path) -> None:
    events = arrow_table(warehouse, "events")
    kept = [user in ("u0", "u1", "u2") for user in events[c.USER_ID].to_pylist()]
    write_deltalake(str(warehouse / "tables" / "events"), events.filter(pa.array(kept)), mode="overwrite")


def test_lists_that_most_users_would_lose_are_refused_and_the_old_ones_stay(
    one_day: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    warehouse = copy_of(one_day, tmp_path / "warehouse")
    only_three_users(warehouse)
    before, found = version(warehouse), reasons(warehouse, "u9")
    capsys.readouterr()
    assert run("recommend", warehouse) == 2
    out = said(capsys)
    assert "at most 0.1 of the users lose their lists, gates.lists.largest_lost_share" in out
    assert "on lost_share): found 0.692" in out and "nothing was written" in out
    assert version(warehouse) == before and reasons(warehouse, "u9") == found
    verdicts = arrow_table(warehouse, VALIDATION_RESULTS.name).to_pylist()
    broken = {row["column"] for row in verdicts if row["table_name"] == "recommendations" and not row["success"]}
    assert broken == {"lost_share"}
    last = arrow_table(warehouse, RUNS.name).sort_by("started_at").to_pylist()[-1]
    metrics = dict(last["metrics"])
    assert metrics["lists/all/lost_share"] == pytest.approx(9 / 13) and metrics["lists/all/served_share"] == 1
    assert run("recommend", warehouse, "--accept-change") == 0
    assert "warning: all: at most 0.1 of the users lose their lists" in said(capsys)
    assert reasons(warehouse, "u9") == reasons(warehouse, "somebody else") != found


def test_lists_that_are_nearly_empty_are_refused(
    one_day: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    warehouse = copy_of(one_day, tmp_path / "warehouse")
    before = version(warehouse)
    assert run("recommend", warehouse, "--set", 'recommendations.sources={"history": 1}') == 2
    assert "gates.lists.smallest_length_ratio" in said(capsys)
    assert version(warehouse) == before


def test_a_model_that_cannot_be_opened_stops_the_lists_and_not_the_learning(
    one_day: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    warehouse = copy_of(one_day, tmp_path / "warehouse")
    write_deltalake(  # nothing to learn from
        str(warehouse / "tables" / "candidate_features"),
        arrow_table(warehouse, "candidate_features").slice(0, 0),
        mode="overwrite",
    )
    put_rankers_in_use(warehouse, {"lists": "lists-gone"}, LIST_RANKERS)
    before = version(warehouse)
    assert run("recommend", warehouse) == 2
    out = said(capsys)
    assert "list_rankers/lists-gone: no SHA256SUMS" in out and "run jobs/train_list_ranker.py" in out
    assert version(warehouse) == before
    assert run("train_list_ranker", warehouse) == 0
    out = said(capsys)
    assert "warning: yesterday's order is left out of the comparison: " in out
    assert "nothing was learned, " in out and "; own history and similar users are in use, popular items" in out
    assert rankers_in_use(warehouse, LIST_RANKERS) == {}
    assert run("recommend", warehouse) == 0


@pytest.mark.faults  # a minute
def test_before_anybody_has_done_anything_there_are_no_lists_and_the_night_goes_on(
    spark: SparkSession, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert spark is not None
    warehouse = build(tmp_path / "warehouse", [event(0, 0, 0, timedelta(hours=-1))])
    run_all(warehouse)
    assert "users: 2 in = 0 out + 2 rejected or left out" in said(capsys)
    with pytest.raises(DataError, match="there are \\[\\]"):
        consume.recommendations(warehouse, [NEWCOMER])
    run_all(warehouse, "--set", "as_of=2024-02-21T00:00:00Z")
    assert [item for item, *_ in reasons(warehouse, NEWCOMER)] == ["i0"]


@pytest.mark.faults
def test_an_index_that_is_gone_stops_the_lists_and_is_named(
    night: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    warehouse = copy_of(night, tmp_path / "warehouse")
    before = version(warehouse)
    for folder in (warehouse / "indexes").iterdir():
        shutil.rmtree(folder)
    capsys.readouterr()
    assert run("recommend", warehouse) == 2
    assert "run jobs/build_index.py and jobs/publish_models.py" in said(capsys)
    assert version(warehouse) == before


def put_features(warehouse: Path, seed: int) -> None:
    """What a training learns from, without Spark."""
    rows = feature_rows(seed, lists=200)
    split = [c.VALIDATION if user.endswith(("1", "2")) else c.TRAIN for user in rows[c.USER_ID].to_pylist()]
    whole = rows.append_column(c.SPLIT, pa.array(split)).append_column(c.AS_OF, pa.array([AS_OF] * len(split)))
    put(warehouse, CANDIDATE_FEATURES, whole.to_pylist())


def run_until(words: str, warehouse: Path, flags: Sequence[str]) -> None:
    """A training of its own that is killed as soon as it says so."""
    with job_of_its_own("train_list_ranker", warehouse, *flags) as process:
        assert process.stdout is not None
        assert any(words in line for line in process.stdout)
        os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.faults
def test_a_killed_training_leaves_yesterdays_order_in_use_and_nothing_half_written(tmp_path: Path) -> None:
    warehouse = tmp_path / "warehouse"
    put_features(warehouse, 1)
    quick = ["--set", "recommendations.ranker.epochs=1"]
    assert run("train_list_ranker", warehouse, *quick) == 0
    folder, in_use = warehouse / "list_rankers", rankers_in_use(warehouse, LIST_RANKERS)
    before = sorted(path.name for path in folder.iterdir())
    endless = json.dumps({"epochs": 1_000_000, "patience": 1_000_000})
    run_until("epoch 3", warehouse, ["--set", f"recommendations.ranker={endless}"])
    assert rankers_in_use(warehouse, LIST_RANKERS) == in_use
    assert sorted(path.name for path in folder.iterdir() if not path.name.startswith(".training")) == before
    assert run("train_list_ranker", warehouse, *quick, "--set", "seed=5") == 0
    assert rankers_in_use(warehouse, LIST_RANKERS) != in_use


@pytest.mark.faults
def test_a_killed_training_goes_on_after_the_orders_it_had_finished(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    warehouse, whole = tmp_path / "warehouse", tmp_path / "whole"
    for folder in (warehouse, whole):
        put_features(folder, 1)
    run_until("binary: epoch 1", warehouse, [])
    assert rankers_in_use(warehouse, LIST_RANKERS) == {}
    assert run("train_list_ranker", warehouse) == 0
    assert "list: learned before this training was interrupted" in said(capsys)
    assert run("train_list_ranker", whole) == 0
    assert rankers_in_use(warehouse, LIST_RANKERS) == rankers_in_use(whole, LIST_RANKERS)
