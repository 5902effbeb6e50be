"""Gate of `events`."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from schemas import EVENTS
from schemas import columns as c
from validation import derived
from validation.checks import LARGEST, Check, between, declared, holds, in_time, not_blank, one_of

TABLE = EVENTS
derive = derived.event_facts


def suite(*, latest: datetime | None = None, actions: Collection[str] | None = None) -> list[Check]:
    """Checks of `events`.

    Args:
        latest: No event may be later (inclusive); any time by default.
        actions: The actions allowed; any by default.
    """
    checks = [
        *declared(EVENTS),
        *not_blank(c.EVENT_ID, c.USER_ID, c.ITEM_ID, c.SCENE, c.ACTION),
        in_time(c.EVENT_TS, latest),
        holds(derived.DATE_IS_OF_TIME, f"{c.EVENT_DATE} is the day of {c.EVENT_TS} in UTC"),
        between(c.VALUE, -LARGEST, LARGEST, "is finite"),
    ]
    return checks if actions is None else [*checks, one_of(c.ACTION, actions)]
