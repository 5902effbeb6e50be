"""Gate of `items`."""

from __future__ import annotations

from great_expectations import expectations as gxe

from schemas import ITEMS
from schemas import columns as c
from validation import derived
from validation.checks import Check, declared, not_blank

TABLE = ITEMS
derive = derived.nothing


def suite(*, titled_share: float = 0.5) -> list[Check]:
    """Checks of `items`; a warning where fewer than ``titled_share`` of the items have a title."""
    titled = gxe.ExpectColumnValueLengthsToBeBetween(column=c.TITLE, min_value=1, mostly=titled_share)
    return [
        *declared(ITEMS),
        *not_blank(c.ITEM_ID),
        Check(titled, f"at least {titled_share:.0%} of the items have a title", "warn"),
    ]
