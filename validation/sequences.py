"""Gates of user sequences and training windows."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from schemas import TRAINING_WINDOWS, USER_SEQUENCES
from schemas import columns as c
from validation.checks import Check, between, holds, not_blank, one_of
from validation.derived import HAS_NO_NULL_ELEMENT, IS_IN_TIME_ORDER, WIDTH, certainly, has_no_null_element
from validation.suites import TableSuite

_ARRAYS_HAVE_LENGTH = "arrays_have_length"
_SMALLEST_ITEM_INDEX = "smallest_item_index"
_LAST_EVENT_IS_NEWEST = "last_event_is_newest"
_ARRAYS_ARE_PARALLEL = "arrays_are_parallel"
_IS_LEFT_PADDED = "is_left_padded"
_TARGETS_FIT = "targets_fit"
_TICK = timedelta(microseconds=1)  # the resolution of a timestamp


def _sequence_facts(frame: DataFrame) -> DataFrame:
    arrays = [c.ITEM_INDICES, c.SCENES, c.EVENT_TS]
    times = F.col(c.EVENT_TS)
    same_length = [F.size(name) == F.col(c.LENGTH) for name in arrays]
    return frame.withColumns(
        {
            _ARRAYS_HAVE_LENGTH: certainly(same_length[0] & same_length[1] & same_length[2]),
            HAS_NO_NULL_ELEMENT: has_no_null_element(frame, arrays),
            _SMALLEST_ITEM_INDEX: F.array_min(c.ITEM_INDICES),
            IS_IN_TIME_ORDER: certainly(times == F.sort_array(times)),
            _LAST_EVENT_IS_NEWEST: certainly(F.col(c.LAST_EVENT_TS) == F.array_max(times)),
        }
    )


def _sequences(*, max_length: int, as_of: datetime, tasks: Collection[str] | None = None) -> list[Check]:
    """At most ``max_length`` events, all before ``as_of``; None allows every task."""
    checks = [
        *not_blank(c.USER_ID, c.TASK),
        between(c.LENGTH, 1, max_length, f"lies between 1 and {max_length}"),
        between(c.BUCKET, 0, None, "is at least 0"),
        between(_SMALLEST_ITEM_INDEX, 1, None, f"{c.ITEM_INDICES} hold no padding (0) and no negative row"),
        holds(_ARRAYS_HAVE_LENGTH, f"{c.ITEM_INDICES}, {c.SCENES} and {c.EVENT_TS} have `{c.LENGTH}` elements"),
        holds(HAS_NO_NULL_ELEMENT, "no array holds a null"),
        holds(IS_IN_TIME_ORDER, f"{c.EVENT_TS} never decreases"),
        holds(_LAST_EVENT_IS_NEWEST, f"{c.LAST_EVENT_TS} is the newest of {c.EVENT_TS}"),
        between(c.LAST_EVENT_TS, None, as_of - _TICK, f"{c.LAST_EVENT_TS} is before as_of"),
    ]
    return checks if tasks is None else [*checks, one_of(c.TASK, tasks)]


def _window_facts(frame: DataFrame) -> DataFrame:
    size, items, times = F.size(c.ITEM_INDICES), F.col(c.ITEM_INDICES), F.col(c.EVENT_TS)
    targets, count = F.col(c.TARGET_INDICES), F.col(c.TARGET_COUNT)
    real = F.slice(items, size - F.col(c.LENGTH) + 1, F.col(c.LENGTH))
    padding = F.slice(items, 1, size - F.col(c.LENGTH))
    filled = F.coalesce(F.array_min(real), F.lit(1)) > 0
    empty = F.coalesce(F.array_max(padding), F.lit(0)) == 0
    return frame.withColumns(
        {
            WIDTH: size,
            _ARRAYS_ARE_PARALLEL: certainly(size == F.size(times)),
            _IS_LEFT_PADDED: certainly(filled & empty),
            IS_IN_TIME_ORDER: certainly(times == F.sort_array(times)),
            _TARGETS_FIT: certainly(count.between(0, F.size(targets))),
        }
    )


def _windows(*, length: int) -> list[Check]:
    return [
        *not_blank(c.WINDOW_ID, c.TASK),
        one_of(c.SPLIT, c.SPLITS),
        between(c.LENGTH, 0, length, f"lies between 0 and {length}"),
        between(WIDTH, length, length, f"{c.ITEM_INDICES} has {length} elements"),
        holds(_ARRAYS_ARE_PARALLEL, f"{c.ITEM_INDICES} and {c.EVENT_TS} are parallel"),
        holds(_IS_LEFT_PADDED, f"padding (0) is left of the last `{c.LENGTH}` items and nowhere else"),
        holds(IS_IN_TIME_ORDER, f"{c.EVENT_TS} never decreases"),
        holds(_TARGETS_FIT, f"{c.TARGET_COUNT} fits into {c.TARGET_INDICES}"),
    ]


SUITES = (
    TableSuite(USER_SEQUENCES, _sequences, _sequence_facts),
    TableSuite(TRAINING_WINDOWS, _windows, _window_facts),
)
