"""Gate of `impressions`."""

from __future__ import annotations

from datetime import datetime

from schemas import IMPRESSIONS
from schemas import columns as c
from validation import derived
from validation.checks import Check, declared, in_time, not_blank, one_of

TABLE = IMPRESSIONS
derive = derived.nothing


def suite(*, latest: datetime | None = None) -> list[Check]:
    """Checks of `impressions`; none may be later than ``latest`` (inclusive)."""
    return [
        *declared(IMPRESSIONS),
        *not_blank(c.IMPRESSION_ID, c.USER_ID, c.ITEM_ID),
        in_time(c.IMPRESSION_TS, latest),
        one_of(c.LABEL, [0, 1]),
    ]
