"""Tasks: named filters on (scene, action). `all` is every event."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from precise_core.config.tasks import ALL_TASK, TaskConfig
from precise_core.errors import ConfigError
from precise_core.warehouse.instants import instant
from schemas import columns as c

_NAMED_IN_ERROR = 40


def task_filter(task: TaskConfig) -> Column:
    """True for the events of the task."""
    is_task = F.lit(True)
    if task.scene is not None:
        is_task = is_task & (F.col(c.SCENE) == task.scene)
    if task.action is not None:
        is_task = is_task & (F.col(c.ACTION) == task.action)
    return is_task


def task_events(events: DataFrame, tasks: Mapping[str, TaskConfig]) -> DataFrame:
    """Every event once per task it belongs to, `all` and the declared ones, with a ``task`` column at the end."""
    names = [F.when(is_task, F.lit(name)) for name, is_task in task_filters(tasks).items()]
    return events.select("*", F.explode(F.array_compact(F.array(*names))).alias(c.TASK))


def task_filters(tasks: Mapping[str, TaskConfig], only: Collection[str] | None = None) -> dict[str, Column]:
    """For `all` and every declared task, or those in ``only``: true for the events of the task."""
    belongs = {ALL_TASK: F.lit(True)} | {name: task_filter(task) for name, task in tasks.items()}
    return {name: is_task for name, is_task in belongs.items() if only is None or name in only}


def check_tasks(events: DataFrame, tasks: Mapping[str, TaskConfig]) -> None:
    """Refuse a task that no event belongs to: it is a spelling mistake far more often than an empty scene.

    Raises:
        ConfigError: The scene, the action or their combination never occurs; the message names those that do.
    """
    if not tasks:
        return
    pairs = {(row[c.SCENE], row[c.ACTION]) for row in events.select(c.SCENE, c.ACTION).distinct().collect()}
    for name, task in tasks.items():
        if any(task.scene in (None, scene) and task.action in (None, action) for scene, action in pairs):
            continue
        scenes = {scene for scene, _ in pairs}
        actions = {action for _, action in pairs}
        values = _listed(scenes if task.scene is not None and task.scene not in scenes else actions)
        raise ConfigError(_explain(name, task, scenes, actions), private=values)


def _explain(name: str, task: TaskConfig, scenes: set[str], actions: set[str]) -> str:
    if task.scene is not None and task.scene not in scenes:
        return f"tasks.{name}.scene {task.scene!r}: no event has it; scenes of the events are {_listed(scenes)}"
    if task.action is not None and task.action not in actions:
        return f"tasks.{name}.action {task.action!r}: no event has it; actions of the events are {_listed(actions)}"
    return f"tasks.{name}: no event has scene {task.scene!r} together with action {task.action!r}"


def _listed(values: set[str]) -> str:
    named = sorted(values)[:_NAMED_IN_ERROR]
    more = len(values) - len(named)
    return f"{named}" + (f" and {more} more" if more else "")


def events_before(events: DataFrame, as_of: datetime) -> DataFrame:
    """Events strictly before ``as_of``."""
    return events.where(F.col(c.EVENT_TS) < instant(as_of))
