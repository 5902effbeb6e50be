"""Facts of items, counted by parts: what some users add, and the sum of all parts.

Shapes: N vocabulary rows, M items of a part, P distinct pairs of user and item.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from precise_core.recommendations.batches import UserBlock
from precise_core.recommendations.history import UserEvents, tally
from precise_core.recommendations.item_facts import FIRST_TIME_DAYS, POPULAR_DAYS, ItemFacts
from schemas import columns as c

TASK_BIT = "task_bit"  # which task a part is of
OLDEST, NEWEST = "first_age_N", "last_age_N"
SUMS = (
    *("events_N", "users_N", "repeaters_N"),
    *(f"recent_{days}" for days in POPULAR_DAYS),
    *(f"first_time_{days}" for days in FIRST_TIME_DAYS),
)
PART_COLUMNS = ", ".join(
    [f"{TASK_BIT} int", f"{c.ITEM_INDEX} int", *(f"{name} double" for name in (*SUMS, OLDEST, NEWEST))]
)


def part(block: UserBlock, bit: int) -> pa.RecordBatch:
    """What the users of a block add to the facts of the task of ``bit``: a row per item that any of them had."""
    events = block.of_task(bit).of_items()
    rows, at_E = np.unique(events.item_rows_E, return_inverse=True)
    counts = _counts(UserEvents(events.users, events.items, events.user_rows_E, at_E, events.ages_E), len(rows))
    columns = [pa.array(np.full(len(rows), bit, np.int32)), pa.array(rows.astype(np.int32))]
    columns += [pa.array(counts[name]) for name in (*SUMS, OLDEST, NEWEST)]
    return pa.RecordBatch.from_arrays(columns, names=[TASK_BIT, c.ITEM_INDEX, *SUMS, OLDEST, NEWEST])


def _counts(events: UserEvents, items: int) -> dict[str, np.ndarray]:
    own = tally(events, events.item_rows_E)
    things_P = own.things_P

    def by_item(rows: np.ndarray) -> np.ndarray:
        return np.bincount(rows, minlength=items).astype(np.float64)

    found = {
        "events_N": by_item(events.item_rows_E),
        "users_N": by_item(things_P),
        "repeaters_N": by_item(things_P[own.counts_P > 1]),
    }
    found |= {f"recent_{days}": by_item(events.item_rows_E[events.ages_E <= days]) for days in POPULAR_DAYS}
    found |= {f"first_time_{days}": by_item(things_P[own.first_P <= days]) for days in FIRST_TIME_DAYS}
    found[OLDEST], found[NEWEST] = np.zeros(items), np.full(items, np.inf)
    np.maximum.at(found[OLDEST], things_P, own.first_P)
    np.minimum.at(found[NEWEST], things_P, own.last_P)
    return found


def item_facts(parts: pa.Table, items: int, allowed_N: np.ndarray) -> ItemFacts:
    """The facts of one task, from its parts summed by item."""
    rows = parts[c.ITEM_INDEX].to_numpy()

    def whole(name: str, missing: float = 0.0) -> np.ndarray:
        values_N = np.full(items, missing)
        values_N[rows] = parts[name].to_numpy()
        return values_N

    return ItemFacts(
        events_N=whole("events_N"),
        recent={days: whole(f"recent_{days}") for days in POPULAR_DAYS},
        first_time={days: whole(f"first_time_{days}") for days in FIRST_TIME_DAYS},
        users_N=whole("users_N"),
        repeaters_N=whole("repeaters_N"),
        first_age_N=whole(OLDEST, np.inf),
        last_age_N=whole(NEWEST, np.inf),
        allowed_N=allowed_N,
    )
