"""Which items may be candidates of a task, and its most popular ones, for users without history."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from precise_core.config.tasks import ALL_TASK, TaskConfig
from precise_core.tasks import events_before, task_filter
from precise_core.warehouse.instants import instant
from schemas import columns as c

_PLACE, _RECENT, _TOTAL = "_place", "_recent", "_total"


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
    without any event is kept: its scene is not known yet, and new items must be able to appear.
    """
    excluded = items.where(F.col(c.IS_DELETED)).select(c.ITEM_ID)
    if task != ALL_TASK:
        known = events_before(events, as_of)
        of_task = known.where(task_filter(tasks[task])).select(c.ITEM_ID)
        foreign = known.select(c.ITEM_ID).distinct().join(of_task, on=c.ITEM_ID, how="left_anti")
        excluded = excluded.unionByName(foreign)
    return excluded.distinct().join(vocabulary, on=c.ITEM_ID, how="inner").select(c.ITEM_INDEX)


def popular_items(
    events: DataFrame,
    vocabulary: DataFrame,
    excluded: DataFrame,
    task: TaskConfig | None,
    as_of: datetime,
    days: int,
    limit: int,
) -> DataFrame:
    """(item_id, item_index, score, _place) of the ``limit`` most popular items that may be shown, place 1 first.

    The score is the number of events of the task (None = all) in the ``days`` before ``as_of``. Equal scores are
    ordered by all earlier events of the task, then by id, so that a list is full where a scene has been quiet of late.
    """
    known = events_before(events, as_of).where(task_filter(task) if task else F.lit(True))
    is_recent = F.col(c.EVENT_TS) >= instant(as_of - timedelta(days=days))
    counted = known.groupBy(c.ITEM_ID).agg(F.count_if(is_recent).alias(_RECENT), F.count(F.lit(1)).alias(_TOTAL))
    rows = counted.join(vocabulary.select(c.ITEM_ID, c.ITEM_INDEX), on=c.ITEM_ID, how="inner")
    rows = rows.join(excluded, on=c.ITEM_INDEX, how="left_anti")
    order = (F.desc(_RECENT), F.desc(_TOTAL), F.asc(c.ITEM_ID))
    top = rows.orderBy(*order).limit(limit)
    place = F.row_number().over(Window.orderBy(*order)).alias(_PLACE)  # of a short list: one task numbers it
    return top.select(c.ITEM_ID, c.ITEM_INDEX, F.col(_RECENT).cast("float").alias(c.SCORE), place)


def popular_candidates(
    users: DataFrame, popular: DataFrame, k: int, task: str, model_version: str, as_of: datetime
) -> DataFrame:
    """The ``k`` most popular items for every user as rows of `recall_candidates`, source `popular`.

    Args:
        users: (user_id, item_indices), the second being items that the user must not get.
        popular: Of ``popular_items``: ``k``, and as many more as a user can have in ``item_indices``.
        model_version: The slice of the table; the list itself comes from no model.
    """
    rows = users.crossJoin(F.broadcast(popular)).where(~F.array_contains(c.ITEM_INDICES, F.col(c.ITEM_INDEX)))
    place = F.row_number().over(Window.partitionBy(c.USER_ID).orderBy(_PLACE))
    ranked = rows.withColumn(c.RANK, place).where(F.col(c.RANK) <= k)
    return ranked.select(
        c.USER_ID,
        F.lit(task).alias(c.TASK),
        F.lit(model_version).alias(c.MODEL_VERSION),
        F.lit(c.POPULAR).alias(c.SOURCE),
        c.RANK,
        c.ITEM_ID,
        c.SCORE,
        F.lit(None).cast("string").alias(c.SEED_ITEM_ID),
        instant(as_of).alias(c.AS_OF),
    )


def known_users(sequences: DataFrame, *others: DataFrame | None) -> DataFrame:
    """(user_id, item_indices) of everybody in `user_sequences` and ``others``, with the newest items of all tasks."""
    histories = sequences.where(F.col(c.TASK) == ALL_TASK).select(c.USER_ID, c.ITEM_INDICES)
    users = sequences.select(c.USER_ID)
    for frame in others:
        users = users if frame is None else users.unionByName(frame.select(c.USER_ID))
    nothing = F.array().cast("array<int>")
    seen = F.coalesce(c.ITEM_INDICES, nothing).alias(c.ITEM_INDICES)
    return users.distinct().join(histories, on=c.USER_ID, how="left").select(c.USER_ID, seen)
