"""Training windows: fixed-length slices of user sequences, left-padded, in the shape Petastorm can read.

Train split: windows of ``length`` events slide backwards from a user's newest event by ``stride``; the oldest may be
shorter. A window with fewer than two events, or with all events in one second, holds no pair to learn from and is left
out.

Validation split: users held out by hash are trained only on events before the cut (``as_of`` minus ``validation_days``)
and have one window: their last ``length`` events before the cut, and as truth the distinct items of the days after it.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from precise_core.features.config import TaskConfig, WindowsConfig
from precise_core.features.tasks import events_before, task_events
from precise_core.features.vocabulary import PADDING_INDEX, UNKNOWN_INDEX, with_item_index
from precise_core.sources.times import instant
from schemas import TRAINING_WINDOWS
from schemas import columns as c

TRAIN = "train"
VALIDATION = "validation"

_HASH_SLOTS = 10_000
_PLACE = "place"
_NUMBER = "number"
_ENTRIES = "entries"
_BY_USER = (c.USER_ID, c.TASK)


def build_training_windows(
    events: DataFrame,
    vocabulary: DataFrame,
    tasks: Mapping[str, TaskConfig],
    as_of: datetime,
    config: WindowsConfig,
    seed: int,
) -> DataFrame:
    """``schemas.TRAINING_WINDOWS`` from events strictly before ``as_of``; ties in time are broken by event_id.

    Args:
        events: ``schemas.EVENTS``.
        vocabulary: ``schemas.ITEM_VOCABULARY``; an item it lacks gets the unknown row, and is never a target.
        tasks: Declared tasks; `all` is added.
        as_of: The instant up to which the windows know the world, exclusive.
        config: Lengths and the held-out share.
        seed: Chooses the held-out users.
    """
    cut = instant(as_of - timedelta(days=config.validation_days))
    narrow = events_before(events, as_of).select(c.EVENT_ID, c.USER_ID, c.ITEM_ID, c.SCENE, c.ACTION, c.EVENT_TS)
    indexed = task_events(with_item_index(narrow, vocabulary), tasks).drop(c.ITEM_ID, c.SCENE, c.ACTION)
    held_out = is_held_out(config.validation_user_share, seed)
    is_before_cut = F.col(c.EVENT_TS) < cut
    train = _train_windows(indexed.where(~held_out | is_before_cut), config)
    validation = _validation_windows(indexed.where(held_out), is_before_cut, config)
    return train.unionByName(validation)


def is_held_out(share: float, seed: int) -> Column:
    """True for users whose last days are the validation split; depends on the user id and the seed only."""
    slot = F.pmod(F.xxhash64(F.lit(seed).cast("bigint"), c.USER_ID), F.lit(_HASH_SLOTS))
    return slot < F.lit(share * _HASH_SLOTS)


def _newest_first(events: DataFrame) -> DataFrame:
    order = Window.partitionBy(*_BY_USER).orderBy(F.desc(c.EVENT_TS), F.desc(c.EVENT_ID))
    return events.withColumn(_PLACE, F.row_number().over(order) - 1)


def _train_windows(events: DataFrame, config: WindowsConfig) -> DataFrame:
    total = F.count("*").over(Window.partitionBy(*_BY_USER))
    placed = _newest_first(events).withColumn("total", total)
    # Window w holds places [w * stride, w * stride + length); the last is the first that reaches the oldest event.
    last = F.greatest(F.ceil((F.col("total") - config.length) / config.stride), F.lit(0))
    newest_of_event = F.least(F.floor(F.col(_PLACE) / config.stride), last)
    oldest_of_event = F.greatest(F.ceil((F.col(_PLACE) + 1 - config.length) / config.stride), F.lit(0))
    numbered = placed.withColumn(_NUMBER, F.explode(F.sequence(oldest_of_event, newest_of_event)))
    windows = numbered.groupBy(*_BY_USER, _NUMBER).agg(_sorted_entries().alias(_ENTRIES))
    has_a_pair = _second(F.element_at(_ENTRIES, 1)) < _second(F.element_at(_ENTRIES, -1))
    no_targets = F.array().cast("array<int>")
    return _window_rows(windows.where(has_a_pair), TRAIN, no_targets, config)


def _validation_windows(events: DataFrame, is_before_cut: Column, config: WindowsConfig) -> DataFrame:
    placed = _newest_first(events.where(is_before_cut)).where(F.col(_PLACE) < config.length)
    histories = placed.groupBy(*_BY_USER).agg(_sorted_entries().alias(_ENTRIES))
    truths = _targets(events.where(~is_before_cut), config.max_targets)
    windows = histories.join(truths, on=list(_BY_USER), how="inner").withColumn(_NUMBER, F.lit(0))
    return _window_rows(windows, VALIDATION, F.col(c.TARGET_INDICES), config)


def _targets(events: DataFrame, max_targets: int) -> DataFrame:
    """Distinct known items per user and task, in the order of their first occurrence, at most ``max_targets``."""
    first = F.min(F.struct(c.EVENT_TS, c.EVENT_ID)).alias("first")
    known = events.where(F.col(c.ITEM_INDEX) > UNKNOWN_INDEX)
    items = known.groupBy(*_BY_USER, c.ITEM_INDEX).agg(first)
    order = Window.partitionBy(*_BY_USER).orderBy("first")
    kept = items.withColumn(_PLACE, F.row_number().over(order)).where(F.col(_PLACE) <= max_targets)
    entries = F.sort_array(F.collect_list(F.struct("first", c.ITEM_INDEX)))
    return kept.groupBy(*_BY_USER).agg(entries[c.ITEM_INDEX].alias(c.TARGET_INDICES))


def _sorted_entries() -> Column:
    return F.sort_array(F.collect_list(F.struct(c.EVENT_TS, c.EVENT_ID, c.ITEM_INDEX)))


def _second(entry: Column) -> Column:
    return F.unix_seconds(entry[c.EVENT_TS])


def _window_rows(windows: DataFrame, split: str, targets: Column, config: WindowsConfig) -> DataFrame:
    length = F.size(_ENTRIES)
    missing = F.lit(config.length) - length
    seconds = F.transform(F.col(_ENTRIES)[c.EVENT_TS], F.unix_seconds)
    columns = {
        c.WINDOW_ID: F.concat_ws("/", F.col(c.TASK), F.lit(split), F.col(c.USER_ID), F.col(_NUMBER).cast("string")),
        c.TASK: F.col(c.TASK),
        c.SPLIT: F.lit(split),
        c.ITEM_INDICES: F.concat(_padding("int", missing), F.col(_ENTRIES)[c.ITEM_INDEX]),
        c.EVENT_TS: F.concat(_padding("bigint", missing), seconds),
        c.LENGTH: length,
        c.TARGET_INDICES: F.concat(targets, _padding("int", F.lit(config.max_targets) - F.size(targets))),
        c.TARGET_COUNT: F.size(targets),
    }
    return windows.select(*[columns[name].alias(name) for name in TRAINING_WINDOWS.column_names])


def _padding(kind: str, count: Column) -> Column:
    return F.array_repeat(F.lit(PADDING_INDEX).cast(kind), count)
