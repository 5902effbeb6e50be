"""Counts of what users had, against plain loops."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings

from precise_core.recommendations.batches import user_blocks
from precise_core.recommendations.history import HALF_LIVES, RECENT_DAYS, pair_keys, positions_in, split_keys, tally
from tests.recommendations.world import DAY, INSTANT, Histories, any_histories, block, random_histories


def ages_by_pair(histories: Histories) -> dict[tuple[int, int], list[float]]:
    found = defaultdict(list)
    for row, events in enumerate(histories.values()):
        for item, time, _ in events:
            if time < INSTANT:
                found[row, item].append((INSTANT - time) / DAY)
    return found


@settings(max_examples=60, deadline=None)
@given(any_histories())
def test_a_tally_is_the_plain_count(histories: Histories) -> None:
    events = block(histories).events
    found, expected = tally(events, events.item_rows_E), ages_by_pair(histories)
    assert list(zip(found.user_rows_P.tolist(), found.things_P.tolist(), strict=True)) == sorted(expected)
    for place, pair in enumerate(sorted(expected)):
        ages = expected[pair]
        assert found.counts_P[place] == len(ages)
        assert found.first_P[place] == max(ages) and found.last_P[place] == min(ages)
        days = {int(age) for age in ages}
        assert found.days_P[place] == len(days)
        for within in RECENT_DAYS:
            assert found.recent[within][place] == sum(age <= within for age in ages)
        for half_life in HALF_LIVES:
            assert found.decayed[half_life][place] == pytest.approx(sum(0.5 ** (age / half_life) for age in ages))
        if len(days) == 1:
            assert np.isnan(found.mean_interval_P[place])
        else:
            assert found.mean_interval_P[place] == pytest.approx((max(ages) - min(ages)) / (len(days) - 1))


def test_a_pair_is_found_where_it_stands_and_another_one_is_not() -> None:
    histories = random_histories(1)
    events = block(histories).events
    found, expected = tally(events, events.item_rows_E), sorted(ages_by_pair(histories))
    users, items = (part.ravel() for part in np.mgrid[0 : len(histories), 0:14])
    for user, item, at in zip(users, items, found.positions(users, items), strict=True):
        assert at == (expected.index((user, item)) if (user, item) in expected else len(expected))


def test_nobody_had_anything() -> None:
    events = block({"u": [], "v": []}).events
    found = tally(events, events.item_rows_E)
    assert len(found.keys_P) == 0 and found.mean_interval_P.tolist() == []
    assert found.positions(np.array([0, 1]), np.array([2, 2])).tolist() == [0, 0]
    assert len(events.newest(3).ages_E) == 0


def test_keys_are_ordered_as_the_pairs_and_give_them_back() -> None:
    users, things = np.array([0, 0, 1, 3_000_000]), np.array([5, 2**31 - 1, 0, 7])
    keys = pair_keys(users.astype(np.int32), things.astype(np.int32))
    assert (np.diff(keys) > 0).all()
    assert [part.tolist() for part in split_keys(keys)] == [users.tolist(), things.tolist()]
    assert positions_in(keys, keys[[2, 0]] + [0, 1]).tolist() == [2, 4]


@pytest.mark.parametrize("count", [1, 2, 3, 100])
def test_the_newest_events_are_the_last_of_each_user(count: int) -> None:
    histories = random_histories(2)
    newest = block(histories).events.newest(count)
    for row, events in enumerate(histories.values()):
        past = sorted((event for event in events if event[1] < INSTANT), key=lambda event: event[1])
        assert newest.item_rows_E[newest.user_rows_E == row].tolist() == [item for item, _, _ in past[-count:]]


def test_events_at_one_time_are_one_day_and_count_each() -> None:
    events = block({"u": [(2, INSTANT - DAY, 1)] * 3}).events
    found = tally(events, events.item_rows_E)
    assert (found.counts_P.tolist(), found.days_P.tolist()) == ([3], [1])


def test_a_partition_in_small_blocks_has_the_histories_of_the_whole() -> None:
    whole = block(random_histories(3))
    blocks = list(user_blocks([whole.rows.slice(0, 6), whole.rows.slice(6)], INSTANT, whole.items, users=4))
    assert [len(one.user_ids) for one in blocks] == [4, 2, 4, 4, 3]
    assert [user for one in blocks for user in one.user_ids] == whole.user_ids
    assert np.concatenate([one.events.ages_E for one in blocks]).tolist() == whole.events.ages_E.tolist()
    first = np.cumsum([0, *(len(one.user_ids) for one in blocks)])
    users = [one.events.user_rows_E + start for one, start in zip(blocks, first[:-1], strict=True)]
    assert np.concatenate(users).tolist() == whole.events.user_rows_E.tolist()
    tasks = [one.of_task(1).item_rows_E for one in blocks]
    assert np.concatenate(tasks).tolist() == whole.of_task(1).item_rows_E.tolist()
