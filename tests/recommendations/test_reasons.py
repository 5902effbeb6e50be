"""Each reason is true of the user's events, and what it names was the user's."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from precise_core.recommendations.point_in_time import PointInTime
from precise_core.recommendations.reasons import SEED, UserSeeds, dates_before, reasons
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
    words, found = reasons(made.features_CG, users, items, dates_before(INSTANT, made.last_ages_C), best)
    names = [list(histories)[user] for user in users]
    return list(zip(names, items.tolist(), words, found.tolist(), strict=True))


def times_in(words: str) -> int:
    if "once" in words:
        return 1
    return int(re.search(r"taken (?:by others )?([\d,]+) times", words)[1].replace(",", ""))  # type: ignore[index]


def ends_with_the_date_of(words: str, micros: int) -> bool:
    return words.endswith(f", last on {datetime.fromtimestamp(micros // 1_000_000, UTC).date()}")


def check(histories: Histories, of: PointInTime, user: str, item: int, words: str, seed: int) -> None:
    past = [(one, (INSTANT - time) / DAY) for one, time, _ in histories[user] if time < INSTANT]
    own = [age for one, age in past if one == item]
    everybody = [
        (one, (INSTANT - time) / DAY) for events in histories.values() for one, time, _ in events if time < INSTANT
    ]
    of_item = [age for one, age in everybody if one == item]
    times, lately = len(of_item), sum(age <= 28 for age in of_item)
    newest = max((time for one, time, _ in histories[user] if time < INSTANT and one == item), default=0)
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
        said = re.search(r"every (day|(\d+) days) on average", words)
        assert said and len(days) >= 3 and ends_with_the_date_of(words, newest)
        interval = (max(own) - min(own)) / (len(days) - 1)
        assert float(said[2] or 1) == pytest.approx(interval, abs=0.51) and min(own) < 2.01 * interval
    elif own:
        assert words.startswith("taken ") and times_in(words) == len(own) and "before" in words
        assert ends_with_the_date_of(words, newest)
    elif words.startswith("new"):
        assert words.endswith("in 7 days") and max(of_item) <= 14.01
        assert times_in(words) == sum(age <= 7 for age in of_item)
    elif words == "popular in a category of the user":
        assert lately >= 5 and of.categories_N[item]
        assert of.categories_N[item] in {of.categories_N[one] for one, _ in past}
    elif words.startswith(("popular: taken ", "taken by others ")):
        assert times_in(words) == (lately or times) and (lately > 0) == words.endswith("in 28 days")
        assert words.startswith("popular") == ((lately or times) >= 5)
    else:
        assert words == "close to what the user took" and past and lately < 5


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
    assert only_reason(histories, "u", 3) == "taken every 7 days on average, last on 2024-02-22"
    assert only_reason(histories, "u", 4) == "taken 2 times before, last on 2024-02-29"
    assert only_reason(histories, "u", 5) == "new, taken 2 times in 7 days"
    assert only_reason(histories, "v0", 5) == "taken once before, last on 2024-02-29"


@pytest.mark.parametrize("days", range(2, 2000, 333))
@pytest.mark.parametrize("later", [-1, 0])
def test_dates_are_exact_however_long_ago(days: int, later: int) -> None:
    """Midnight belongs to the day that begins, a microsecond before it to the one that ends."""
    histories: Histories = {"u": [(3, INSTANT - days * DAY + later, 1)]}
    expected = date(2024, 3, 1) - timedelta(days=days - later)
    assert only_reason(histories, "u", 3) == f"taken once before, last on {expected}"


def every(days: float, last: float, times: int = 4) -> Histories:
    return {"u": [(3, int(INSTANT - DAY * (last + number * days)), 1) for number in range(times)]}


def test_a_habit_is_in_the_present_tense_until_it_was_left_out_twice() -> None:
    assert only_reason(every(1.3, 0.5), "u", 3) == "taken every day on average, last on 2024-02-29"
    assert only_reason(every(10, 19), "u", 3) == "taken every 10 days on average, last on 2024-02-11"
    assert only_reason(every(10, 21), "u", 3) == "taken 4 times before, last on 2024-02-09"
    assert only_reason(every(7, 730), "u", 3) == "taken 4 times before, last on 2022-03-02"


@pytest.mark.parametrize(("takers", "words"), [(1, "taken by others once"), (4, "taken by others 4 times")])
def test_what_hardly_anybody_took_is_not_called_popular(takers: int, words: str) -> None:
    """Nothing is near to what `u` had: an item of another category and text, and nobody who had both."""
    others = {f"v{row}": [(7, INSTANT - 20 * DAY, 1)] for row in range(takers)}
    histories: Histories = {"u": [(3, INSTANT - 90 * DAY, 1)], **others}
    assert only_reason(histories, "u", 7) == f"{words} in 28 days"
    of_category: Histories = {"u": [(4, INSTANT - 90 * DAY, 1)], **others}  # as 7, and like it
    assert only_reason(of_category, "u", 7) == "close to what the user took"


def test_what_many_took_is_popular_in_general_or_in_a_category_of_the_user() -> None:
    others = {f"v{row}": [(7, INSTANT - 20 * DAY, 1)] for row in range(5)}
    assert only_reason({"u": [(3, INSTANT - 90 * DAY, 1)], **others}, "u", 7) == "popular: taken 5 times in 28 days"
    in_category: Histories = {"u": [(4, INSTANT - 30 * DAY, 1)], **others}
    assert only_reason(in_category, "u", 7) == "popular in a category of the user"


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
        np.empty((0, 200), np.float32), *np.empty((2, 0), int), np.empty(0, str), UserSeeds.of(nobody, {}, 5)
    )
    assert (words, seeds.tolist()) == ([], [])


def test_an_item_that_nobody_took_is_similar_to_one_the_user_had() -> None:
    """Items 5 and 11 share a word with item 8, and are in the catalog without an event."""
    histories: Histories = {"u": [(8, INSTANT - 200 * DAY, 1)], "v": [(3, INSTANT - DAY, 1)]}
    near = known(histories, ALL).similarities.near["text"]
    found = {item: (words, seed) for user, item, words, seed in explained(histories) if user == "u"}
    similar = [item for item in found if item not in (3, 8) and near[8, item] >= 0.3]
    assert similar and all(found[item] == (f"similar to {SEED}", 8) for item in similar)
