"""Gates of the ingested tables: events, items, impressions, their rejected rows, and the files read."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from great_expectations import expectations as gxe
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from schemas import EVENTS, EVENTS_REJECTED, IMPRESSIONS, IMPRESSIONS_REJECTED, ITEMS, ITEMS_REJECTED, SOURCE_FILES
from schemas import columns as c
from validation.checks import LARGEST, Check, between, holds, in_time, not_blank, one_of
from validation.derived import certainly
from validation.suites import TableSuite

_DATE_IS_OF_TIME = "date_is_of_time"


def _event_facts(frame: DataFrame) -> DataFrame:
    return frame.withColumn(_DATE_IS_OF_TIME, certainly(F.col(c.EVENT_DATE) == F.to_date(c.EVENT_TS)))


def _events(*, latest: datetime | None = None, actions: Collection[str] | None = None) -> list[Check]:
    """No event may be later than ``latest`` (inclusive), or of an action outside ``actions``; None allows all."""
    checks = [
        *not_blank(c.EVENT_ID, c.USER_ID, c.ITEM_ID, c.SCENE, c.ACTION),
        in_time(c.EVENT_TS, latest),
        holds(_DATE_IS_OF_TIME, f"{c.EVENT_DATE} is the day of {c.EVENT_TS} in UTC"),
        between(c.VALUE, -LARGEST, LARGEST, "is finite"),
    ]
    return checks if actions is None else [*checks, one_of(c.ACTION, actions)]


def _items(*, titled_share: float = 0.5) -> list[Check]:
    """A warning where fewer than ``titled_share`` of the items have a title."""
    titled = gxe.ExpectColumnValueLengthsToBeBetween(column=c.TITLE, min_value=1, mostly=titled_share)
    return [*not_blank(c.ITEM_ID), Check(titled, f"at least {titled_share:.0%} of the items have a title", "warn")]


def _impressions(*, latest: datetime | None = None) -> list[Check]:
    return [
        *not_blank(c.IMPRESSION_ID, c.USER_ID, c.ITEM_ID),
        in_time(c.IMPRESSION_TS, latest),
        one_of(c.LABEL, [0, 1]),
    ]


def _rejected() -> list[Check]:
    return not_blank(c.REASON)


def _files() -> list[Check]:
    return [
        *not_blank(c.TABLE_NAME, c.PATH),
        between("rows", 0, None, "is at least 0"),
        between("sequence", 1, None, "is at least 1"),
    ]


SUITES = (
    TableSuite(EVENTS, _events, _event_facts),
    TableSuite(ITEMS, _items),
    TableSuite(IMPRESSIONS, _impressions),
    TableSuite(EVENTS_REJECTED, _rejected),
    TableSuite(ITEMS_REJECTED, _rejected),
    TableSuite(IMPRESSIONS_REJECTED, _rejected),
    TableSuite(SOURCE_FILES, _files),
)
