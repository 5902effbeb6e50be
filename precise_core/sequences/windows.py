"""Training windows: fixed-length slices of user sequences, left-padded, in the shape Petastorm can read.

Train split: windows of ``length`` events slide backwards from a user's newest event by ``stride``; the oldest may be
shorter. A window with fewer than two events, or with all events in one second, has no pair to learn from and is left
out.

Validation split: users held out by hash are trained only on events before the cut (``as_of`` minus ``validation_days``)
and have one window: their last ``length`` events before the cut, and as truth the distinct items of the days after it.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from precise_core.config.tasks import TaskConfig
from precise_core.sequences.config import LEAVE_ONE_OUT, WindowsConfig
from precise_core.tasks import events_before, task_events
from precise_core.text.vocabulary import with_item_index
from precise_core.warehouse.instants import instant
from schemas import TRAINING_WINDOWS
from schemas import columns as c

_HASH_SLOTS = 10_000
_PLACE = "place"
_TOTAL = "total"
_NUMBER = "number"
_ENTRIES = "entries"
_SLOT = "slot"
_IS_TRUTH = "is_truth"
_TRUTH_PLACES = {c.VALIDATION: 1, c.TEST: 0}  # leave-one-out, counted from the newest event
_LEAST_EVENTS = 3  # leave-one-out: one truth each for validation and test, and a history
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
        vocabulary: ``schemas.ITEM_VOCABULARY``; an item it lacks gets the unknown row, and is never a target.
        tasks: Declared tasks; `all` is added.
        seed: Chooses the users that are held out by time.
    """
    narrow = events_before(events, as_of).select(c.EVENT_ID, c.USER_ID, c.ITEM_ID, c.SCENE, c.ACTION, c.EVENT_TS)
    indexed = task_events(with_item_index(narrow, vocabulary), tasks).drop(c.ITEM_ID, c.SCENE, c.ACTION)
    if config.split == LEAVE_ONE_OUT:
        return _leave_one_out_windows(indexed, config)
    cut = instant(as_of - timedelta(days=config.validation_days))
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


def _with_total(events: DataFrame) -> DataFrame:
    return _newest_first(events).withColumn(_TOTAL, F.count("*").over(Window.partitionBy(*_BY_USER)))


def _window_numbers(place: Column, total: Column, config: WindowsConfig) -> Column:
    """Windows that hold the event at ``place``; window w holds places [w * stride, w * stride + length)."""
    # The last window is the first that reaches the oldest event.
    last = F.greatest(F.ceil((total - config.length) / config.stride), F.lit(0))
    newest = F.least(F.floor(place / config.stride), last)
    oldest = F.greatest(F.ceil((place + 1 - config.length) / config.stride), F.lit(0))
    return F.sequence(oldest, newest)


def _train_windows(events: DataFrame, config: WindowsConfig) -> DataFrame:
    numbers = _window_numbers(F.col(_PLACE), F.col(_TOTAL), config)
    enough = _with_total(events).where(F.col(_TOTAL) >= config.min_events)
    numbered = enough.withColumn(_NUMBER, F.explode(numbers))
    windows = numbered.groupBy(*_BY_USER, _NUMBER).agg(_sorted_entries().alias(_ENTRIES))
    no_targets = F.array().cast("array<int>")
    return _window_rows(windows.where(_has_a_pair()), F.lit(c.TRAIN), no_targets, config)


def _leave_one_out_windows(events: DataFrame, config: WindowsConfig) -> DataFrame:
    """All three splits in one shuffle: every event once per window that holds it, as history or as truth."""
    slots = F.concat(_train_slots(config), *[_truth_slots(split, config) for split in _TRUTH_PLACES])
    slotted = _with_total(events).withColumn(_SLOT, F.explode(slots)).select("*", f"{_SLOT}.*")
    is_known_truth = F.col(_IS_TRUTH) & (F.col(c.ITEM_INDEX) > c.UNKNOWN_INDEX)
    windows = slotted.groupBy(*_BY_USER, c.SPLIT, _NUMBER).agg(
        _sorted_entries(~F.col(_IS_TRUTH)).alias(_ENTRIES),
        F.collect_list(F.when(is_known_truth, F.col(c.ITEM_INDEX))).alias(c.TARGET_INDICES),
    )
    is_train = F.col(c.SPLIT) == c.TRAIN
    has_truth = F.size(c.TARGET_INDICES) > 0
    return _window_rows(
        windows.where((is_train & _has_a_pair()) | (~is_train & has_truth)),
        F.col(c.SPLIT),
        F.col(c.TARGET_INDICES),
        config,
    )


def _train_slots(config: WindowsConfig) -> Column:
    left_out = 1 if config.train_includes_validation else 2
    skipped = F.when(F.col(_TOTAL) >= _LEAST_EVENTS, F.lit(left_out)).otherwise(F.lit(0))
    place, total = F.col(_PLACE) - skipped, F.col(_TOTAL) - skipped
    return F.when(
        (place >= 0) & (F.col(_TOTAL) >= config.min_events),
        F.transform(_window_numbers(place, total, config), lambda number: _slot(c.TRAIN, number, F.lit(False))),
    ).otherwise(_no_slots())


def _truth_slots(split: str, config: WindowsConfig) -> Column:
    truth_place = _TRUTH_PLACES[split]
    in_window = F.col(_PLACE).between(truth_place, truth_place + config.length)
    slot = _slot(split, F.lit(0), F.col(_PLACE) == truth_place)
    return F.when((F.col(_TOTAL) >= _LEAST_EVENTS) & in_window, F.array(slot)).otherwise(_no_slots())


def _slot(split: str, number: Column, is_truth: Column) -> Column:
    return F.struct(F.lit(split).alias(c.SPLIT), number.cast("bigint").alias(_NUMBER), is_truth.alias(_IS_TRUTH))


def _no_slots() -> Column:
    return F.array().cast(f"array<struct<{c.SPLIT}:string,{_NUMBER}:bigint,{_IS_TRUTH}:boolean>>")


def _has_a_pair() -> Column:
    return _second(F.element_at(_ENTRIES, 1)) < _second(F.element_at(_ENTRIES, -1))


def _validation_windows(events: DataFrame, is_before_cut: Column, config: WindowsConfig) -> DataFrame:
    placed = _newest_first(events.where(is_before_cut)).where(F.col(_PLACE) < config.length)
    histories = placed.groupBy(*_BY_USER).agg(_sorted_entries().alias(_ENTRIES))
    truths = _targets(events.where(~is_before_cut), config.max_targets)
    windows = histories.join(truths, on=list(_BY_USER), how="inner").withColumn(_NUMBER, F.lit(0))
    return _window_rows(windows, F.lit(c.VALIDATION), F.col(c.TARGET_INDICES), config)


def _targets(events: DataFrame, max_targets: int) -> DataFrame:
    """Distinct known items per user and task, in the order of their first occurrence, at most ``max_targets``."""
    first = F.min(F.struct(c.EVENT_TS, c.EVENT_ID)).alias("first")
    known = events.where(F.col(c.ITEM_INDEX) > c.UNKNOWN_INDEX)
    items = known.groupBy(*_BY_USER, c.ITEM_INDEX).agg(first)
    order = Window.partitionBy(*_BY_USER).orderBy("first")
    kept = items.withColumn(_PLACE, F.row_number().over(order)).where(F.col(_PLACE) <= max_targets)
    entries = F.sort_array(F.collect_list(F.struct("first", c.ITEM_INDEX)))
    return kept.groupBy(*_BY_USER).agg(entries[c.ITEM_INDEX].alias(c.TARGET_INDICES))


def _sorted_entries(is_history: Column | None = None) -> Column:
    entry = F.struct(c.EVENT_TS, c.EVENT_ID, c.ITEM_INDEX)
    return F.sort_array(F.collect_list(entry if is_history is None else F.when(is_history, entry)))


def _second(entry: Column) -> Column:
    return F.unix_seconds(entry[c.EVENT_TS])


def _window_rows(windows: DataFrame, split: Column, targets: Column, config: WindowsConfig) -> DataFrame:
    length = F.size(_ENTRIES)
    missing = F.lit(config.length) - length
    seconds = F.transform(F.col(_ENTRIES)[c.EVENT_TS], F.unix_seconds)
    columns = {
        c.WINDOW_ID: F.concat_ws("/", F.col(c.TASK), split, F.col(c.USER_ID), F.col(_NUMBER).cast("string")),
        c.TASK: F.col(c.TASK),
        c.SPLIT: split,
        c.ITEM_INDICES: F.concat(_padding("int", missing), F.col(_ENTRIES)[c.ITEM_INDEX]),
        c.EVENT_TS: F.concat(_padding("bigint", missing), seconds),
        c.LENGTH: length,
        c.TARGET_INDICES: F.concat(targets, _padding("int", F.lit(config.max_targets) - F.size(targets))),
        c.TARGET_COUNT: F.size(targets),
    }
    return windows.select(*[columns[name].alias(name) for name in TRAINING_WINDOWS.column_names])


def _padding(kind: str, count: Column) -> Column:
    return F.array_repeat(F.lit(c.PADDING_INDEX).cast(kind), count)
