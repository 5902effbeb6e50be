"""The index finds what exact search finds, refuses what FAISS would swallow, and recall keeps its promises."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from precise_core.errors import CheckpointError, ModelError, VersionMixError
from precise_core.index.config import IndexConfig
from precise_core.index.engine import choose_kind
from precise_core.index.index import VectorIndex, _check_queries, build_index, measure_recall
from precise_core.recall.config import RecallConfig
from precise_core.recall.recall import RecalledItems, recall_u2i, recall_u2i2i

VERSION = "universal-1"


def vectors(items: int, width: int = 8, seed: int = 0) -> np.ndarray:
    drawn = np.random.default_rng(seed).normal(size=(items, width)).astype(np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def make_index(vectors_ND: np.ndarray, **config: object) -> VectorIndex:
    items = len(vectors_ND)
    return build_index(
        [f"item-{row}" for row in range(items)],
        np.arange(2, items + 2),
        vectors_ND,
        model_version=VERSION,
        config=IndexConfig(**config),  # type: ignore[arg-type]
        seed=1,
        seed_queries_ND=vectors(*vectors_ND.shape, seed=77),
    )


def oracle(queries: np.ndarray, vectors_ND: np.ndarray, k: int) -> np.ndarray:
    return np.argsort(-(queries @ vectors_ND.T), axis=1, kind="stable")[:, :k]


@pytest.mark.parametrize("kind", ["flat", "ivf", "ivf_sq", "ivf_pq", "hnsw"])
def test_search_finds_the_exact_neighbours(kind: str) -> None:
    index, queries = make_index(vectors(900), kind=kind), vectors(50, seed=9)
    rows, scores = index.search(queries, 10)
    assert index.kind == kind
    assert index.recall >= 0.95
    assert measure_recall(index, queries, 10) >= 0.95
    assert (np.diff(scores, axis=1) <= 0).all()
    np.testing.assert_allclose(scores, np.einsum("qd,qkd->qk", queries, index.vectors_ND[rows]), rtol=1e-5)
    if kind == "flat":
        np.testing.assert_array_equal(rows, oracle(queries, index.vectors_ND, 10))


@pytest.mark.parametrize("kind", ["flat", "ivf", "ivf_sq", "ivf_pq", "hnsw"])
def test_same_input_gives_the_same_answers_in_any_batch(kind: str) -> None:
    queries = vectors(40, seed=3)
    first, again = make_index(vectors(500), kind=kind), make_index(vectors(500), kind=kind)
    rows, scores = first.search(queries, 7)
    np.testing.assert_array_equal(rows, again.search(queries, 7)[0])
    np.testing.assert_array_equal(scores[20:21], first.search(queries[20:21], 7)[1])


def test_auto_is_flat_for_a_small_catalog() -> None:
    assert make_index(vectors(50)).kind == "flat"


@given(seed=st.integers(0, 1000), k=st.integers(1, 40))
@settings(max_examples=30, deadline=None)
def test_equal_scores_are_ordered_by_row_even_at_the_cut(seed: int, k: int) -> None:
    coarse = np.random.default_rng(seed).integers(1, 3, (30, 2)).astype(np.float32)  # four distinct vectors
    index = make_index(coarse)
    rows, scores = index.search(np.ones((3, 2), np.float32), k)
    assert rows.shape == scores.shape == (3, k)
    found = min(k, 30)
    np.testing.assert_array_equal(rows[:, :found], oracle(np.ones((3, 2)), coarse, k))
    assert (rows[:, found:] == -1).all()
    assert np.isneginf(scores[:, found:]).all()


@pytest.mark.parametrize("kind", ["flat", "ivf", "ivf_sq", "ivf_pq", "hnsw"])
def test_only_allowed_rows_are_returned(kind: str) -> None:
    index = make_index(vectors(300), kind=kind)
    allowed = np.arange(300) % 50 == 0
    rows, _ = index.search(vectors(5, seed=2), 10, allowed)
    assert set(rows.ravel()) <= {-1, *np.flatnonzero(allowed)}
    assert (rows >= 0).sum(axis=1).min() >= 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.__setitem__(([3, 5], 0), np.nan), r"2 vectors hold NaN or infinity.*'item-3'"),
        (lambda v: v.__setitem__((4, 1), np.inf), r"1 vectors hold NaN or infinity.*'item-4'"),
        (lambda v: v.__setitem__(7, 0), r"1 vectors are all zero.*'item-7'"),
    ],
)
def test_bad_vectors_are_refused_with_count_and_first_id(change: object, message: str) -> None:
    bad = vectors(20)
    change(bad)  # type: ignore[operator]
    with pytest.raises(ModelError, match=message):
        make_index(bad)


def test_duplicate_ids_ragged_vectors_and_empty_catalogs_are_refused() -> None:
    config = IndexConfig()
    with pytest.raises(ModelError, match=r"1 item ids are there more than once.*'a'"):
        build_index(["a", "a"], np.array([2, 3]), vectors(2), model_version="m", config=config, seed=1)
    with pytest.raises(ModelError, match=r"vocabulary rows are there more than once.*'b'"):
        build_index(["a", "b"], np.array([2, 2]), vectors(2), model_version="m", config=config, seed=1)
    with pytest.raises(ModelError, match="not one width"):
        build_index(["a", "b"], np.array([2, 3]), [[1.0], [1.0, 2.0]], model_version="m", config=config, seed=1)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="must be parallel"):
        build_index(["a"], np.array([2, 3]), vectors(2), model_version="m", config=config, seed=1)
    for queries, message in ((vectors(1), "1 seed queries for 2 vectors"), (vectors(2, 4), "4 wide, the index 8")):
        pair = (["a", "b"], np.array([2, 3]), vectors(2))
        with pytest.raises(ModelError, match=message):
            build_index(*pair, model_version="m", config=config, seed=1, seed_queries_ND=queries)
    with pytest.raises(ModelError, match="not a single item vector"):
        build_index([], np.array([]), np.empty((0, 8)), model_version="m", config=config, seed=1)


def test_bad_queries_are_refused() -> None:
    index, query = make_index(vectors(20)), vectors(2)
    with pytest.raises(ModelError, match="4 wide, the index 8"):
        index.search(query[:, :4], 3)
    query[1, 0] = np.nan
    with pytest.raises(ModelError, match="1 queries hold NaN or infinity, the first is row 1"):
        index.search(query, 3)
    with pytest.raises(ModelError, match="k = 0"):
        index.search(vectors(1), 0)


@pytest.mark.parametrize(("kind", "advice"), [("ivf", "raise index.probes or"), ("ivf_pq", "or index.rerank or")])
def test_an_index_that_misses_neighbours_is_not_published(kind: str, advice: str) -> None:
    with pytest.raises(ModelError, match=rf"recall 0\.\d+ .* below index.min_recall 0.99; .*{advice}"):
        make_index(vectors(4000, 32), kind=kind, lists=100, probes=1, min_recall=0.99)


@pytest.mark.parametrize("kind", ["ivf", "ivf_sq"])
def test_as_many_lists_are_searched_as_the_recall_takes(kind: str, tmp_path: Path) -> None:
    stored, queries = vectors(4000, 32), vectors(50, 32, seed=9)
    with pytest.raises(ModelError, match="below index.min_recall 0.99"):
        make_index(stored, kind=kind, lists=100, probes=32, min_recall=0.99)
    index = make_index(stored, kind=kind, lists=100, min_recall=0.99)
    assert index.recall >= 0.99
    assert measure_recall(index, queries, 100) >= 0.98
    index.save(tmp_path / "index")
    again = VectorIndex.open(tmp_path / "index", VERSION)
    np.testing.assert_array_equal(again.search(queries, 100)[0], index.search(queries, 100)[0])


def test_compressed_vectors_are_ranked_again_by_whole_ones() -> None:
    """What the codes alone confuse, looking at more places finds; scores are those of the whole vectors."""
    stored, queries = vectors(4000, 32), vectors(200, 32, seed=8)
    found = {}
    for rerank in (1, 8):
        index = make_index(stored, kind="ivf_pq", lists=20, probes=20, rerank=rerank, min_recall=0)
        found[rerank] = measure_recall(index, queries, 100)
        rows, scores = index.search(queries, 10)
        np.testing.assert_allclose(scores, np.einsum("qd,qkd->qk", queries, stored[rows]), rtol=1e-4, atol=1e-6)
    assert found[1] < 0.95 < 0.99 < found[8]


def test_every_build_is_measured_on_a_thousand_queries_of_users_and_items() -> None:
    items, users = vectors(300), vectors(5000, seed=4)
    queries = _check_queries(items, users, 1000, seed=1)
    np.testing.assert_array_equal(queries, _check_queries(items, users, 1000, seed=1))
    is_user = (queries[:, None] == users[None]).all(axis=2).any(axis=1)
    is_item = (queries[:, None] == items[None]).all(axis=2).any(axis=1)
    assert len(queries) == 1000 and is_user[:500].all() and is_item[500:800].all()  # the rest lies between items
    assert not is_user[500:].any() and is_item[800:].mean() < 0.1
    assert len(_check_queries(vectors(3), None, 1000, seed=1)) == 1000
    with pytest.raises(ValueError, match="greater than or equal to 1000"):
        IndexConfig(check_queries=999)


def test_auto_takes_the_kind_by_the_number_of_items() -> None:
    kinds = [choose_kind(IndexConfig(), items) for items in (19_999, 20_000, 2_000_000)]
    assert kinds == ["flat", "ivf", "ivf_pq"]


def test_a_saved_index_answers_the_same(tmp_path: Path) -> None:
    index, queries = make_index(vectors(400), kind="ivf"), vectors(10, seed=4)
    index.save(tmp_path / "index")
    opened = VectorIndex.open(tmp_path / "index", VERSION)
    for before, after in zip(index.search(queries, 20), opened.search(queries, 20), strict=True):
        np.testing.assert_array_equal(before, after)
    assert opened.item_ids == index.item_ids
    assert opened.recall == index.recall
    np.testing.assert_array_equal(opened.item_indices_N, np.arange(2, 402))
    np.testing.assert_array_equal(opened.seed_queries_ND, index.seed_queries_ND)
    assert isinstance(opened.seed_queries_ND, np.memmap)  # workers of one machine share it


def test_saving_again_replaces_the_folder_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    make_index(vectors(10)).save(tmp_path / "index")
    make_index(vectors(12)).save(tmp_path / "index")
    assert len(VectorIndex.open(tmp_path / "index", VERSION)) == 12
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


def test_another_model_version_is_refused_by_both_names(tmp_path: Path) -> None:
    make_index(vectors(10)).save(tmp_path / "index")
    with pytest.raises(VersionMixError, match=r"'universal-1'.*'universal-2'"):
        VectorIndex.open(tmp_path / "index", "universal-2")


@pytest.mark.parametrize("name", ["index.faiss", "vectors.npy", "seed_queries.npy", "items.parquet", "manifest.json"])
def test_a_changed_or_missing_file_is_refused(tmp_path: Path, name: str) -> None:
    make_index(vectors(10)).save(tmp_path / "index")
    file = tmp_path / "index" / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=name):
        VectorIndex.open(tmp_path / "index", VERSION)
    file.unlink()
    with pytest.raises(CheckpointError, match=f"missing.*{name}"):
        VectorIndex.open(tmp_path / "index", VERSION)


def items_of(candidates: RecalledItems, user: int) -> list[int]:
    return candidates.item_rows_C[candidates.user_rows_C == user].tolist()


def test_u2i_leaves_out_seen_and_deleted_items_and_still_fills_k() -> None:
    index, users = make_index(vectors(100)), vectors(3, seed=5)
    ranking = oracle(users, index.vectors_ND, 100)
    seen = [ranking[0, :20], np.empty(0, np.int64), np.array([-1, ranking[2, 1]])]
    deleted = [ranking[1, 0]]
    found = recall_u2i(index, users, 10, excluded=seen, allowed_rows_N=~np.isin(np.arange(len(index)), list(deleted)))
    for user in range(3):
        expected = [row for row in ranking[user] if row not in seen[user] and row not in deleted][:10]
        assert items_of(found, user) == expected
    assert found.ranks_C.tolist() == list(range(1, 11)) * 3
    assert (found.seed_rows_C == -1).all()


def u2i2i_oracle(
    index: VectorIndex, recent: list[int], k: int, config: RecallConfig, banned: set[int]
) -> list[tuple[int, float, int]]:
    """(item, score, seed) by plain loops."""
    queries = index.seed_queries_ND if config.seed_vector == "query" else index.vectors_ND
    assert queries is not None
    seeds = list(dict.fromkeys(row for row in recent if row >= 0))[: config.seeds]
    best: dict[int, tuple[float, int, int]] = {}
    for position, seed in enumerate(seeds):
        similarity = np.einsum("d,nd->n", queries[seed], index.vectors_ND)
        near = [row for row in np.argsort(-similarity, kind="stable") if row != seed and row not in banned]
        for row in near[: config.neighbours]:
            value = float(np.float32(similarity[row]) * np.float32(config.decay) ** np.float32(position))
            if value > 0 and (row not in best or value > best[row][0]):
                best[row] = (value, position, seed)
    ordered = sorted(best.items(), key=lambda entry: (-entry[1][0], entry[0]))[:k]
    return [(row, value, seed) for row, (value, _, seed) in ordered]


@given(
    recent=st.lists(st.lists(st.integers(-1, 39), max_size=12), min_size=1, max_size=4),
    deleted=st.sets(st.integers(0, 39), max_size=10),
    seeds=st.integers(1, 5),
    neighbours=st.integers(1, 45),
    seed_vector=st.sampled_from(["query", "item"]),
)
@settings(max_examples=60, deadline=None)
def test_u2i2i_equals_plain_loops(
    recent: list[list[int]], deleted: set[int], seeds: int, neighbours: int, seed_vector: Literal["query", "item"]
) -> None:
    index = make_index(vectors(40, 4))
    config = RecallConfig(seeds=seeds, neighbours=neighbours, decay=0.8, seed_vector=seed_vector)
    rows = [np.array(items, np.int64) for items in recent]
    found = recall_u2i2i(index, rows, 15, config, allowed_rows_N=~np.isin(np.arange(len(index)), list(deleted)))
    for user, items in enumerate(recent):
        mine = found.user_rows_C == user
        expected = u2i2i_oracle(index, items, 15, config, deleted)
        assert found.item_rows_C[mine].tolist() == [row for row, _, _ in expected]
        assert found.seed_rows_C[mine].tolist() == [seed for _, _, seed in expected]
        np.testing.assert_allclose(found.scores_C[mine], [value for _, value, _ in expected], rtol=1e-5)
        assert found.ranks_C[mine].tolist() == list(range(1, len(expected) + 1))
    assert not set(found.item_rows_C) & deleted


def test_u2i2i_finds_what_follows_a_seed_and_not_its_duplicates() -> None:
    """Of four items the second has the text of the first, the third follows it, the fourth is against all."""
    stored = np.array([[1, 0], [1, 0.01], [0.1, 1], [-1, -1]], np.float32)
    queries = np.array([[-0.1, 1], [-0.1, 1], [-1, -1], [0, 0]], np.float32)
    rows, exact = [np.array([0])], IndexConfig(kind="flat")

    def found(queries_ND: np.ndarray | None, seed_vector: Literal["query", "item"]) -> list[int]:
        described = {"model_version": VERSION, "config": exact, "seed": 1, "seed_queries_ND": queries_ND}
        index = build_index(list("abcd"), np.arange(2, 6), stored, **described)  # type: ignore[arg-type]
        return items_of(recall_u2i2i(index, rows, 10, RecallConfig(seed_vector=seed_vector)), 0)

    assert found(queries, "query") == [2]
    assert found(queries, "item") == found(None, "item") == [1, 2]
    assert found(-queries, "query") == [3, 1]  # the seed itself would have been the second
    assert found(queries[[3, 3, 3, 3]], "query") == []  # similarities must be positive
    with pytest.raises(ModelError, match=r"no vectors for recall\.seed_vector query.* run jobs/embed_items\.py"):
        found(None, "query")


def test_u2i2i_leaves_out_what_a_user_had() -> None:
    index = make_index(vectors(40, 4))
    rows = [np.array([1, 2]), np.array([1, 2])]
    free = recall_u2i2i(index, rows, 10, RecallConfig())
    had = [np.array(items_of(free, 0)[:3]), np.empty(0, np.int64)]
    filtered = recall_u2i2i(index, rows, 10, RecallConfig(), excluded=had)
    assert not set(items_of(filtered, 0)) & set(had[0])
    assert items_of(filtered, 1) == items_of(free, 1)


def test_a_wrong_number_of_exclusions_is_refused() -> None:
    index = make_index(vectors(10))
    with pytest.raises(ModelError, match="excluded has 1 entries for 2 users"):
        recall_u2i(index, vectors(2), 3, excluded=[np.array([1])])
