"""One whole night on a small world: what every table must look like, and what running it again must not do."""

from __future__ import annotations

import json
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pytest
from deltalake import DeltaTable, QueryBuilder
from pyspark.sql import SparkSession

from precise_core.config import load_config
from precise_core.data_sets.synthetic import interests
from precise_core.settings import Settings
from precise_core.sources.config import SyntheticSource
from precise_core.warehouse.tables import Warehouse
from schemas import SOURCE_FILES, TABLES, TEXT_STATES, TRAINING_DAYS, Table
from schemas import columns as c
from tests.night import CONFIG, copy_of, run


def read(warehouse: Path, name: str) -> pd.DataFrame:
    """A table as a ranking team reads it: the live files of the Delta log, through DuckDB."""
    files = DeltaTable(str(warehouse / "tables" / name)).file_uris()
    return duckdb.read_parquet(files, hive_partitioning=True).df()


# Written with model.fusion.token_init: contextual only, by simulated days, and for own files.
NOT_OF_THIS_NIGHT = {TEXT_STATES, TRAINING_DAYS, SOURCE_FILES}
NIGHTLY = [table for table in TABLES if table not in NOT_OF_THIS_NIGHT]


def versions(warehouse: Path) -> dict[str, int]:
    return {table.name: Warehouse(str(warehouse)).version(table) for table in NIGHTLY}


@pytest.mark.parametrize("table", NIGHTLY, ids=lambda table: table.name)
def test_every_table_is_there_and_readable_without_spark(night: Path, table: Table) -> None:
    delta = DeltaTable(str(night / "tables" / table.name))
    counted = QueryBuilder().register("t", delta).execute("SELECT count(*) AS rows FROM t").read_all()
    rows = counted["rows"][0].as_py()
    if table.name not in ("events_rejected", "items_rejected", "impressions_rejected"):
        assert rows > 0
    if rows:
        frame = read(night, table.name)
        assert set(frame.columns) == set(table.column_names)
        assert len(frame) == rows
        assert sum(len(pd.read_parquet(uri)) for uri in delta.file_uris()) == rows
        if table.key:
            assert not frame.duplicated(list(table.key)).any()


def test_every_run_is_written_down_and_balances(night: Path) -> None:
    runs = read(night, "runs")
    assert set(runs["status"]) == {"succeeded"}
    assert (runs["rows_in"] == runs["rows_out"] + runs["rows_rejected"]).all()
    assert json.loads(runs["configuration"].iloc[0])["name"] == "synthetic"
    assert {"ingest", "train_universal", "evaluate", "build_ranking_features"} <= set(runs["job"])


def test_nothing_at_or_after_as_of_is_in_a_sequence_or_window(night: Path) -> None:
    sequences, windows = read(night, "user_sequences"), read(night, "training_windows")
    as_of = read(night, "user_embeddings")[c.AS_OF].iloc[0]
    assert as_of == pd.Timestamp("2024-02-20", tz="UTC")  # of conf/synthetic.yaml
    assert sequences[c.LAST_EVENT_TS].max() < as_of
    assert max(ts.max() for ts in windows[c.EVENT_TS]) < as_of.timestamp()


def test_scores_are_the_dot_products_of_the_published_vectors(night: Path) -> None:
    users = read(night, "user_embeddings").set_index([c.USER_ID, c.MODEL_VERSION])[c.EMBEDDING]
    items = read(night, "item_embeddings").set_index([c.ITEM_ID, c.MODEL_VERSION])[c.EMBEDDING]
    for row in read(night, "pair_scores").sample(200, random_state=0).to_dict("records"):
        expected = np.dot(users[row[c.USER_ID], row[c.MODEL_VERSION]], items[row[c.ITEM_ID], row[c.MODEL_VERSION]])
        assert row[c.SCORE] == pytest.approx(expected, abs=1e-5)


def test_vectors_of_a_task_share_one_space_with_their_items(night: Path) -> None:
    users, items = read(night, "user_embeddings"), read(night, "item_embeddings")
    assert (users.groupby(c.TASK)[c.MODEL_VERSION].nunique() == 1).all()
    assert set(users[c.MODEL_VERSION]) == set(items[c.MODEL_VERSION])


def test_u2i_candidates_are_the_best_of_exact_search(night: Path) -> None:
    candidates = read(night, "recall_candidates")
    users = read(night, "user_embeddings").set_index([c.USER_ID, c.TASK])
    items = read(night, "item_embeddings")
    chosen = candidates[(candidates[c.SOURCE] == "u2i") & (candidates[c.TASK] == "all")]
    user = chosen[c.USER_ID].min()
    of_version = items[items[c.MODEL_VERSION] == users.loc[(user, "all"), c.MODEL_VERSION]]
    scores = np.stack(of_version[c.EMBEDDING]) @ users.loc[(user, "all"), c.EMBEDDING]
    best = of_version[c.ITEM_ID].to_numpy()[np.argsort(-scores, kind="stable")[:10]]
    found = chosen[chosen[c.USER_ID] == user].sort_values(c.RANK)[c.ITEM_ID].head(10)
    assert set(found) == set(best)


def test_lists_hold_what_their_policy_allows(night: Path) -> None:
    lists, events = read(night, "recommendations"), read(night, "events")
    before = events[events[c.EVENT_TS] < lists[c.AS_OF].iloc[0]]
    had = before.groupby(c.USER_ID)[c.ITEM_ID].agg(set)
    own = lists[lists[c.USER_ID].isin(had.index)]
    assert set(had.index) == set(own[c.USER_ID])
    is_repeat = pd.Series([item in had[user] for user, item in zip(own[c.USER_ID], own[c.ITEM_ID], strict=True)])
    assert not is_repeat[(own[c.LIST] == "new").to_numpy()].any()
    assert is_repeat[(own[c.LIST] == "repeat").to_numpy()].all()
    places = lists.groupby([c.USER_ID, c.TASK, c.LIST])
    assert (places[c.RANK].max() == places.size()).all() and lists[c.RANK].max() <= 50
    assert not lists.duplicated([c.USER_ID, c.TASK, c.LIST, c.ITEM_ID]).any()


def test_lists_are_measured_beside_the_best_reference(night: Path) -> None:
    metrics = read(night, "evaluation_metrics")
    at = metrics[(metrics["metric"] == "ndcg") & (metrics["k"] == 50) & (metrics["item_group"] == "all")]
    at = at.set_index(["question", c.TASK, "user_filter", "system"])["value"].sort_index()
    gains = metrics[metrics["metric"] == "ndcg_gain"]
    assert {"all", "new", "repeat"} == set(gains[gains[c.TASK] == "all"]["user_filter"])
    for row in gains.to_dict("records"):
        ours = at["recommendations", row[c.TASK], row["user_filter"], "recommendations"]
        others = at["retrieval", row[c.TASK], row["user_filter"]].drop("oracle")
        others = others[~others.index.str.startswith("PRECISE")]
        assert others[row["reference"]] == others.max()
        assert row["value"] == pytest.approx(ours - others.max(), abs=1e-9)
        assert row["ci_low"] <= row["value"] <= row["ci_high"] and 0 < row["p_value"] <= 1


def test_training_has_learnt(night: Path) -> None:
    metrics = read(night, "evaluation_metrics")
    at = metrics[
        (metrics["question"] == "retrieval")
        & (metrics[c.TASK] == "all")
        & (metrics["user_filter"] == "all")
        & (metrics["item_group"] == "all")
        & (metrics["metric"] == "ndcg")
        & (metrics["k"] == 50)
    ].set_index("system")["value"]
    assert at["PRECISE-UT"] > 1.2 * at["PRECISE-UT untrained"]


def test_the_trained_model_knows_true_interests_that_popularity_does_not(night: Path, spark: SparkSession) -> None:
    """Mean place (0 = last, 1 = first) that a ranking gives to the items of each user's first interest."""
    source = load_config(CONFIG, Settings, [f"warehouse={night}"]).source
    assert isinstance(source, SyntheticSource)
    first = {row[c.USER_ID]: row["first"] for row in interests(spark, source).collect()}
    users, items = read(night, "user_embeddings"), read(night, "item_embeddings")
    users = users[users[c.TASK] == "all"]
    items = items[items[c.MODEL_VERSION] == users[c.MODEL_VERSION].iloc[0]]
    topics_N = items[c.ITEM_ID].str.removeprefix("item-").astype(int).to_numpy() % source.topics
    is_own_UN = topics_N == users[c.USER_ID].map(first).to_numpy()[:, None]
    scores_UN = np.stack(users[c.EMBEDDING]) @ np.stack(items[c.EMBEDDING]).T
    counts_N = read(night, "events")[c.ITEM_ID].value_counts().reindex(items[c.ITEM_ID], fill_value=0).to_numpy()
    places = [
        pd.DataFrame(found_UN).rank(axis=1, pct=True).to_numpy()[is_own_UN].mean()
        for found_UN in (scores_UN, np.broadcast_to(counts_N, scores_UN.shape))
    ]
    assert places[0] > places[1] + 0.05, places


def test_a_second_night_changes_nothing(night: Path, tmp_path: Path) -> None:
    warehouse = copy_of(night, tmp_path / "warehouse")
    before = versions(warehouse)
    bookkeeping = {"runs", "validation_results"}
    for job in ("ingest", "tokenize_items", "build_sequences", "build_windows", "embed_items", "embed_users", "recall"):
        assert run(job, warehouse) == 0
    after = versions(warehouse)
    assert {name: after[name] for name in after if name not in bookkeeping} == {
        name: before[name] for name in before if name not in bookkeeping
    }


def test_an_up_to_date_night_is_left_out_on_request(night: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    assert run("run_night", night, "--skip-up-to-date") == 0
    out = capsys.readouterr().out
    assert out.count("up to date, left out") >= 16


def test_the_report_is_one_self_contained_page(night: Path) -> None:
    page = (night.parent / "report.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>") or page.startswith("<!DOCTYPE html>")
    assert "PRECISE-UT" in page and "<svg" in page
    assert "NDCG@50 of the published lists" in page[: page.index("<nav")]
    assert "Could not be built" not in page
    assert "http://" not in page.replace("http://www.w3.org", "") and "<script src" not in page
