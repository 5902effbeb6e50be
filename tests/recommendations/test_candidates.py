"""Candidates from several sources: what each finds, what all keep, and what may never be one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from precise_core.recommendations.batches import TaskCandidates
from precise_core.recommendations.history import tally
from precise_core.recommendations.names import OF_POPULAR, SOURCES
from precise_core.recommendations.sources import source_scores, trending
from schemas.recommendations import FEATURE_NAMES
from tests.recommendations.world import (
    DAY,
    INSTANT,
    ITEMS,
    Histories,
    any_histories,
    block,
    config,
    facts_of,
    known,
    make,
    random_histories,
    real_items,
)

HISTORIES = random_histories(11)
ALL = config()
_DECAYED = 125.0


def weight(histories: Histories, user: str, item: int, bit: int = 0) -> float:
    """What a user had of an item, slowly decayed."""
    ages = [(INSTANT - time) / DAY for one, time, bits in histories[user] if one == item and bits >> bit & 1]
    return float(np.log1p(sum(0.5 ** (age / _DECAYED) for age in ages if age > 0)))


def best(scores: dict[int, float], k: int) -> dict[int, int]:
    """Rank by item of the k best scores above 0; equal ones by item."""
    order = sorted((item for item in scores if scores[item] > 0), key=lambda item: (-round(scores[item], 6), item))
    return {item: rank for rank, item in enumerate(order[:k], start=1)}


def ranks_of(made: TaskCandidates, source: str, user: int) -> dict[int, int]:
    found = made.candidates
    mine = (found.user_rows_C == user) & np.isfinite(found.ranks[source])
    return dict(zip(found.item_rows_C[mine].tolist(), found.ranks[source][mine].astype(int).tolist(), strict=True))


@pytest.mark.parametrize("has_history", [True, False])
def test_the_union_has_the_best_of_every_source_and_their_ranks(has_history: bool) -> None:
    """What a user had is found by the histories alone; without them, by the others."""
    with_all = config(sources={source: 5 * (has_history or source != "history") for source in SOURCES})
    of = known(HISTORIES, with_all)
    events = block(HISTORIES).events
    made = make(HISTORIES, of, with_all)
    for task, bit in (("all", 0), ("buy", 1)):
        for row, user in enumerate(HISTORIES):
            had = {item: weight(HISTORIES, user, item) for item in range(ITEMS)}
            assert ranks_of(made[task], "history", row) == (best(had, 5) if has_history else {})
            others = [item for item in range(ITEMS) if not (has_history and had[item])]
            seeds = set(events.newest(with_all.seeds).item_rows_E[events.user_rows_E == row].tolist())
            for source in ("neighbours", "baskets", "ease", "text"):
                near = of.similarities.near[source].toarray().astype(np.float64)
                scores = {item: sum(near[seed, item] for seed in seeds) for item in others}
                assert ranks_of(made[task], source, row) == best(scores, 5), (source, user)
            if task == "buy":
                bought = {item: weight(HISTORIES, user, item, bit) for item in range(ITEMS)}
                assert ranks_of(made[task], "task_history", row) == best(bought, 5)


def test_similar_users_are_others_of_the_sample_weighted_by_their_cosine() -> None:
    of = known(HISTORIES, ALL)
    made = make(HISTORIES, of, ALL)["all"]
    vectors = {user: np.array([weight(HISTORIES, user, item) for item in range(ITEMS)]) for user in HISTORIES}
    unit = {user: vector / (np.linalg.norm(vector) or 1) for user, vector in vectors.items()}
    for row, user in enumerate(HISTORIES):
        cosines = {other: unit[user] @ unit[other] for other in of.similarities.sample_rows if other != user}
        near = sorted((other for other in cosines if cosines[other] > 0), key=lambda other: -cosines[other])[:3]
        expected = sum((cosines[other] * unit[other] for other in near), np.zeros(ITEMS)) / 3
        mine = made.candidates.user_rows_C == row
        items = made.candidates.item_rows_C[mine]
        np.testing.assert_allclose(made.candidates.scores["users"][mine], expected[items], rtol=1e-4, atol=1e-6)


def test_trending_items_are_the_most_popular_of_some_days_and_the_newly_taken() -> None:
    facts = facts_of(HISTORIES, 1)
    found = trending(facts, 4)
    last_days = {f"popular_{days}d" for days in (1, 3, 7, 28)}
    assert set(found) == last_days | {"popular_ever", "first_time_7d", "first_time_28d"}
    ever = sorted(
        (item for item in range(ITEMS) if facts.events_N[item]), key=lambda item: (-facts.events_N[item], item)
    )
    assert found.pop("popular_ever").tolist() == ever[:4]
    for name, rows in found.items():
        kind, days = name.rsplit("_", 1)
        counts = (facts.recent if kind == "popular" else facts.first_time)[int(days[:-1])]
        order = sorted(range(ITEMS), key=lambda item: (-counts[item], -facts.events_N[item], item))
        assert rows.tolist() == [item for item in order if counts[item] > 0][:4]


def test_a_user_without_history_gets_trending_items_alone() -> None:
    of = known(HISTORIES, ALL)
    for task, made in make(HISTORIES, of, ALL).items():
        mine = made.candidates.user_rows_C == list(HISTORIES).index("nobody")
        expected = set(np.concatenate(list(trending(of.facts[task], 5).values())).tolist())
        assert set(made.candidates.item_rows_C[mine].tolist()) == expected
        assert not made.is_repeat_C[mine].any()
        for name, ranks in made.candidates.ranks.items():
            assert name.startswith(("popular", "first_time")) or not np.isfinite(ranks[mine]).any()


def test_an_instant_without_any_event_has_no_candidates() -> None:
    histories: Histories = {"u": [(3, INSTANT, 3)], "v": []}
    for made in make(histories, known(histories, ALL), ALL).values():
        assert len(made.candidates) == 0 and made.features_CG.shape[0] == 0


@settings(max_examples=25, deadline=None)
@given(any_histories(), st.integers(1, 8), st.sets(st.integers(2, ITEMS - 1)))
def test_no_more_than_the_cap_and_never_one_that_may_not_be_recommended(
    histories: Histories, cap: int, forbidden: set[int]
) -> None:
    allowed = real_items()
    allowed[list(forbidden)] = False
    of_any, of = ALL, config(candidates=cap)
    whole = make(histories, known(histories, of_any, allowed=allowed), of_any)
    for task, made in make(histories, known(histories, of, allowed=allowed), of).items():
        found = made.candidates
        assert not forbidden & set(found.item_rows_C.tolist())
        pairs = list(zip(found.user_rows_C.tolist(), found.item_rows_C.tolist(), strict=True))
        assert pairs == sorted(set(pairs))
        for user in range(len(histories)):
            mine, ranks = whole[task].candidates.user_rows_C == user, whole[task].candidates.ranks
            of_all = [name for name in ranks if name.startswith(OF_POPULAR)]  # one vote together
            sums = sum(1 / (60 + ranks[name][mine]) for name in ranks.keys() - set(of_all))
            sums = sums + np.max([1 / (60 + ranks[name][mine]) for name in of_all], axis=0)
            is_own = np.isfinite([ranks[name][mine] for name in ("history", "task_history") if name in ranks]).any(
                axis=0
            )
            items = whole[task].candidates.item_rows_C[mine]
            order = sorted(range(len(items)), key=lambda at: (not is_own[at], -round(sums[at], 12), items[at]))
            assert sorted(items[at] for at in order[:cap]) == [item for row, item in pairs if row == user]


@pytest.mark.parametrize("source", [source for source in SOURCES if source != "history"])
def test_a_source_that_is_off_adds_nothing(source: str) -> None:
    off = config(sources={name: 0 if name == source else 5 for name in SOURCES})
    of = known(HISTORIES, ALL)
    names = {source} if source != "trending" else set(trending(of.facts["all"], 5))
    whole, less = make(HISTORIES, of, ALL), make(HISTORIES, of, off)
    for task, made in less.items():
        pairs = set(zip(made.candidates.user_rows_C, made.candidates.item_rows_C, strict=True))
        expected = set()
        for name, ranks in whole[task].candidates.ranks.items():
            if name in names:
                assert not np.isfinite(made.candidates.ranks.get(name, np.array(np.inf))).any()
            else:
                found, there = whole[task].candidates, np.isfinite(ranks)
                expected |= set(zip(found.user_rows_C[there], found.item_rows_C[there], strict=True))
        assert pairs == expected


def of_one(made: TaskCandidates, row: int) -> bytes:
    found, mine = made.candidates, made.candidates.user_rows_C == row
    arrays = [found.item_rows_C[mine], made.features_CG[mine], made.is_repeat_C[mine]]
    arrays += [values[mine] for values in (*found.scores.values(), *found.ranks.values())]
    return b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 50), st.permutations([f"u{row}" for row in range(16)] + ["nobody"]))
def test_a_user_gets_the_same_alone_and_among_others_in_any_order(seed: int, order: list[str]) -> None:
    histories = random_histories(seed)
    of = known(histories, ALL)
    among, shuffled = make(histories, of, ALL), make(histories, of, ALL, only=order)
    for row, user in enumerate(histories):
        alone = make(histories, of, ALL, only=[user])
        for task in among:
            expected = of_one(alone[task], 0)
            assert of_one(among[task], row) == expected
            assert of_one(shuffled[task], order.index(user)) == expected


def test_only_the_newest_events_are_seeds() -> None:
    histories: Histories = {
        **{f"a{row}": [(2, INSTANT - DAY, 1), (3, INSTANT - DAY, 1)] for row in range(4)},
        **{f"b{row}": [(4, INSTANT - DAY, 1), (5, INSTANT - DAY, 1)] for row in range(4)},
        "u": [(2, INSTANT - 9 * DAY, 1), (4, INSTANT - 8 * DAY, 1)],
    }
    few = config(seeds=1)
    made = make(histories, known(histories, few), few, only=["u"])["all"]
    assert 3 not in ranks_of(made, "neighbours", 0) and 5 in ranks_of(made, "neighbours", 0)
    both = config(seeds=2)
    assert {3, 5} <= set(ranks_of(make(histories, known(histories, both), both, only=["u"])["all"], "neighbours", 0))


def test_a_wrong_clock_does_not_spoil_the_scores() -> None:
    """An event of the year 1: its weight is zero to every digit."""
    year_1 = INSTANT - 739_000 * DAY
    histories: Histories = {"u": [(3, year_1, 3)], "v": [(3, year_1, 3), (4, INSTANT - DAY, 3)]}
    of = known(histories, ALL)
    for made in make(histories, of, ALL).values():
        assert np.isfinite(made.features_CG).all()


def test_scores_are_left_out_for_a_source_that_is_off() -> None:
    events, of = block(HISTORIES).events, known(HISTORIES, ALL)
    only = config(sources={"history": 3, "ease": 0, "users": 0})
    own = tally(events, events.item_rows_E)
    assert set(source_scores(events, own, of.similarities, list(HISTORIES), only)) == {"history"}


def test_items_that_the_vocabulary_lacks_are_together_no_item() -> None:
    """They share row 1: never a candidate, near to nothing, nothing in common; yet their events are of the user."""
    unknown = [(1, INSTANT - age * DAY, 3) for age in (1, 2, 2, 9)]
    histories: Histories = {
        "u": [*unknown, (3, INSTANT - DAY, 3)],
        "v": [*unknown, (4, INSTANT - DAY, 3)],
        "w": [(5, INSTANT - DAY, 3), (5, INSTANT - 2 * DAY, 3)],
        "lost": unknown,
    }
    of = known(histories, ALL, allowed=np.ones(ITEMS, bool))
    assert not of.facts["all"].events_N[1]
    for matrix in of.similarities.near.values():
        assert not matrix[1].nnz and not matrix[:, 1].nnz
    for made in make(histories, of, ALL).values():
        found = made.candidates
        assert 1 not in found.item_rows_C
        lost = found.user_rows_C == 3
        assert lost.any() and not made.is_repeat_C[lost].any()
        assert not np.isfinite(found.ranks["users"][lost]).any()

    def of_user(row: int, name: str) -> float:
        made = make(histories, of, ALL)["all"]
        return float(made.features_CG[made.candidates.user_rows_C == row, FEATURE_NAMES.index(name)][0])

    assert of_user(0, "user_events") == pytest.approx(np.log1p(5))
    assert of_user(0, "user_items") == of_user(0, "user_new_items_28d") == pytest.approx(np.log1p(1))
    assert (of_user(0, "user_repeat_share"), of_user(2, "user_repeat_share")) == (0, 0.5)
    assert of_user(3, "user_items") == 0 and of_user(3, "user_last_age") == pytest.approx(np.log1p(1))
