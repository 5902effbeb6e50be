"""Scores of candidate pairs are those of NumPy under every plan, whoever has how many pairs, and no pair is lost."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from hypothesis import given, settings
from hypothesis import strategies as st
from pyspark.sql import DataFrame, SparkSession

from precise_core.errors import NOT_KEPT, ModelError
from precise_core.operations.traces import find_traces
from precise_core.pair_scores.config import ScoringConfig
from precise_core.pair_scores.scores import ScoringPlan, choose_plan, gathered_scores, score_pairs, unit
from precise_core.training.checkpoint import latest
from precise_core.vectors.encoding import encode_items
from schemas import columns as c
from tests.night import arrow_table, copy_of, run

AS_OF = datetime(2024, 3, 1, tzinfo=UTC)
WIDTH = 6
PLANS = [ScoringPlan("broadcast", 1, 512), ScoringPlan("shuffle", 1, 512, buckets=3, pairs_per_task=2000)]


def vectors(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, WIDTH)).astype(np.float32)


@pytest.fixture(scope="module")
def world(spark: SparkSession) -> tuple[DataFrame, DataFrame, DataFrame, pd.DataFrame, np.ndarray, np.ndarray]:
    """Pairs of 30 users and 40 items with vectors; `item-0` is in every second pair, `user-0` has over 8,192."""
    users_UD, items_ND = vectors(30, 1), vectors(9000, 2)
    rng = np.random.default_rng(3)
    pairs = pd.DataFrame({"user": rng.integers(32, size=4000), "item": rng.integers(60, size=4000)})
    pairs.loc[::2, "item"] = 0
    whole = pd.DataFrame({"user": 0, "item": np.arange(9000)})
    foreign = pd.DataFrame({"user": [3, 4], "item": [9001, 9002]})  # no vector
    pairs = pd.concat([pairs, whole, foreign]).drop_duplicates().reset_index(drop=True)
    named = pd.DataFrame(
        {c.USER_ID: "user-" + pairs["user"].astype(str), c.ITEM_ID: "item-" + pairs["item"].astype(str)}
    )
    users = pa.table(
        {
            c.USER_ID: [f"user-{row}" for row in range(30)],
            c.EMBEDDING: list(users_UD),
            c.AS_OF: pa.array([AS_OF] * 30, pa.timestamp("us", tz="UTC")),
        }
    )
    items = pa.table({c.ITEM_ID: [f"item-{row}" for row in range(9000)], c.EMBEDDING: list(items_ND)})
    frames = (spark.createDataFrame(named).persist(), spark.createDataFrame(users), spark.createDataFrame(items))
    return *frames, pairs, users_UD, items_ND


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
def test_every_plan_scores_as_numpy_does(spark: SparkSession, world, similarity: str) -> None:  # type: ignore[no-untyped-def]
    pairs, users, items, asked, users_UD, items_ND = world
    kept = asked[(asked["user"] < 30) & (asked["item"] < 9000)]
    if similarity == "cosine":
        users_UD, items_ND = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (users_UD, items_ND))
    expected = (users_UD[kept["user"]] * items_ND[kept["item"]]).sum(axis=1)
    by_plan = []
    for plan in PLANS:
        found = score_pairs(spark, pairs, users, items, plan, similarity).toPandas()
        found = found.set_index([c.USER_ID, c.ITEM_ID])
        assert found.index.is_unique and len(found) == len(kept)
        names = zip("user-" + kept["user"].astype(str), "item-" + kept["item"].astype(str), strict=True)
        scores = found.loc[list(names), c.SCORE].to_numpy()
        np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-5)
        assert (found[c.AS_OF].dt.tz_localize("UTC") == AS_OF).all()
        by_plan.append(scores)
    np.testing.assert_array_equal(*by_plan)  # to the last bit: a plan must not show in the table


@given(counts=st.lists(st.integers(0, 700), min_size=1, max_size=6), seed=st.integers(0, 9))
@settings(max_examples=25, deadline=None)
def test_a_score_does_not_depend_on_its_batch(counts: list[int], seed: int) -> None:
    users_GD, items_ND = vectors(len(counts), seed), vectors(50, seed + 1)
    rows_P = np.random.default_rng(seed).integers(50, size=sum(counts))
    together = gathered_scores(users_GD, np.array(counts), items_ND, rows_P)
    user_P = np.repeat(np.arange(len(counts)), counts)
    np.testing.assert_allclose(together, (users_GD[user_P] * items_ND[rows_P]).sum(axis=1), rtol=1e-4, atol=1e-5)
    for pair in range(0, sum(counts), 97):
        alone = gathered_scores(users_GD[[user_P[pair]]], np.array([1]), items_ND, rows_P[[pair]])
        assert alone[0] == together[pair]


def test_vectors_of_two_widths_never_meet() -> None:
    with pytest.raises(ModelError, match="user vectors are 6 wide, item vectors 4"):
        gathered_scores(vectors(1, 0), np.array([1]), vectors(3, 1)[:, :4], np.array([0]))


def test_a_vector_of_nothing_has_cosine_nothing() -> None:
    assert (unit(np.zeros((2, 3), np.float32)) == 0).all()


def test_the_plan_follows_size_and_configuration_and_says_why() -> None:
    small = choose_plan(ScoringConfig(), items=1000, width=256, parallelism=2)
    assert small.kind == "broadcast" and "1.0 MB, the limit for one node is 512 MB" in str(small)
    large = choose_plan(ScoringConfig(broadcast_mb=1), items=1_000_000, width=256, parallelism=2)
    assert large.kind == "shuffle" and large.buckets == 16 and "shuffled in 16 buckets" in str(large)
    assert choose_plan(ScoringConfig(plan="shuffle"), 10, 4, parallelism=3).buckets == 3
    assert choose_plan(ScoringConfig(plan="broadcast", broadcast_mb=1), 1_000_000, 256, 2).kind == "broadcast"


# The job, on a copy of the night's warehouse.

NEW_ITEM, NO_TEXT, GONE = "new-item", "textless-item", "nowhere"


def put_pairs(folder: Path, rows: list[tuple[str, str]], user: str = c.USER_ID, item: str = c.ITEM_ID) -> str:
    schema = pa.schema({user: pa.string(), item: pa.string()})
    table = pa.Table.from_pylist([{user: one, item: other} for one, other in rows], schema=schema)
    write_deltalake(str(folder), table)
    return str(folder)


def add_items(warehouse: Path) -> None:
    """Two items that came after the vocabulary was made, one of them without a text."""
    items = arrow_table(warehouse, "items")
    known = items.slice(0, 2).to_pylist()
    known[0] |= {c.ITEM_ID: NEW_ITEM, c.IS_DELETED: False}
    known[1] |= {c.ITEM_ID: NO_TEXT, c.IS_DELETED: False, c.TITLE: "", c.DESCRIPTION: "", c.CATEGORIES: []}
    rows = pa.Table.from_pylist(known, schema=items.schema)
    write_deltalake(str(warehouse / "tables" / "items"), rows, mode="append")


def scores(warehouse: Path) -> pd.DataFrame:
    return arrow_table(warehouse, "pair_scores").to_pandas()


@pytest.fixture(scope="module")
def warehouse(night: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = copy_of(night, tmp_path_factory.mktemp("scores") / "warehouse")
    add_items(folder)
    return folder


def own_list(warehouse: Path, folder: Path) -> str:
    user = arrow_table(warehouse, "user_embeddings").to_pandas()[c.USER_ID].min()
    known = arrow_table(warehouse, "item_embeddings").to_pandas()[c.ITEM_ID].min()
    rows = [(user, item) for item in (known, NEW_ITEM, NO_TEXT, GONE)] + [("nobody", known)]
    return put_pairs(folder / "list", rows, "member", "article")


def configured(path: str, unknown_items: str) -> list[str]:
    listed = f"scoring.pairs=[{{path: {path}, user: member, item: article}}]"
    settings = ["scoring.tables=[]", listed, f"scoring.unknown_items={unknown_items}"]
    return ["--task", "all", *(part for setting in settings for part in ("--set", setting))]


def test_unknown_items_are_counted_and_reported(
    warehouse: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("score_pairs", warehouse, *configured(own_list(warehouse, tmp_path), "count")) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "5 pairs, 1 without user vector, 3 without item vector" in out
    assert "pairs: 5 in = 1 out + 4 rejected" in out


def test_unknown_items_are_scored_by_their_text_where_asked_for(
    warehouse: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("score_pairs", warehouse, *configured(own_list(warehouse, tmp_path), "text")) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "1 items without a vector are scored by their text" in out and "pairs: 5 in = 2 out + 3 rejected" in out
    checkpoint = latest(warehouse / "checkpoints", "all")
    items = arrow_table(warehouse, "items").to_pandas().set_index(c.ITEM_ID)
    twin = items[items[c.TITLE] == items.loc[NEW_ITEM, c.TITLE]].index.difference([NEW_ITEM])[0]
    tokens = arrow_table(warehouse, "item_tokens").to_pandas().set_index(c.ITEM_ID).loc[twin]
    vector = encode_items(
        checkpoint.load_model().eval(),
        np.array([1]),
        np.stack([tokens[c.TOKEN_IDS]]),
        np.array([tokens[c.TOKEN_COUNT]]),
    )[0]
    users = arrow_table(warehouse, "user_embeddings").to_pandas()
    users = users[users[c.MODEL_VERSION] == checkpoint.model_version].set_index(c.USER_ID)[c.EMBEDDING]
    row = scores(warehouse).set_index(c.ITEM_ID).loc[NEW_ITEM]
    assert row[c.SCORE] == pytest.approx(float(vector @ users[row[c.USER_ID]]), abs=1e-5)
    assert row[c.MODEL_VERSION] == checkpoint.model_version


def test_an_empty_list_changes_nothing(warehouse: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = DeltaTable(str(warehouse / "tables" / "pair_scores")).version()
    empty = put_pairs(tmp_path / "empty", [])
    assert run("score_pairs", warehouse, "--task", "all", "--set", "scoring.tables=[]", "--pairs", empty) == 0
    assert "there is no candidate pair" in " ".join(capsys.readouterr().out.split())
    assert DeltaTable(str(warehouse / "tables" / "pair_scores")).version() == before


def test_no_candidate_changes_nothing(warehouse: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = copy_of(warehouse, tmp_path / "warehouse")
    DeltaTable(str(empty / "tables" / "recall_candidates")).delete()
    before = DeltaTable(str(empty / "tables" / "pair_scores")).version()
    assert run("score_pairs", empty, "--task", "all", "--set", "scoring.tables=[recall_candidates]") == 0
    assert "there is no candidate pair" in " ".join(capsys.readouterr().out.split())
    assert DeltaTable(str(empty / "tables" / "pair_scores")).version() == before


def test_ids_of_another_spelling_do_not_wipe_the_scores(
    warehouse: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = DeltaTable(str(warehouse / "tables" / "pair_scores")).version()
    foreign = put_pairs(tmp_path / "foreign", [("7", "12"), ("8", "12")])
    assert run("score_pairs", warehouse, "--task", "all", "--set", "scoring.tables=[]", "--pairs", foreign) == 2
    out = " ".join(capsys.readouterr().out.split())
    assert "none of 2 pairs has both vectors of" in out and "e.g. [('7', '12'), ('8', '12')]" in out
    assert DeltaTable(str(warehouse / "tables" / "pair_scores")).version() == before


@pytest.mark.faults
def test_users_of_a_list_are_told_and_not_kept(
    warehouse: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    house = copy_of(warehouse, tmp_path / "warehouse")
    listed = put_pairs(tmp_path / "list", [("ghost|7", "12")])
    assert run("score_pairs", house, "--task", "all", "--set", "scoring.tables=[]", "--pairs", listed) == 2
    assert "e.g. [('ghost|7', '12')]" in " ".join(capsys.readouterr().out.split())
    runs = arrow_table(house, "runs").to_pylist()
    assert f"no item vector), e.g. {NOT_KEPT}; the previous scores stay" in str(runs)
    for table in (house / "tables").iterdir():
        found = find_traces(str(table), ["ghost|7"])
        assert (found.left, found.elsewhere) == (0, 0), table.name
    assert run("erase_user", house, "--user-id", "ghost|7") == 0
    (report,) = (house / "erasures").glob("erase_user-*.json")
    assert json.loads(report.read_text(encoding="utf-8"))["values_left"] == 0
    files = [file for file in house.rglob("*") if file.is_file() and file.suffix in (".json", ".html", ".jsonl")]
    assert files and not [file for file in files if b"ghost|7" in file.read_bytes()]


def test_lists_that_cannot_be_read_are_refused(
    warehouse: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = put_pairs(tmp_path / "wrong", [("u", "i")], "who", "what")
    for arguments, message in (
        (["--pairs", wrong], "no column ['item_id', 'user_id']; it has ['who', 'what']"),
        (["--pairs", str(tmp_path / "absent")], "not there; a Delta table or Parquet files are needed"),
        (["--set", "scoring.tables=[]"], "no candidate pairs"),
    ):
        assert run("score_pairs", warehouse, *arguments) == 2
        assert message in " ".join(capsys.readouterr().out.split())
