"""The lists as jobs: who gets what, what is never on a list, what is published where nothing can be learned."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from deltalake import write_deltalake
from pyspark.sql import SparkSession

from precise_core import consume
from precise_core.artefacts import LIST_RANKERS, put_rankers_in_use, rankers_in_use
from precise_core.config import load_config
from precise_core.errors import DataError
from precise_core.recommendations.night import past_instant
from precise_core.recommendations.ranker_files import PublishedRanker
from precise_core.run.job import Job
from precise_core.settings import Settings
from schemas import CANDIDATE_FEATURES, ITEM_NEIGHBOURS, RECOMMENDATIONS
from schemas import columns as c
from tests.night import CONFIG, arrow_table, copy_of, run, said, with_newcomers
from validation.gate import gate

JOBS = ("build_neighbours", "build_candidate_features", "train_list_ranker", "recommend")
TASK, NEWCOMER = "click_articles", "newcomer"
AS_OF = pd.Timestamp("2024-02-20", tz="UTC")


def table(warehouse: Path, name: str) -> pd.DataFrame:
    return arrow_table(warehouse, name).to_pandas()


def lists(warehouse: Path, name: str = "all", task: str = "all") -> pd.DataFrame:
    found = table(warehouse, "recommendations")
    return found[(found[c.LIST] == name) & (found[c.TASK] == task)].sort_values([c.USER_ID, c.RANK])


def run_all(warehouse: Path, *flags: str) -> None:
    for job in JOBS:
        assert run(job, warehouse, *flags) == 0


@pytest.fixture(scope="module")
def after(night: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The night's lists made again after the item on most lists was deleted and a newcomer was shown something."""
    warehouse = copy_of(night, tmp_path_factory.mktemp("lists") / "warehouse")
    gone = str(lists(warehouse)[c.ITEM_ID].mode()[0])
    with_newcomers(warehouse, gone, NEWCOMER)
    run_all(warehouse)
    return warehouse, gone


def test_lists_learned_without_the_models_candidates_are_made_without_them(night: Path) -> None:
    """No vectors were published at the past instant of a first night: U2I would push out others, unjudged."""
    (version,) = rankers_in_use(night, LIST_RANKERS).values()
    ranker = PublishedRanker.open(night / LIST_RANKERS / version)
    assert ranker.is_without_precise and "list" in ranker.figures["ndcg"]["all"]["all"]
    found_by = {source for sources in table(night, "recommendations")[c.SOURCES] for source in sources}
    assert "history" in found_by and not {"u2i", "u2i2i"} & found_by


def test_every_user_with_an_event_has_lists_of_distinct_items_in_order(night: Path) -> None:
    events = table(night, "events")
    users = set(events[events[c.EVENT_TS] < AS_OF][c.USER_ID])
    found = table(night, "recommendations")
    assert users | {c.ANYBODY} <= set(found[c.USER_ID])
    for _, of_list in found.groupby([c.USER_ID, c.TASK, c.LIST]):
        of_list = of_list.sort_values(c.RANK)
        assert of_list[c.RANK].tolist() == list(range(1, len(of_list) + 1))
        assert of_list[c.SCORE].is_monotonic_decreasing
        assert not of_list[c.ITEM_ID].duplicated().any()


def test_a_list_of_new_items_has_none_that_the_user_had_and_a_list_of_repeats_no_other(night: Path) -> None:
    events = table(night, "events")
    had = set(events[events[c.EVENT_TS] < AS_OF][[c.USER_ID, c.ITEM_ID]].itertuples(index=False, name=None))
    own = table(night, "recommendations")
    own = own[own[c.USER_ID] != c.ANYBODY]
    pairs = [pair in had for pair in own[[c.USER_ID, c.ITEM_ID]].itertuples(index=False, name=None)]
    own = own.assign(is_repeat=pairs)
    assert not own[own[c.LIST] == "new"]["is_repeat"].any()
    assert own[own[c.LIST] == "repeat"]["is_repeat"].all()
    assert own[own[c.LIST] == "all"]["is_repeat"].nunique() == 2


def test_a_task_gets_items_of_its_scene_or_of_none(night: Path) -> None:
    events = table(night, "events")
    before = events[events[c.EVENT_TS] < AS_OF]
    clicked = before[(before[c.SCENE] == "articles") & (before[c.ACTION] == "click")]
    foreign = set(before[c.ITEM_ID]) - set(clicked[c.ITEM_ID])
    assert not foreign & set(lists(night, task=TASK)[c.ITEM_ID])


def test_the_tables_of_the_lists_pass_their_gates(spark: SparkSession, night: Path) -> None:
    for declared in (ITEM_NEIGHBOURS, CANDIDATE_FEATURES, RECOMMENDATIONS):
        frame = spark.read.format("delta").load(str(night / "tables" / declared.name))
        gate(declared, frame, run_id="test").raise_on_failure()


def test_neighbours_by_text_are_new_items_that_were_there(night: Path) -> None:
    near, events, items = (table(night, name) for name in ("item_neighbours", "events", "items"))
    first = events[events[c.EVENT_TS] < AS_OF].groupby(c.ITEM_ID)[c.EVENT_TS].min()
    by_text = near[near[c.SOURCE] == "text"]
    assert len(by_text) and set(by_text[c.ITEM_ID]) <= set(first.index)
    found = set(by_text[c.NEIGHBOUR_ID])
    published = items.set_index(c.ITEM_ID)[c.PUBLISHED_TS]
    assert all(first.get(item, AS_OF) >= AS_OF - pd.Timedelta(days=28) for item in found)
    assert all(item in first.index or published[item] < AS_OF for item in found)


def test_labels_are_what_was_taken_since_the_instant(night: Path) -> None:
    features, events = table(night, "candidate_features"), table(night, "events")
    (instant,) = features[c.AS_OF].unique()
    later = events[(events[c.EVENT_TS] >= instant) & (events[c.EVENT_TS] < AS_OF)]
    taken = set(later[[c.USER_ID, c.ITEM_ID]].itertuples(index=False, name=None))
    of_all = features[features[c.TASK] == "all"]
    pairs = of_all[[c.USER_ID, c.ITEM_ID]].itertuples(index=False, name=None)
    assert [pair in taken for pair in pairs] == (of_all[c.LABEL] == 1).tolist()
    before = set(events[events[c.EVENT_TS] < instant][c.USER_ID])
    assert set(features[c.USER_ID]) <= before, "whoever has no history gets what is popular, in no learned order"


def test_a_deleted_item_is_on_no_list_and_a_newcomer_gets_what_is_popular(after: tuple[Path, str]) -> None:
    warehouse, gone = after
    assert gone not in set(table(warehouse, "recommendations")[c.ITEM_ID])
    newcomer = lists(warehouse)[lambda found: found[c.USER_ID] == NEWCOMER]
    anybody = lists(warehouse)[lambda found: found[c.USER_ID] == c.ANYBODY]
    assert newcomer[c.ITEM_ID].tolist() == anybody[c.ITEM_ID].tolist()
    assert {tuple(sources) for sources in newcomer[c.SOURCES]} == {("popular",)}
    everything = table(warehouse, "recommendations")
    of_popular = everything[c.MODEL_VERSION].isin(["popular", "popular_28d"])  # mark them, and the source does not
    assert set(everything[of_popular][c.USER_ID]) == {NEWCOMER, c.ANYBODY}
    assert set(everything[~of_popular][c.USER_ID]).isdisjoint({NEWCOMER, c.ANYBODY})
    assert any("popular" in sources for sources in everything[~of_popular][c.SOURCES])
    assert "later" not in set(table(warehouse, "recommendations")[c.USER_ID])


def test_a_deleted_item_is_nobodys_neighbour_and_is_still_looked_up(after: tuple[Path, str]) -> None:
    warehouse, gone = after
    near = table(warehouse, "item_neighbours")
    assert gone not in set(near[c.NEIGHBOUR_ID]) and gone in set(near[c.ITEM_ID])


def test_popular_items_are_counted_as_pandas_counts_them(after: tuple[Path, str]) -> None:
    warehouse, gone = after
    events = table(warehouse, "events")
    recent = events[(events[c.EVENT_TS] < AS_OF) & (events[c.EVENT_TS] >= AS_OF - pd.Timedelta(days=28))]
    counts = recent[recent[c.ITEM_ID] != gone][c.ITEM_ID].value_counts()
    anybody = lists(warehouse)[lambda found: found[c.USER_ID] == c.ANYBODY]
    assert anybody[c.SCORE].tolist() == counts.head(len(anybody)).tolist()
    assert all(counts[item] == score for item, score in zip(anybody[c.ITEM_ID], anybody[c.SCORE], strict=True))


@pytest.mark.faults  # minutes
def test_the_same_night_again_changes_nothing(after: tuple[Path, str]) -> None:
    warehouse, _ = after
    before, ranker = table(warehouse, "recommendations"), rankers_in_use(warehouse, LIST_RANKERS)
    run_all(warehouse)
    again = table(warehouse, "recommendations")
    key = [c.USER_ID, c.TASK, c.LIST, c.RANK]
    pd.testing.assert_frame_equal(
        *(found.sort_values(key, ignore_index=True)[[*key, c.ITEM_ID]] for found in (before, again))
    )
    assert ranker.keys() == rankers_in_use(warehouse, LIST_RANKERS).keys()


def test_readers_get_a_list_for_everybody(night: Path) -> None:
    user = str(lists(night)[c.USER_ID].iloc[-1])
    found = consume.recommendations(night, ["nobody", user], k=3)
    assert found[c.USER_ID].to_pylist() == ["nobody"] * 3 + [user] * 3
    assert found[c.RANK].to_pylist() == [1, 2, 3] * 2
    assert consume.recommendations(night, ["nobody"], name="repeat").num_rows == 0
    with pytest.raises(DataError, match=r"no list 'front' of task 'all'; there are \['all / all'"):
        consume.recommendations(night, [user], name="front")


def test_lists_of_a_past_night_are_not_made_with_what_came_later(
    night: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    warehouse = copy_of(night, tmp_path / "warehouse")
    earlier = ("--set", "as_of=2024-02-10T00:00:00Z")
    assert run("recommend", warehouse, *earlier) == 2
    assert "has learned from events up to 2024-02-20T00:00:00Z, as_of is 2024-02-10 00:00" in said(capsys)
    put_rankers_in_use(warehouse, {}, LIST_RANKERS)
    assert run("recommend", warehouse, *earlier) == 2
    found = "item_neighbours is of 2024-02-20 00:00, as_of is 2024-02-10 00:00; run jobs/build_neighbours.py first"
    assert found in said(capsys)


def test_a_short_log_is_cut_at_a_third_of_it_at_an_instant_that_a_night_can_be_as_of(night: Path) -> None:
    sets = [f"warehouse={night}", "evaluation.test_days=4000", "recommendations.horizon_days=null"]
    when = past_instant(Job("past", load_config(CONFIG, Settings, sets), Namespace()))
    first = table(night, "events")[c.EVENT_TS].min()
    assert abs(pd.Timestamp(when) - (AS_OF - (AS_OF - first) / 3)) < pd.Timedelta(seconds=1)
    assert load_config(CONFIG, Settings, [*sets, f"as_of={when.isoformat()}"]).as_of == when


@pytest.fixture(scope="module")
def days_later(night: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten days on: the vectors that the night published are those of the past instant."""
    warehouse = copy_of(night, tmp_path_factory.mktemp("later") / "warehouse")
    for job in JOBS[1:]:
        flags = ("--set", "as_of=2024-03-01T00:00:00Z", "--set", "recommendations.horizon_days=10")
        assert run(job, warehouse, *flags) == 0
    return warehouse


def test_scores_of_the_past_instant_are_those_of_the_vectors_published_then(days_later: Path) -> None:
    found = table(days_later, "candidate_features")
    assert found[c.AS_OF].unique().tolist() == [AS_OF]
    users, items = table(days_later, "user_embeddings"), table(days_later, "item_embeddings")
    versions = dict(table(days_later, "published_models")[[c.TASK, c.MODEL_VERSION]].itertuples(index=False))
    for task, column in (("all", "precise_universal"), (TASK, "precise_targeted")):
        of_users = users[(users[c.MODEL_VERSION] == versions[task]) & (users[c.TASK] == task)]
        of_items = items[items[c.MODEL_VERSION] == versions[task]]
        rows = found[found[c.TASK] == TASK].merge(of_users[[c.USER_ID, c.EMBEDDING]], on=c.USER_ID)
        rows = rows.merge(of_items[[c.ITEM_ID, c.EMBEDDING]], on=c.ITEM_ID)
        expected = [left @ right for left, right in zip(rows["embedding_x"], rows["embedding_y"], strict=True)]
        assert len(rows) > 100
        np.testing.assert_allclose(rows[column].astype(float), expected, rtol=1e-4, atol=1e-5)


def test_what_precise_is_worth_is_known_where_vectors_of_then_are(days_later: Path, night: Path) -> None:
    def about(warehouse: Path) -> dict[str, Any]:
        version = rankers_in_use(warehouse, LIST_RANKERS)["lists"]
        text = (warehouse / LIST_RANKERS / version / "list_ranker.json").read_text(encoding="utf-8")
        return dict(json.loads(text))

    gains = about(days_later)["figures"]["precise"]
    assert gains["all"].keys() == {"all", "new", "repeat"}
    assert all(of["ci_low"] <= of["gain"] <= of["ci_high"] for of in gains["all"].values())
    orders = about(days_later)["figures"]["ndcg"]["all"]["all"]
    assert {"with_vectors", "without_precise"} <= orders.keys()
    assert "precise" not in about(night)["figures"]


@pytest.fixture(scope="module")
def bare(night: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Lists of a log of forty events, with no sources but own history and popular items."""
    warehouse = copy_of(night, tmp_path_factory.mktemp("bare") / "warehouse")
    (warehouse / "list_rankers" / "latest.json").unlink()
    events = arrow_table(warehouse, "events")
    write_deltalake(str(warehouse / "tables" / "events"), events.slice(0, 40), mode="overwrite")
    sources = f"recommendations.sources={json.dumps({'history': 50, 'trending': 20})}"
    limits = ("gates.lists.largest_lost_share=1", "gates.lists.smallest_length_ratio=0")
    run_all(warehouse, *(part for one in (sources, *limits) for part in ("--set", one)))
    return warehouse


@pytest.mark.faults  # lists of a log of their own
def test_a_log_with_nothing_to_learn_from_gets_simple_lists(bare: Path) -> None:
    assert rankers_in_use(bare, LIST_RANKERS) == {}
    own = table(bare, "recommendations")
    assert set(own[own[c.USER_ID] != c.ANYBODY][c.MODEL_VERSION]) == {"own_and_similar_users"}


@pytest.mark.faults  # lists of a log of their own
def test_a_source_that_is_off_finds_nothing(bare: Path) -> None:
    assert len(table(bare, "item_neighbours")) == 0
    found = table(bare, "recommendations")
    assert {source for sources in found[c.SOURCES] for source in sources} <= {"history", "popular"}
