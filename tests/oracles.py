"""Brute-force versions of the Spark transforms in plain Python, and random logs to compare them on.

They are written from the definitions, event by event, and share no code with precise_core.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from pyspark.sql import DataFrame, SparkSession

from precise_core.config.tasks import TaskConfig
from schemas import EVENTS

AS_OF = datetime(2024, 3, 1, tzinfo=UTC)
SCENES = ("articles", "videos", "live")
ACTIONS = ("click", "share")
TASKS = {
    "click_videos": TaskConfig(scene="videos", action="click"),
    "share": TaskConfig(action="share"),
    "live": TaskConfig(scene="live"),
}


@dataclass(frozen=True, order=True)
class Event:
    """One row of `events`; the order of the fields is the order of a user's time line."""

    ts: datetime
    event_id: str
    user_id: str
    item_id: str
    scene: str
    action: str


def random_events(seed: int, *, users: int, items: int, count: int) -> list[Event]:
    """A log with many ties in time, some events at and after ``AS_OF``, and half of all events by one user."""
    draw = random.Random(seed)
    moments = [
        AS_OF + timedelta(hours=draw.randint(-24 * 60, 24 * 5), microseconds=draw.randint(0, 1))
        for _ in range(count // 4)
    ]
    moments.append(AS_OF)
    return [
        Event(
            ts=draw.choice(moments),
            event_id=f"e{number * 7919 % count:05d}",
            user_id="heavy" if draw.random() < 0.5 else f"u{draw.randrange(users)}",
            item_id=f"i{draw.randrange(items)}",
            scene=draw.choice(SCENES),
            action=draw.choice(ACTIONS),
        )
        for number in range(count)
    ]


def poisoned(events: Sequence[Event], since: datetime) -> list[Event]:
    """The same log with every event at or after ``since`` altered, and more of them added."""
    changed = [replace(event, item_id="poison", action="share") if event.ts >= since else event for event in events]
    extra = [replace(event, event_id=f"x{event.event_id}", ts=since) for event in events[:50]]
    return changed + extra


def events_frame(spark: SparkSession, events: Sequence[Event]) -> DataFrame:
    rows = [(e.event_id, e.user_id, e.item_id, e.scene, e.action, e.ts, e.ts.date(), None, None) for e in events]
    return spark.createDataFrame(rows, EVENTS.spark_schema())


def vocabulary_of(events: Sequence[Event], *, without: str | None = None) -> dict[str, int]:
    ids = sorted({event.item_id for event in events} - {without})
    return {item_id: index for index, item_id in enumerate(ids, start=2)}


def vocabulary_frame(spark: SparkSession, vocabulary: Mapping[str, int]) -> DataFrame:
    rows = [(item_id, index, AS_OF) for item_id, index in vocabulary.items()]
    return spark.createDataFrame(rows, "item_id string, item_index int, first_seen timestamp")


def of_user_and_task(events: Sequence[Event]) -> dict[tuple[str, str], list[Event]]:
    """The time line of every user and task, oldest first."""
    lines = defaultdict(list)
    for event in sorted(events):
        lines[event.user_id, "all"].append(event)
        for name, task in TASKS.items():
            if task.scene in (None, event.scene) and task.action in (None, event.action):
                lines[event.user_id, name].append(event)
    return lines


def user_sequences(
    events: Sequence[Event], vocabulary: Mapping[str, int], max_length: int
) -> dict[tuple[str, str], Any]:
    """(user, task) -> (item indices, scenes, micros)."""
    result = {}
    for key, line in of_user_and_task([event for event in events if event.ts < AS_OF]).items():
        kept = line[-max_length:]
        indices = [vocabulary.get(event.item_id, 1) for event in kept]
        result[key] = (indices, [event.scene for event in kept], [micros(event.ts) for event in kept])
    return result


def training_windows(
    events: Sequence[Event],
    vocabulary: Mapping[str, int],
    is_held_out: Callable[[str], bool],
    *,
    length: int,
    stride: int,
    validation_days: int,
    max_targets: int,
) -> dict[str, tuple[list[int], list[int], int, list[int], int]]:
    """window id -> (item indices, seconds, length, targets, target count), padded."""
    cut = AS_OF - timedelta(days=validation_days)
    result = {}
    for (user, task), line in of_user_and_task([event for event in events if event.ts < AS_OF]).items():
        history = [event for event in line if event.ts < cut] if is_held_out(user) else line
        end, number = len(history), 0
        while end > 0:
            window = history[max(0, end - length) : end]
            if int(window[0].ts.timestamp()) < int(window[-1].ts.timestamp()):
                result[f"{task}/train/{user}/{number}"] = _window(window, vocabulary, length, [], max_targets)
            if end <= length:
                break
            end, number = end - stride, number + 1
        truth = [vocabulary[event.item_id] for event in line if event.ts >= cut and event.item_id in vocabulary]
        targets = list(dict.fromkeys(truth))[:max_targets]
        if is_held_out(user) and history and targets:
            row = _window(history[-length:], vocabulary, length, targets, max_targets)
            result[f"{task}/validation/{user}/0"] = row
    return result


def leave_one_out_windows(
    events: Sequence[Event],
    vocabulary: Mapping[str, int],
    *,
    length: int,
    stride: int,
    train_includes_validation: bool,
) -> dict[str, tuple[list[int], list[int], int, list[int], int]]:
    """As ``training_windows``, for the split by each user's last two events; one target at most."""
    result = {}
    for (user, task), line in of_user_and_task([event for event in events if event.ts < AS_OF]).items():
        train = line
        if len(line) >= 3:
            train = line[:-1] if train_includes_validation else line[:-2]
            for split, place in (("validation", len(line) - 2), ("test", len(line) - 1)):
                if line[place].item_id in vocabulary:
                    history, target = line[:place][-length:], vocabulary[line[place].item_id]
                    result[f"{task}/{split}/{user}/0"] = _window(history, vocabulary, length, [target], 1)
        end, number = len(train), 0
        while end > 0:
            window = train[max(0, end - length) : end]
            if int(window[0].ts.timestamp()) < int(window[-1].ts.timestamp()):
                result[f"{task}/train/{user}/{number}"] = _window(window, vocabulary, length, [], 1)
            if end <= length:
                break
            end, number = end - stride, number + 1
    return result


def _window(
    window: Sequence[Event], vocabulary: Mapping[str, int], length: int, targets: list[int], max_targets: int
) -> tuple[list[int], list[int], int, list[int], int]:
    left, right = [0] * (length - len(window)), [0] * (max_targets - len(targets))
    indices = [vocabulary.get(event.item_id, 1) for event in window]
    seconds = [int(event.ts.timestamp()) for event in window]
    return left + indices, left + seconds, len(window), targets + right, len(targets)


def dense_features(
    user: str, item: str, at: datetime, events: Sequence[Event], category: Mapping[str, str], popularity_days: int
) -> dict[str, float]:
    """The dense ranking features of one impression, counted event by event."""
    mine = [event for event in events if event.user_id == user and event.ts < at]
    same_item = [event for event in mine if event.item_id == item]
    same_category = [event for event in mine if category[event.item_id] == category[item]]
    first_day = at.date() - timedelta(days=popularity_days)
    recent = [e for e in events if e.item_id == item and first_day <= e.ts.date() < at.date()]
    return {
        "user_events": math.log1p(len(mine)),
        "user_item_events": math.log1p(len(same_item)),
        "user_category_events": math.log1p(len(same_category)),
        "user_category_share": len(same_category) / len(mine) if mine else 0.0,
        "user_idle_days": _idle_days(mine, at),
        "user_item_idle_days": _idle_days(same_item, at),
        "has_user_event": float(bool(mine)),
        "has_user_item_event": float(bool(same_item)),
        "item_recent_events": math.log1p(len(recent)),
    }


def _idle_days(events: Sequence[Event], at: datetime) -> float:
    if not events:
        return 0.0
    return math.log1p((at - max(event.ts for event in events)) / timedelta(days=1))


def micros(when: datetime) -> int:
    return (when - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
