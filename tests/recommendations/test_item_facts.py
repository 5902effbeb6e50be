"""Facts of items: whole, from any parts, and mapped from disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from precise_core.recommendations.fact_parts import NEWEST, OLDEST, SUMS, TASK_BIT, item_facts, part
from precise_core.recommendations.item_facts import FIRST_TIME_DAYS, POPULAR_DAYS, share_within
from precise_core.recommendations.point_in_time import PointInTime
from schemas import columns as c
from tests.recommendations import world
from tests.recommendations.world import DAY, INSTANT, ITEMS, Histories, any_histories, block, facts_of


def summed(parts: list[pa.RecordBatch]) -> pa.Table:
    """A row per item, as Spark makes it: sums, the oldest, the newest."""
    by_item: dict[int, dict[str, float]] = {}
    for row in pa.Table.from_batches(parts).to_pylist():
        one = by_item.setdefault(row[c.ITEM_INDEX], {OLDEST: 0.0, NEWEST: np.inf} | dict.fromkeys(SUMS, 0.0))
        for name in SUMS:
            one[name] += row[name]
        one[OLDEST], one[NEWEST] = max(one[OLDEST], row[OLDEST]), min(one[NEWEST], row[NEWEST])
    names = (*SUMS, OLDEST, NEWEST)
    columns = [pa.array([one[name] for one in by_item.values()], pa.float64()) for name in names]
    return pa.Table.from_arrays([pa.array(list(by_item), pa.int32()), *columns], names=[c.ITEM_INDEX, *names])


@settings(max_examples=60, deadline=None)
@given(any_histories(), st.data(), st.sampled_from([0, 1]))
def test_facts_of_any_parts_of_the_users_are_those_of_all(histories: Histories, data: st.DataObject, bit: int) -> None:
    of_user = {name: data.draw(st.integers(0, 2)) for name in histories}
    split = [{name: histories[name] for name in histories if of_user[name] == number} for number in range(3)]
    parts = [part(block(some), bit) for some in split]
    assert all(set(one.column(TASK_BIT).to_pylist()) <= {bit} for one in parts)
    found = item_facts(summed(parts), ITEMS, world.real_items()).arrays()
    for name, values in facts_of(histories, bit).arrays().items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)


@pytest.mark.parametrize("bit", [0, 1])
def test_facts_are_the_plain_counts(bit: int) -> None:
    histories = world.random_histories(4)
    found = facts_of(histories, bit)
    for item in range(ITEMS):
        of_users = [
            [(INSTANT - time) / DAY for one, time, bits in events if one == item and time < INSTANT and bits >> bit & 1]
            for events in histories.values()
        ]
        ages = [age for of_user in of_users for age in of_user]
        assert found.events_N[item] == len(ages)
        assert found.users_N[item] == sum(map(bool, of_users))
        assert found.repeaters_N[item] == sum(len(of_user) > 1 for of_user in of_users)
        for days in POPULAR_DAYS:
            assert found.recent[days][item] == sum(age <= days for age in ages)
        for days in FIRST_TIME_DAYS:
            assert found.first_time[days][item] == sum(bool(of_user) and max(of_user) <= days for of_user in of_users)
        assert found.first_age_N[item] == max(ages, default=np.inf)
        assert found.last_age_N[item] == min(ages, default=np.inf)
        assert found.repeat_rate_N[item] == found.repeaters_N[item] / max(found.users_N[item], 1)


def test_items_that_nobody_had_have_no_events_and_no_age() -> None:
    found = facts_of({"u": []}, 0)
    assert found.events_N.tolist() == [0] * ITEMS
    assert np.isinf(found.first_age_N).all() and np.isinf(found.last_age_N).all()
    assert found.repeat_rate_N.tolist() == [0] * ITEMS


def test_shares_within_a_group_sum_to_one_and_are_zero_without_events() -> None:
    shares = share_within(np.array([1.0, 3.0, 0.0, 0.0, 5.0]), np.array([1, 1, 2, 2, 4]))
    assert shares.tolist() == [0.25, 0.75, 0, 0, 1]


def test_what_is_known_is_mapped_from_disk_as_it_was(tmp_path: Path) -> None:
    histories = world.random_histories(5)
    known = world.known(histories, world.config())
    known.save(tmp_path / "known")
    opened = PointInTime.open(tmp_path / "known")
    assert (opened.micros, opened.tasks, opened.num_rows) == (known.micros, known.tasks, known.num_rows)
    assert dict(opened.similarities.sample_rows) == dict(known.similarities.sample_rows)
    assert not list((tmp_path / "known").glob("*.pkl"))
    for task, facts in known.facts.items():
        for name, values in facts.arrays().items():
            np.testing.assert_array_equal(opened.facts[task].arrays()[name], values)
    settings = world.config()
    for task, made in world.make(histories, known, settings).items():
        again = world.make(histories, opened, settings)[task]
        assert made.features_CG.tobytes() == again.features_CG.tobytes()
