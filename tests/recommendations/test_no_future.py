"""Nothing that happens at or after the instant is known before it; labels are what happened from then on."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from precise_core.recommendations.batches import TaskCandidates, labels
from precise_core.recommendations.fact_parts import part
from precise_core.recommendations.orders import ORDERS, order_scores
from tests.recommendations.world import (
    BITS,
    DAY,
    INSTANT,
    ITEMS,
    Event,
    Histories,
    any_histories,
    block,
    config,
    known,
    make,
    random_histories,
)

SETTINGS = config()
_LATER = st.sampled_from([0, 1, 1000, DAY, 400 * DAY])


def poisons() -> st.SearchStrategy[list[tuple[int, Event]]]:
    """Events from the instant on, each of some user: a candidate's own items, any task, many at one time."""
    event = st.tuples(st.integers(2, ITEMS - 1), _LATER.map(lambda after: INSTANT + after), st.sampled_from([1, 2, 3]))
    return st.lists(st.tuples(st.integers(0, 99), event), min_size=1, max_size=20)


def poisoned(histories: Histories, events: list[tuple[int, Event]]) -> dict[str, list[Event]]:
    found = {name: list(own) for name, own in histories.items()}
    for user, event in events:
        found[list(histories)[user % len(histories)]].append(event)
    return found


def everything(histories: Histories) -> bytes:
    """All that is made for the users, and all that it is made from, as bytes."""
    of = known(histories, SETTINGS)
    parts = [part(block(histories), bit) for bit in BITS.values()]
    facts = b"".join(pa.Table.from_batches([one]).to_pandas().to_csv().encode() for one in parts)
    near = b"".join(matrix.toarray().tobytes() for matrix in of.similarities.near.values())
    sample = of.similarities.sample_SN.toarray().tobytes()
    return facts + near + sample + b"".join(as_bytes(made) for made in make(histories, of, SETTINGS).values())


def as_bytes(made: TaskCandidates) -> bytes:
    found = made.candidates
    arrays = [found.user_rows_C, found.item_rows_C, made.features_CG, made.is_repeat_C]
    arrays += [*found.scores.values(), *found.ranks.values()]
    arrays += [order_scores(name, made.features_CG) for name in ORDERS]
    return b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)


@settings(max_examples=40, deadline=None)
@given(any_histories(), poisons())
def test_events_from_the_instant_on_change_nothing_to_the_bit(
    histories: Histories, later: list[tuple[int, Event]]
) -> None:
    assert everything(poisoned(histories, later)) == everything(histories)


def test_an_item_without_an_event_that_came_later_is_not_found_by_its_text() -> None:
    """The last two items of the world: nothing shows that they were there, until somebody has them."""
    histories: Histories = {"u": [(item, INSTANT - 90 * DAY, 3) for item in range(2, 8)], "v": [(12, INSTANT, 3)]}
    assert not known(histories, SETTINGS).similarities.near["text"][:, 12:].nnz
    seen = {**histories, "v": [(12, INSTANT - 1, 3)]}
    near = known(seen, SETTINGS).similarities.near["text"]
    assert near[:, 12].nnz and not near[:, 13].nnz


@pytest.mark.parametrize("user", ["nobody", "u3"])
def test_an_event_a_microsecond_before_the_instant_is_known(user: str) -> None:
    histories = random_histories(6)
    of = known(histories, SETTINGS)
    before = make(histories, of, SETTINGS)["buy"]
    changed = {**histories, user: [*histories[user], (7, INSTANT - 1, 3)]}
    after = make(changed, of, SETTINGS)["buy"]
    assert as_bytes(before) != as_bytes(after)
    row = list(histories).index(user)
    assert 7 in after.candidates.item_rows_C[(after.candidates.user_rows_C == row) & after.is_repeat_C]
    assert everything(changed) != everything(histories)


def test_what_was_taken_is_of_the_task_and_from_the_instant_on() -> None:
    histories: dict[str, list[Event]] = {
        "u": [(2, INSTANT - 1, 3), (3, INSTANT, 3), (4, INSTANT + DAY, 1), (3, INSTANT + 1, 1)],
        "nobody": [],
        "v": [(5, INSTANT + 1, 2), (5, INSTANT + 2, 2)],
    }
    for bit, expected in ((0, [(0, 3), (0, 4)]), (1, [(0, 3), (2, 5)])):
        keys = block(histories).taken(bit)
        assert [(int(key >> 32), int(key & 0xFFFFFFFF)) for key in keys] == expected


@settings(max_examples=30, deadline=None)
@given(any_histories(), poisons())
def test_a_candidate_is_labelled_as_taken_where_the_user_took_it_in_the_task(
    histories: Histories, later: list[tuple[int, Event]]
) -> None:
    whole = poisoned(histories, later)
    names = list(whole)
    for task, made in make(whole, known(whole, SETTINGS), SETTINGS).items():
        found = labels(made, block(whole).taken(BITS[task]))
        assert found.dtype == bool and len(found) == len(made.candidates)
        rows = zip(made.candidates.user_rows_C, made.candidates.item_rows_C, made.is_repeat_C, found, strict=True)
        for user, item, is_repeat, is_taken in rows:
            own = whole[names[user]]
            assert is_taken == any(
                one == item and time >= INSTANT and bits >> BITS[task] & 1 for one, time, bits in own
            )
            assert is_repeat == any(one == item and time < INSTANT for one, time, _ in own)


def test_nobody_took_anything() -> None:
    histories = {name: [event for event in own if event[1] < INSTANT] for name, own in random_histories(7).items()}
    made = make(histories, known(histories, SETTINGS), SETTINGS)["all"]
    assert len(made.candidates) and not labels(made, block(histories).taken(0)).any()
