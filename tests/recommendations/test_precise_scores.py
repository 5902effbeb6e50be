"""What the published vectors say of candidates, and what the published indexes find."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pytest

from precise_core.index.config import IndexConfig
from precise_core.index.index import build_index
from precise_core.recall.config import RecallConfig
from precise_core.recommendations.batches import UserBlock
from precise_core.recommendations.names import U2I, U2I2I
from precise_core.recommendations.precise_scores import VECTORS, PreciseScores, TaskIndex
from precise_core.recommendations.sources import Candidates
from tests.recommendations.world import BITS, DAY, INSTANT, ITEMS, block, real_items

WIDTH = 6
_RANDOM = np.random.default_rng(0)
_LISTS = pa.map_(pa.string(), pa.list_(pa.float32()))
HISTORIES = {
    "u": [(2, INSTANT - 3 * DAY, 1), (5, INSTANT - 2 * DAY, 3), (7, INSTANT - DAY, 3)],
    "no vector": [(3, INSTANT - DAY, 1)],
    "v": [(4, INSTANT - DAY, 3), (4, INSTANT + DAY, 3)],
    "nobody": [],
}
OF_USERS: Mapping[str, dict[str, np.ndarray]] = {
    "u": {"buy": _RANDOM.normal(size=WIDTH), "all": _RANDOM.normal(size=WIDTH)},
    "no vector": {},
    "v": {"all": _RANDOM.normal(size=WIDTH)},
    "nobody": {"all": _RANDOM.normal(size=WIDTH)},
}
ROWS = {"all": np.array([9, 2, 4, 5, 7, 3]), "buy": np.array([2, 12, 5])}
ITEM_VECTORS = {task: _RANDOM.normal(size=(len(rows), WIDTH)).astype(np.float32) for task, rows in ROWS.items()}


def with_vectors(histories: Mapping[str, list[tuple[int, int, int]]]) -> UserBlock:
    plain = block(histories)
    entries = [[(task, vector.tolist()) for task, vector in OF_USERS[user].items()] for user in histories]
    columns = [*plain.rows.columns, pa.array(entries, _LISTS)]
    rows = pa.RecordBatch.from_arrays(columns, names=[*plain.rows.schema.names, VECTORS])
    return UserBlock(rows, INSTANT, ITEMS)


def index_of(task: str, items: int = ITEMS) -> TaskIndex:
    rows, vectors = ROWS[task], ITEM_VECTORS[task]
    described = {"model_version": f"m-{task}", "config": IndexConfig(kind="flat"), "seed": 1}
    ids = [f"i{row}" for row in rows]
    return TaskIndex.of(build_index(ids, rows, vectors, seed_queries_ND=vectors, **described), items)  # type: ignore[arg-type]


def precise(
    k: Mapping[str, int] | None = None,
    allowed: np.ndarray | None = None,
    items: int = ITEMS,
    *,
    has_history: bool = False,
) -> PreciseScores:
    may = real_items(items) if allowed is None else allowed
    indexes = {task: index_of(task, items) for task in ROWS}
    return PreciseScores(
        indexes, RecallConfig(), k or {U2I: 3, U2I2I: 3}, dict.fromkeys(ROWS, may), has_history=has_history
    )


def every_pair(users: int, items: int = ITEMS) -> Candidates:
    rows, columns = (part.ravel() for part in np.mgrid[0:users, 0:items])
    return Candidates(rows, columns, {}, {})


def dot(task: str, user: str, item: int) -> float:
    if task not in OF_USERS[user] or item not in ROWS[task]:
        return np.nan
    return float(OF_USERS[user][task] @ ITEM_VECTORS[task][ROWS[task].tolist().index(item)])


def test_a_score_is_the_dot_product_and_none_where_a_vector_is_missing() -> None:
    of, users, pairs = precise(), with_vectors(HISTORIES), every_pair(len(HISTORIES))
    vectors = of.of_users(users)
    assert vectors["buy"][1].tolist() == [True, False, False, False]
    names = list(HISTORIES)
    for task in BITS:
        expected = [
            (dot("all", names[user], item), dot("buy", names[user], item) if task == "buy" else np.nan)
            for user, item in zip(pairs.user_rows_C, pairs.item_rows_C, strict=True)
        ]
        found = of.scores(task, pairs, vectors)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_users_in_a_slice_have_their_own_vectors() -> None:
    whole = with_vectors(HISTORIES)
    of, names = precise(), list(HISTORIES)
    for start in range(len(names)):
        some = UserBlock(whole.rows.slice(start, 2), INSTANT, ITEMS)
        for task, (vectors, has) in of.of_users(some).items():
            for row, user in enumerate(names[start : start + 2]):
                assert has[row] == (task in OF_USERS[user])
                np.testing.assert_allclose(vectors[row], OF_USERS[user].get(task, np.zeros(WIDTH)), rtol=1e-5)


def test_u2i_finds_the_nearest_allowed_items_of_users_with_a_vector() -> None:
    allowed = real_items()
    allowed[[4, 12]] = False
    of, users = precise(allowed=allowed), with_vectors(HISTORIES)
    found = of.recalled(users, BITS, of.of_users(users))
    for task in BITS:
        ranked, expected = found[task][U2I], []
        for row, user in enumerate(HISTORIES):
            if task in OF_USERS[user]:
                order = sorted((item for item in ROWS[task] if allowed[item]), key=lambda item: -dot(task, user, item))
                expected += [(row, int(item), rank) for rank, item in enumerate(order[:3], start=1)]
        assert (
            list(zip(ranked.user_rows.tolist(), ranked.item_rows.tolist(), ranked.ranks.tolist(), strict=True))
            == expected
        )


def test_u2i2i_finds_what_follows_recent_items_of_the_task_before_the_instant() -> None:
    of, users = precise(), with_vectors(HISTORIES)
    found = of.recalled(users, BITS, of.of_users(users))
    for task, bit in BITS.items():
        ranked = found[task][U2I2I]
        of_task, vectors = ROWS[task].tolist(), ITEM_VECTORS[task].astype(np.float64)
        for row, user in enumerate(HISTORIES):
            past = [item for item, time, bits in HISTORIES[user] if time < INSTANT and bits >> bit & 1]
            seeds = [item for item in past[::-1] if item in of_task]
            scores: dict[int, float] = {}
            for position, seed in enumerate(seeds):
                for item in set(of_task) - {seed}:
                    score = vectors[of_task.index(seed)] @ vectors[of_task.index(item)] * 0.9**position
                    if score > 0:
                        scores[item] = max(scores.get(item, 0.0), score)
            expected = sorted(scores, key=lambda item: -scores[item])[:3] if task in OF_USERS[user] else []
            assert ranked.item_rows[ranked.user_rows == row].tolist() == expected


def test_where_histories_are_a_source_the_index_brings_what_is_new() -> None:
    users, sizes = with_vectors(HISTORIES), {U2I: 3, U2I2I: 3}
    whole, new = precise({name: ITEMS for name in sizes}), precise(sizes, has_history=True)
    events = users.events
    had = set(zip(events.user_rows_E.tolist(), events.item_rows_E.tolist(), strict=True))
    expected = whole.recalled(users, BITS, whole.of_users(users))
    left_out = 0
    for task, by_source in new.recalled(users, BITS, new.of_users(users)).items():
        for source, ranked in by_source.items():
            of = expected[task][source]
            pairs = list(zip(of.user_rows.tolist(), of.item_rows.tolist(), strict=True))
            left_out += len(had & set(pairs))
            best: list[tuple[int, int]] = []
            for pair in pairs:
                if pair not in had and [row for row, _ in best].count(pair[0]) < 3:
                    best.append(pair)
            assert list(zip(ranked.user_rows.tolist(), ranked.item_rows.tolist(), strict=True)) == best
    assert left_out


@pytest.mark.parametrize("source", [U2I, U2I2I])
def test_an_index_that_is_off_is_not_searched(source: str) -> None:
    of, users = precise(k={U2I: 3, U2I2I: 3, source: 0}), with_vectors(HISTORIES)
    for by_source in of.recalled(users, BITS, of.of_users(users)).values():
        assert set(by_source) == {U2I, U2I2I} - {source}


def test_without_vectors_and_without_models_nothing_is_found() -> None:
    of, users = precise(), with_vectors({"no vector": HISTORIES["no vector"]})
    assert of.recalled(users, BITS, of.of_users(users)) == {}
    assert np.isnan(PreciseScores({}, RecallConfig(), {}, {}, has_history=False).scores("buy", every_pair(1), {})).all()


def test_an_item_that_the_catalog_of_then_did_not_have_is_not_found() -> None:
    """The index may know items that came later than what is known of the others."""
    of, users = precise(items=8), with_vectors(HISTORIES)
    vectors = of.of_users(users)
    for by_source in of.recalled(users, BITS, vectors).values():
        for ranked in by_source.values():
            assert (ranked.item_rows < 8).all()
    assert np.isfinite(of.scores("all", every_pair(1, 8), vectors)[:, 0]).sum() == 5
