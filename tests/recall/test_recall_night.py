"""Recall as a job: who gets what, from which source, and what is refused; on a copy of the night's warehouse."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from deltalake import DeltaTable

from precise_core.store.sums import write_sums
from precise_core.training.checkpoint import latest
from schemas import columns as c
from tests.night import arrow_table, copy_of, run, with_newcomers

TASK, NEWCOMER = "click_articles", "newcomer"


def table(warehouse: Path, name: str) -> pd.DataFrame:
    return arrow_table(warehouse, name).to_pandas()


def candidates(warehouse: Path, task: str = TASK) -> pd.DataFrame:
    found = table(warehouse, "recall_candidates")
    return found[found[c.TASK] == task]


def most_popular(warehouse: Path, excluded: set[str]) -> list[str]:
    """The fallback of the task by pandas: recent events, then all events, then id."""
    as_of = pd.Timestamp("2024-02-20", tz="UTC")
    events = table(warehouse, "events")
    known = events[(events[c.SCENE] == "articles") & (events[c.ACTION] == "click") & (events[c.EVENT_TS] < as_of)]
    recent = known[known[c.EVENT_TS] >= as_of - pd.Timedelta(days=28)]
    counts = pd.DataFrame({"total": known[c.ITEM_ID].value_counts(), "recent": recent[c.ITEM_ID].value_counts()})
    counts = counts.fillna(0).rename_axis(c.ITEM_ID).reset_index()
    counts = counts[~counts[c.ITEM_ID].isin(excluded)]
    return counts.sort_values(["recent", "total", c.ITEM_ID], ascending=[False, False, True])[c.ITEM_ID].tolist()


def index_of(warehouse: Path) -> Path:
    """The folder of the published index of the task."""
    published = table(warehouse, "published_models").set_index(c.TASK)
    return warehouse / "indexes" / published.loc[TASK, c.INDEX_VERSION]


@pytest.fixture(scope="module")
def after(night: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The night after the most recalled item was deleted and a newcomer was shown something; and that item.

    Another one will be shown something at the instant of the night, which must not be known yet.
    """
    warehouse = copy_of(night, tmp_path_factory.mktemp("recall") / "warehouse")
    gone = str(candidates(warehouse)[c.ITEM_ID].mode()[0])
    with_newcomers(warehouse, gone, NEWCOMER)
    assert run("recall", warehouse, "--task", TASK, "--set", "recall.filter_seen=true") == 0
    return warehouse, gone


def test_a_deleted_item_is_never_returned(after: tuple[Path, str]) -> None:
    warehouse, gone = after
    found = candidates(warehouse)
    assert gone not in set(found[c.ITEM_ID])
    assert gone in set(found[c.SEED_ITEM_ID])  # it says still what its users like


def test_a_user_without_history_gets_what_is_popular_and_is_marked(after: tuple[Path, str]) -> None:
    warehouse, gone = after
    found = candidates(warehouse).sort_values(c.RANK)
    own = found[found[c.USER_ID] == NEWCOMER]
    assert set(own[c.SOURCE]) == {"popular"} and own[c.SEED_ITEM_ID].isna().all()
    assert own[c.ITEM_ID].tolist() == most_popular(warehouse, {gone})[: len(own)] and len(own) == 50
    assert own[c.RANK].tolist() == list(range(1, 51))
    assert (own[c.SCORE].diff().dropna() <= 0).all()
    with_vector = table(warehouse, "user_embeddings")
    with_vector = set(with_vector[with_vector[c.TASK] == TASK][c.USER_ID])
    fallen_back = set(found[found[c.SOURCE] == "popular"][c.USER_ID])
    assert not fallen_back & with_vector
    assert fallen_back | with_vector == set(table(warehouse, "user_sequences")[c.USER_ID]) | {NEWCOMER}


def test_what_a_user_had_in_any_scene_is_left_out(after: tuple[Path, str]) -> None:
    warehouse, _ = after
    sequences = table(warehouse, "user_sequences")
    names = table(warehouse, "item_vocabulary").set_index(c.ITEM_INDEX)[c.ITEM_ID]
    had = sequences[sequences[c.TASK] == "all"].set_index(c.USER_ID)[c.ITEM_INDICES]
    for user, group in candidates(warehouse).groupby(c.USER_ID):
        if user != NEWCOMER:
            assert not set(group[c.ITEM_ID]) & set(names[had[user]])


def test_the_evaluation_reports_what_each_source_adds(night: Path) -> None:
    metrics = table(night, "evaluation_metrics")
    recall = metrics[(metrics["question"] == "recall") & (metrics[c.TASK] == "all") & (metrics["item_group"] == "all")]
    found = recall.set_index(["system", "metric", "k"])["value"]
    for source in ("u2i", "u2i2i"):
        assert 0 < found[source, "overlap", 50] < 1
        assert found[source, "unique_hit_rate", 50] <= found[source, "hit_rate", 50]
    assert set(recall["system"]) & {"u2i", "u2i2i", "popular"} == {"u2i", "u2i2i"}


def u2i2i_scores(warehouse: Path, seeds_by: str) -> tuple[pd.Series, np.ndarray]:
    """The scores of the U2I2I candidates, and what they must be: similarity to the seed x decay ^ its position."""
    found = candidates(warehouse)
    found = found[found[c.SOURCE] == "u2i2i"]
    items = table(warehouse, "item_embeddings").set_index([c.ITEM_ID, c.MODEL_VERSION])
    seeds = np.stack(items[seeds_by].reindex(pd.MultiIndex.from_frame(found[[c.SEED_ITEM_ID, c.MODEL_VERSION]])))
    recalled = np.stack(items[c.EMBEDDING].reindex(pd.MultiIndex.from_frame(found[[c.ITEM_ID, c.MODEL_VERSION]])))
    names = table(warehouse, "item_vocabulary").set_index(c.ITEM_INDEX)[c.ITEM_ID]
    sequences = table(warehouse, "user_sequences")
    recent = sequences[sequences[c.TASK] == TASK].set_index(c.USER_ID)[c.ITEM_INDICES]
    newest = {user: list(dict.fromkeys(names[indices[::-1]])) for user, indices in recent.items()}
    positions = [newest[user].index(seed) for user, seed in zip(found[c.USER_ID], found[c.SEED_ITEM_ID], strict=True)]
    return found[c.SCORE], np.einsum("cd,cd->c", seeds, recalled) * 0.9 ** np.array(positions)


def test_u2i2i_searches_with_what_the_model_expects_after_a_seed(
    night: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores, expected = u2i2i_scores(night, c.QUERY_EMBEDDING)
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    warehouse, by_item = copy_of(night, tmp_path / "warehouse"), ("--set", "recall.seed_vector=item")
    assert run("recall", warehouse, "--task", TASK, *by_item) == 0
    scores, expected = u2i2i_scores(warehouse, c.EMBEDDING)
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    index = index_of(warehouse)  # as it was before there were vectors to search with
    (index / "seed_queries.npy").unlink()
    write_sums(index)
    capsys.readouterr()
    assert run("recall", warehouse, "--task", TASK) == 2
    out = " ".join(capsys.readouterr().out.split())
    assert "has no vectors for recall.seed_vector query" in out and "Traceback" not in out
    assert run("recall", warehouse, "--task", TASK, *by_item) == 0


@pytest.mark.parametrize("other", ["older", "newer"])
def test_an_index_of_another_checkpoint_than_the_users_is_refused(
    night: Path, tmp_path: Path, other: str, capsys: pytest.CaptureFixture[str]
) -> None:
    warehouse = copy_of(night, tmp_path / "warehouse")
    before = DeltaTable(str(warehouse / "tables" / "recall_candidates")).version()
    version = latest(warehouse / "checkpoints", TASK).model_version
    index = index_of(warehouse)
    manifest = json.loads((index / "manifest.json").read_text())
    (index / "manifest.json").write_text(json.dumps(manifest | {"model_version": f"{other}-checkpoint"}))
    write_sums(index)
    assert run("recall", warehouse, "--task", TASK) == 2
    out = " ".join(capsys.readouterr().out.split())
    assert f"its vectors are of '{other}-checkpoint', the query's of '{version}'" in out
    shutil.rmtree(index)
    assert run("recall", warehouse, "--task", TASK) == 2
    assert "this is not a complete artefact; build it again" in " ".join(capsys.readouterr().out.split())
    assert DeltaTable(str(warehouse / "tables" / "recall_candidates")).version() == before


def test_an_index_of_compressed_vectors_recalls_the_same(
    night: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    warehouse = copy_of(night, tmp_path / "warehouse")
    flags = ["--task", TASK, "--set", "index.kind=ivf_pq", "--set", "index.probes=64"]
    assert run("build_index", warehouse, *flags) == 0 == run("publish_models", warehouse, *flags)
    assert "ivf_pq index over" in capsys.readouterr().out
    assert run("recall", warehouse, *flags) == 0
    before, found = (candidates(folder) for folder in (night, warehouse))
    pairs = [set(zip(f[c.USER_ID], f[c.ITEM_ID], strict=True)) for f in (before, found)]
    assert len(pairs[0] & pairs[1]) > 0.95 * len(pairs[0]) and np.isfinite(found[c.SCORE]).all()
