"""Gate of `user_sequences`."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta

from schemas import USER_SEQUENCES
from schemas import columns as c
from validation import derived
from validation.checks import Check, between, declared, holds, not_blank, one_of

TABLE = USER_SEQUENCES
derive = derived.sequence_facts

_TICK = timedelta(microseconds=1)  # the resolution of a timestamp


def suite(*, max_length: int, as_of: datetime, tasks: Collection[str] | None = None) -> list[Check]:
    """Checks of `user_sequences`.

    Args:
        max_length: Events a sequence may have at most (``sequences.max_length``).
        as_of: The instant that every event must lie before.
        tasks: The tasks allowed (``Settings.task_names``); any by default.
    """
    checks = [
        *declared(USER_SEQUENCES),
        *not_blank(c.USER_ID, c.TASK),
        between(c.LENGTH, 1, max_length, f"lies between 1 and {max_length}"),
        between(c.BUCKET, 0, None, "is at least 0"),
        between(derived.SMALLEST_ITEM_INDEX, 1, None, f"{c.ITEM_INDICES} hold no padding (0) and no negative row"),
        holds(derived.ARRAYS_HAVE_LENGTH, f"{c.ITEM_INDICES}, {c.SCENES} and {c.EVENT_TS} have `{c.LENGTH}` elements"),
        holds(derived.HAS_NO_NULL_ELEMENT, "no array holds a null"),
        holds(derived.IS_IN_TIME_ORDER, f"{c.EVENT_TS} never decreases"),
        holds(derived.LAST_EVENT_IS_NEWEST, f"{c.LAST_EVENT_TS} is the newest of {c.EVENT_TS}"),
        between(c.LAST_EVENT_TS, None, as_of - _TICK, f"{c.LAST_EVENT_TS} is before as_of"),
    ]
    return checks if tasks is None else [*checks, one_of(c.TASK, tasks)]
