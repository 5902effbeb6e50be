"""Which items a task may be shown: never a deleted one, never one that only other scenes or actions know."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from precise_core.config.tasks import ALL_TASK, TaskConfig
from precise_core.tasks import task_filter
from precise_core.warehouse.instants import instant
from schemas import columns as c


def excluded_items(
    events: DataFrame,
    items: DataFrame,
    vocabulary: DataFrame,
    tasks: Mapping[str, TaskConfig],
    as_of: datetime,
    task: str,
) -> DataFrame:
    """`item_index` of items that must not be candidates of ``task``.

    An item is left out when it is deleted, or when it had events before ``as_of`` but none of the task. An item
    without any event is kept: nobody can know its scene yet, and new items must be able to appear.
    """
    deleted = items.where(F.col(c.IS_DELETED)).select(c.ITEM_ID)
    if task != ALL_TASK:
        known = events.where(F.col(c.EVENT_TS) < instant(as_of))
        of_task = known.where(task_filter(tasks[task])).select(c.ITEM_ID)
        foreign = known.select(c.ITEM_ID).distinct().join(of_task, on=c.ITEM_ID, how="left_anti")
        deleted = deleted.unionByName(foreign)
    return deleted.distinct().join(vocabulary, on=c.ITEM_ID, how="inner").select(c.ITEM_INDEX)
