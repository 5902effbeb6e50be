"""How far new lists are from the published ones: figures of rows of `recommendations`, before the new ones are written.

They are compared by what both could have: tasks and lists that are configured and were, and as many places. The lists
of ``ANYBODY``, which many may read, are no user's: that one of them is gone counts as a list that nobody has any more;
shorter they may be, since they go by what was taken of late.
"""

from __future__ import annotations

from collections.abc import Sequence

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from precise_core.config.tasks import ALL_TASK
from precise_core.recommendations.knowledge import is_sampled
from schemas import columns as c

_IS_OLD, _HAD, _HAS, _KEPT, _SHARE = "is_old", "had", "has", "kept", "share"


def served_share(new: DataFrame, expected: DataFrame) -> dict[str, float]:
    """Share of the expected users who have any list; no figure where there is not even a list for `ANYBODY`.

    Args:
        new: Whoever has a list has one of the task `all`.
        expected: Ids of users, `ANYBODY` among them, each once.
    """
    counts = (F.count_if(_is_anybody()).alias("anybody"), F.count_if(~_is_anybody()).alias("served"))
    found = new.where(F.col(c.TASK) == ALL_TASK).select(c.USER_ID).distinct().agg(*counts).collect()[0]
    users = expected.where(~_is_anybody()).count()
    return {"served_share": found["served"] / users} if found["anybody"] and users else {}


def list_changes(
    old: DataFrame, new: DataFrame, tasks: Sequence[str], lists: Sequence[str], k: int, sample: int
) -> dict[str, dict[str, float]]:
    """By task that has published lists: `lost_share`, `length_ratio` and `overlap`, those that can be made.

    The ratio is that of the list that has become shortest: one that is empty for everybody has few places among all.

    Args:
        tasks, lists: What is configured; what was taken out of the configuration is no loss.
        k: Places of a list; old ones beyond it are left out.
        sample: Users, about, whose first list is compared item by item.
    """
    both = _marked(old, is_old=True, k=k).unionByName(_marked(new, is_old=False, k=k))
    both = both.where(F.col(c.TASK).isin(*tasks) & F.col(c.LIST).isin(*lists))
    rows = {row[c.TASK]: row for row in _by_task(both, lists).collect()}
    kept = max((row[_KEPT] for row in rows.values()), default=0)
    overlaps = _overlaps(both.where((F.col(c.LIST) == lists[0]) & ~_is_anybody()), sample / kept) if kept else {}
    found: dict[str, dict[str, float]] = {}
    for task in (name for name in tasks if name in rows):
        row = rows[task]
        figures: dict[str, float] = {"lost_share": 1 - row[_KEPT] / row[_HAD]} if row[_HAD] else {}
        places = [row[number] for number in _numbers(lists)]
        ratios = [0.0 if is_gone else now / before for before, now, is_gone in places if before or is_gone]
        figures |= {"length_ratio": min(ratios)} if ratios else {}
        figures |= {"overlap": overlaps[task]} if task in overlaps else {}
        found |= {task: figures} if figures else {}
    return found


def _marked(rows: DataFrame, *, is_old: bool, k: int) -> DataFrame:
    places = rows.where(F.col(c.RANK) <= k).select(c.TASK, c.USER_ID, c.LIST, c.ITEM_ID)
    return places.withColumn(_IS_OLD, F.lit(is_old))


def _by_task(both: DataFrame, lists: Sequence[str]) -> DataFrame:
    """A row a task: users who had lists, those of them who have some, and by list the places of these before and now,
    and whether (1 or 0) that of ``ANYBODY`` is gone."""
    is_old = F.col(_IS_OLD)
    places = []
    for name, number in zip(lists, _numbers(lists), strict=True):
        is_of_list = F.col(c.LIST) == name
        places.append(F.array(F.count_if(is_of_list & is_old), F.count_if(is_of_list & ~is_old)).alias(number))
    sides = (F.bool_or(is_old).alias(_HAD), F.bool_or(~is_old).alias(_HAS))
    users = both.groupBy(c.TASK, c.USER_ID).agg(*sides, *places)
    had = F.col(_HAD) & ~_is_anybody()
    is_kept = had & F.col(_HAS)
    sums = []
    for number in _numbers(lists):
        before, now = F.col(number)[0], F.col(number)[1]
        is_gone = F.count_if(_is_anybody() & (before > 0) & (now == 0))
        of_users = (F.sum(F.when(is_kept, side).otherwise(0)) for side in (before, now))
        sums.append(F.array(*of_users, is_gone).alias(number))
    return users.groupBy(c.TASK).agg(F.count_if(had).alias(_HAD), F.count_if(is_kept).alias(_KEPT), *sums)


def _is_anybody() -> Column:
    return F.col(c.USER_ID) == c.ANYBODY


def _numbers(lists: Sequence[str]) -> list[str]:
    """Names of columns: those of lists may have any letters."""
    return [f"list_{number}" for number in range(len(lists))]


def _overlaps(both: DataFrame, sampled: float) -> dict[str, float]:
    """Mean Jaccard index of one list by task, over a fixed sample of the users who had it and have it."""
    chosen = both.where(is_sampled(sampled, salt="lists"))
    was, is_now = F.col(_HAD), F.col(_HAS)
    sides = (F.bool_or(F.col(_IS_OLD)).alias(_HAD), F.bool_or(~F.col(_IS_OLD)).alias(_HAS))
    items = chosen.groupBy(c.TASK, c.USER_ID, c.ITEM_ID).agg(*sides)
    share = (F.count_if(was & is_now) / F.count(F.lit(1))).alias(_SHARE)
    users = items.groupBy(c.TASK, c.USER_ID).agg(F.bool_or(was).alias(_HAD), F.bool_or(is_now).alias(_HAS), share)
    means = users.where(was & is_now).groupBy(c.TASK).agg(F.mean(_SHARE).alias(_SHARE))
    return {row[c.TASK]: row[_SHARE] for row in means.collect()}
