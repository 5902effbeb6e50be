"""Whether the order of a log can be one of time.

From an export that was sorted by item, or that has one instant for everything, a sequence model learns nothing but the
sorting. Two of the published Amazon files are like that (docs/data_sets.md).
"""

from __future__ import annotations

import pandas as pd
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from schemas import columns as c

LEAST_EVENTS = 3
LEAST_USERS = 10  # of fewer users three events are in order by chance
NEARLY_ALL = 0.9
_SAMPLED_EVENTS = 200_000
_HASH_SLOTS = 1_000_000


def doubtful_order(events: DataFrame, rows: int) -> str | None:
    """What is wrong with the order of ``events``, as one line; None where nothing is, or there are too few users.

    Of a large log whole users are sampled by a hash of their id.
    """
    share = min(1.0, _SAMPLED_EVENTS / max(rows, 1))
    is_sampled = F.pmod(F.xxhash64(c.USER_ID), F.lit(_HASH_SLOTS)) < F.lit(round(share * _HASH_SLOTS))
    instant_us = F.unix_micros(c.EVENT_TS).alias(c.EVENT_TS)
    sampled = events.where(is_sampled).select(c.USER_ID, c.ITEM_ID, instant_us, c.EVENT_ID)
    return order_finding(sampled.toPandas())


def order_finding(events: pd.DataFrame) -> str | None:
    """As ``doubtful_order``, of all rows of a frame with user_id, item_id, event_ts (any number) and event_id.

    A user counts as sorted where no step from one instant to the next goes against the order of item ids, as text or,
    if all of them are whole numbers, by number; a step from an item to itself does not count.
    """
    ordered = events.sort_values([c.USER_ID, c.EVENT_TS, c.EVENT_ID], ignore_index=True)
    # Of an instant its first event: the order inside a basket has no meaning.
    firsts = ordered.drop_duplicates([c.USER_ID, c.EVENT_TS], ignore_index=True)
    counts, instants = ordered.groupby(c.USER_ID).size(), firsts.groupby(c.USER_ID).size()
    frozen = instants[counts >= LEAST_EVENTS] == 1
    if len(frozen) >= LEAST_USERS and frozen.mean() >= NEARLY_ALL:
        return (
            f"{frozen.mean():.0%} of the {len(frozen):,} users with {LEAST_EVENTS} events or more have all of them at "
            "one instant: the time column tells no order, and a model of sequences learns nothing from it"
        )
    timed = instants.index[instants >= LEAST_EVENTS]
    if len(timed) < LEAST_USERS:
        return None
    is_step = firsts[c.USER_ID].eq(firsts[c.USER_ID].shift())
    for places in _item_orders(firsts[c.ITEM_ID]):
        steps = places.diff().clip(-1, 1)[is_step].groupby(firsts[c.USER_ID])
        lowest, highest = (of_user.astype("float64")[timed] for of_user in (steps.min(), steps.max()))
        sorted_shares = {
            "ascend": ((lowest >= 0) & (highest > 0)).mean(),
            "descend": ((highest <= 0) & (lowest < 0)).mean(),
        }
        for direction, share in sorted_shares.items():
            if share >= NEARLY_ALL:
                return (
                    f"the items of {share:.0%} of the {len(timed):,} users with {LEAST_EVENTS} instants or more "
                    f"{direction} by item id: the log was sorted by item, not by time (or items are taken in the order "
                    "of their ids); what a model learns from it is the sorting"
                )
    return None


def _item_orders(item_ids: pd.Series) -> list[pd.Series]:
    """The items' places by text and, where all are whole numbers, by number."""
    as_text = item_ids.rank(method="dense")
    return [as_text, item_ids.astype("int64")] if item_ids.str.fullmatch(r"\d{1,18}").all() else [as_text]
