"""Each reason is true of the user's events, and what it names was the user's."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from precise_core.recommendations.point_in_time import PointInTime
from precise_core.recommendations.reasons import SEED, UserSeeds, reasons
from tests.recommendations.world import (
    DAY,
    INSTANT,
    Event,
    Histories,
    any_histories,
    block,
    config,
    known,
    make,
    random_histories,
)

ALL = config()


def explained(histories: Histories, task: str = "all", seeds: int = 100) -> list[tuple[str, int, str, int]]:
    """(user, item, words, seed) of every candidate."""
    of = known(histories, ALL)
    made = make(histories, of, ALL)[task]
    users, items = made.candidates.user_rows_C, made.candidates.item_rows_C
    events = block(histories).events
    best = UserSeeds.of(events, of.similarities.near, seeds)
    words, found = reasons(made.features_CG, users, items, best)
    names = [list(histories)[user] for user in users]
    return list(zip(names, items.tolist(), words, found.tolist(), strict=True))


def times_in(words: str) -> int:
    if "once" in words:
        return 1
    return int(re.search(r"taken ([\d,]+) times", words)[1].replace(",", ""))  # type: ignore[index]


def was_ago(words: str, age: float) -> bool:
    said = re.search(r"last (today|yesterday|([\d,]+) days ago)", words)
    assert said, words
    days = {"today": 0, "yesterday": 1}.get(said[1])
    days = int(said[2].replace(",", "")) if days is None else days
    return days in (int(age), int(age * (1 + 2e-6)))


def check(histories: Histories, of: PointInTime, user: str, item: int, words: str, seed: int) -> None:
    past = [(one, (INSTANT - time) / DAY) for one, time, _ in histories[user] if time < INSTANT]
    own = [age for one, age in past if one == item]
    everybody = [
        (one, (INSTANT - time) / DAY) for events in histories.values() for one, time, _ in events if time < INSTANT
    ]
    of_item = [age for one, age in everybody if one == item]
    if words == f"similar to {SEED}":
        assert seed in {one for one, _ in past} and seed != item and not own
        assert of.similarities.near["text"][seed, item] >= 0.3
        return
    if seed >= 0:
        assert words == f"goes with {SEED}"
        assert seed in {one for one, _ in past} and seed != item and not own
        assert max(of.similarities.near[name][seed, item] for name in ("neighbours", "baskets")) >= 0.05
        return
    assert SEED not in words
    if words.startswith("taken every"):
        days = {int(age) for age in own}
        interval = float(re.search(r"every (\d+) days", words)[1])  # type: ignore[index]
        assert len(days) >= 3 and was_ago(words, min(own))
        assert interval == pytest.approx((max(own) - min(own)) / (len(days) - 1), abs=0.51)
    elif words.startswith("taken"):
        assert times_in(words) == len(own) and "before" in words and was_ago(words, min(own))
    elif words.startswith("new"):
        assert not own and max(of_item) <= 14.01 and times_in(words) == sum(age <= 7 for age in of_item)
    elif words == "popular in a category of the user":
        assert not own and any(age <= 28 for age in of_item)
        assert of.categories_N[item] and of.categories_N[item] in {of.categories_N[one] for one, _ in past}
    elif words.startswith("popular"):
        times = sum(age <= 28 for age in of_item)
        assert times_in(words) == (times if words.endswith("in 28 days") else len(of_item)) and not own
        assert (times > 0) == words.endswith("in 28 days")
    else:
        assert words == "close to what the user took"
        assert past and not own and not any(age <= 28 for age in of_item)


@pytest.mark.parametrize("task", ["all", "buy"])
@pytest.mark.parametrize("seed", range(8))
def test_every_reason_is_true(seed: int, task: str) -> None:
    histories = random_histories(seed, longest=8)
    of, found = known(histories, ALL), explained(histories, task)
    assert len(found) > 20
    for one in found:
        check(histories, of, *one)


@settings(max_examples=40, deadline=None)
@given(any_histories(), st.sampled_from(["all", "buy"]))
def test_every_reason_is_true_of_any_events(histories: Histories, task: str) -> None:
    of = known(histories, ALL)
    for one in explained(histories, task):
        check(histories, of, *one)


def only_reason(histories: Histories, user: str, item: int) -> str:
    return next(words for name, one, words, _ in explained(histories) if (name, one) == (user, item))


def test_the_first_reason_that_holds_is_given() -> None:
    weekly: list[Event] = [(3, INSTANT - 7 * DAY * week - DAY // 2, 1) for week in range(1, 5)]
    twice: list[Event] = [(4, INSTANT - 2 * DAY, 1), (4, INSTANT - 1, 1)]
    histories: Histories = {"u": [*weekly, *twice], **{f"v{row}": [(5, INSTANT - DAY, 1)] for row in range(2)}}
    assert only_reason(histories, "u", 3) == "taken every 7 days, last 7 days ago"
    assert only_reason(histories, "u", 4) == "taken 2 times before, last today"
    assert only_reason(histories, "u", 5) == "new, taken 2 times this week"
    assert only_reason(histories, "v0", 5) == "taken once before, last yesterday"


@pytest.mark.parametrize("days", range(2, 120, 3))
def test_events_dated_by_day_are_so_many_whole_days_ago(days: int) -> None:
    histories: Histories = {"u": [(3, INSTANT - days * DAY, 1)]}
    assert only_reason(histories, "u", 3) == f"taken once before, last {days} days ago"


def test_an_item_goes_with_the_recent_item_it_is_most_like() -> None:
    couples = {f"c{row}": [(2, INSTANT - 40 * DAY, 1), (3, INSTANT - 40 * DAY, 1)] for row in range(6)}
    weak = {"w": [(4, INSTANT - 40 * DAY, 1), (3, INSTANT - 41 * DAY, 1)]}
    histories: Histories = {**couples, **weak, "u": [(4, INSTANT - DAY, 1), (2, INSTANT - 2 * DAY, 1)]}
    by_item = {item: (words, seed) for user, item, words, seed in explained(histories) if user == "u"}
    assert by_item[3] == (f"goes with {SEED}", 2)
    newest_alone = {item: seed for user, item, _, seed in explained(histories, seeds=1) if user == "u"}
    assert newest_alone[3] == 4


def test_nothing_to_explain() -> None:
    nobody = block({"u": []}).events
    words, seeds = reasons(
        np.empty((0, 200), np.float32), np.empty(0, int), np.empty(0, int), UserSeeds.of(nobody, {}, 5)
    )
    assert (words, seeds.tolist()) == ([], [])


def test_an_item_that_nobody_took_is_similar_to_one_the_user_had() -> None:
    """Items 5 and 11 share a word with item 8, and are in the catalog without an event."""
    histories: Histories = {"u": [(8, INSTANT - 200 * DAY, 1)], "v": [(3, INSTANT - DAY, 1)]}
    near = known(histories, ALL).similarities.near["text"]
    found = {item: (words, seed) for user, item, words, seed in explained(histories) if user == "u"}
    similar = [item for item in found if item not in (3, 8) and near[8, item] >= 0.3]
    assert similar and all(found[item] == (f"similar to {SEED}", 8) for item in similar)
