"""What `benchmarks.event_order` calls the same order."""

from __future__ import annotations

import random

import pandas as pd

from benchmarks.event_order import neighbours, share_ascending, share_in_common_order


def sequences(seed: int = 1) -> list[list[str]]:
    rng = random.Random(seed)
    return [[f"B{item:02}" for item in rng.sample(range(40), rng.randint(3, 8))] for _ in range(60)]


def renamed(rows: list[list[str]], seed: int = 2) -> list[list[str]]:
    """Other names for the items, the users in another order."""
    rng = random.Random(seed)
    names = {f"B{item:02}": str(place) for place, item in enumerate(rng.sample(range(40), 40))}
    return rng.sample([[names[item] for item in row] for row in rows], len(rows))


def test_the_same_order_under_other_names_is_found() -> None:
    rows = sequences()
    assert share_in_common_order(rows, renamed(rows)) == 1.0


def test_rows_in_another_order_count_as_different() -> None:
    rows = sequences()
    by_id = [sorted(row) for row in rows]
    assert share_ascending(by_id) == 1.0 and share_ascending(rows) < 0.3
    assert share_in_common_order(rows, renamed(by_id)) == share_ascending(rows)
    two_turned = [row[::-1] if place < 2 else row for place, row in enumerate(rows)]
    assert share_in_common_order(rows, renamed(two_turned)) == 58 / 60


def test_steps_within_a_day_are_told_from_those_across_days() -> None:
    events = pd.DataFrame(
        {
            "user_id": ["u", "u", "u", "u", "v", "v"],
            "item_id": ["2", "10", "3", "4", "9", "1"],
            "event_ts": [1, 1, 2, 3, 1, 2],
            "position": [0, 1, 2, 3, 0, 1],
        }
    )
    found = neighbours(events)
    assert found["neighbours of one day"] == 1 / 4
    assert found["neighbours of one day that ascend by item id"] == 1.0
    assert found["neighbours of different days that ascend by item id"] == 1 / 3
