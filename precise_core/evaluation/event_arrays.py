"""The events of a warehouse as parallel arrays, and which of them are the question of an evaluation. E events."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from precise_core.config.tasks import TaskConfig
from precise_core.evaluation.references import TrainingLog
from precise_core.tasks import events_before
from schemas import columns as c

_HELD_OUT = 2  # leave-one-out: the last event tests, the one before it selects


@dataclass(frozen=True)
class EventArrays:
    """Events as parallel arrays, ordered by time and then event id; users are rows of ``user_ids`` (sorted)."""

    user_ids: list[str]
    user_rows_E: np.ndarray
    item_indices_E: np.ndarray
    seconds_E: np.ndarray
    scenes_E: np.ndarray
    actions_E: np.ndarray
    num_rows: int

    def of_task(self, task: TaskConfig | None) -> np.ndarray:
        """Mask of the events of a task; all where None."""
        mask_E = np.ones(len(self.seconds_E), bool)
        if task is not None and task.scene is not None:
            mask_E &= self.scenes_E == task.scene
        if task is not None and task.action is not None:
            mask_E &= self.actions_E == task.action
        return mask_E

    def log(self, mask_E: np.ndarray) -> TrainingLog:
        return TrainingLog(
            self.user_rows_E[mask_E],
            self.item_indices_E[mask_E],
            self.seconds_E[mask_E],
            len(self.user_ids),
            self.num_rows,
        )

    def sequences(self, mask_E: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
        """Rows of the users with such events, and their items, oldest first."""
        chosen = np.flatnonzero(mask_E)
        by_user = chosen[np.argsort(self.user_rows_E[chosen], kind="stable")]
        user_rows, starts = np.unique(self.user_rows_E[by_user], return_index=True)
        return user_rows, np.split(self.item_indices_E[by_user], starts[1:]) if len(user_rows) else []


def event_arrays(events: DataFrame, vocabulary: DataFrame, end: datetime) -> EventArrays:
    """The events strictly before ``end`` on items of the vocabulary, in this process.

    Args:
        events: ``schemas.EVENTS``.
        vocabulary: ``schemas.ITEM_VOCABULARY``.
        end: End of the time that is asked for, exclusive.
    """
    index = vocabulary.select(c.ITEM_ID, c.ITEM_INDEX)
    seconds = F.unix_seconds(c.EVENT_TS).alias("seconds")
    table = (
        events_before(events, end)
        .join(index, on=c.ITEM_ID, how="inner")
        .select(c.USER_ID, c.ITEM_INDEX, c.EVENT_TS, seconds, c.SCENE, c.ACTION, c.EVENT_ID)
        .toArrow()
    )
    # By the whole time stamp, as windows are ordered: within a second, seconds would call another event the last one.
    table = table.sort_by([(c.EVENT_TS, "ascending"), (c.EVENT_ID, "ascending")])
    user_ids = sorted(pc.unique(table[c.USER_ID]).to_pylist())
    last_index = index.agg(F.max(c.ITEM_INDEX).alias(c.ITEM_INDEX)).collect()[0][c.ITEM_INDEX]
    return EventArrays(
        user_ids=user_ids,
        user_rows_E=pc.index_in(table[c.USER_ID], pa.array(user_ids)).to_numpy().astype(np.int64),
        item_indices_E=table[c.ITEM_INDEX].to_numpy().astype(np.int64),
        seconds_E=table["seconds"].to_numpy(),
        scenes_E=np.asarray(table[c.SCENE].to_pandas()),
        actions_E=np.asarray(table[c.ACTION].to_pandas()),
        num_rows=last_index + 1,
    )


@dataclass(frozen=True)
class Periods:
    """Which events are known and which are asked for, as masks over all events.

    Attributes:
        trained_E: What a model may learn from.
        known_E: What it knows of a user when it is asked.
        truth_E: What it is asked for.
    """

    trained_E: np.ndarray
    known_E: np.ndarray
    truth_E: np.ndarray

    @classmethod
    def by_time(cls, events: EventArrays, as_of_seconds: int) -> Periods:
        """Known before ``as_of_seconds``, asked for from then on."""
        before_E = events.seconds_E < as_of_seconds
        return cls(before_E, before_E, ~before_E)

    @classmethod
    def leave_one_out(cls, events: EventArrays, of_task_E: np.ndarray, train_includes_validation: bool) -> Periods:
        """The last event of every user with at least three is asked for; the last but one selects, unless included.

        Args:
            events: All of them before ``as_of``.
            of_task_E: The events of the task; the others are known.
            train_includes_validation: Whether models were trained on the last but one too.
        """
        chosen = np.flatnonzero(of_task_E)
        by_user = chosen[np.argsort(events.user_rows_E[chosen], kind="stable")]
        users = events.user_rows_E[by_user]
        from_end = np.searchsorted(users, users, side="right") - np.arange(len(users))
        is_split = np.bincount(users, minlength=len(events.user_ids))[users] > _HELD_OUT
        last_E, last_two_E = np.zeros((2, len(of_task_E)), bool)
        last_E[by_user] = is_split & (from_end == 1)
        last_two_E[by_user] = is_split & (from_end <= _HELD_OUT)
        return cls(~(last_E if train_includes_validation else last_two_E), ~last_E, last_E)
