"""The questions on which every system is evaluated: truth, history and candidates of a task, from arrays of events.

E events, U users, N vocabulary rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy import sparse

from precise_core.config.tasks import ALL_TASK, TaskConfig
from precise_core.errors import NothingToEvaluateError
from precise_core.evaluation.config import EvaluationConfig
from precise_core.evaluation.groups import item_groups, scene_groups
from precise_core.evaluation.protocol import EvaluationTask
from precise_core.evaluation.references import (
    SECONDS_PER_DAY,
    MostPopular,
    OwnHistory,
    Scorer,
    TrainingLog,
)
from precise_core.evaluation.simple_references import build_references
from precise_core.models.times import usual_gap
from precise_core.recommendations.neighbours import pair_matrix
from precise_core.sequences.config import LEAVE_ONE_OUT, WindowsConfig
from schemas import columns as c

SECONDS = "seconds"
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

    def sequences(self, mask_E: np.ndarray) -> tuple[np.ndarray, list[np.ndarray], list[np.ndarray]]:
        """Rows of the users with such events, their items, oldest first, and the seconds of these."""
        chosen = np.flatnonzero(mask_E)
        by_user = chosen[np.argsort(self.user_rows_E[chosen], kind="stable")]
        user_rows, starts = np.unique(self.user_rows_E[by_user], return_index=True)
        if not len(user_rows):
            return user_rows, [], []
        items, seconds = (np.split(of_E[by_user], starts[1:]) for of_E in (self.item_indices_E, self.seconds_E))
        return user_rows, items, seconds

    @classmethod
    def from_arrow(cls, events: pa.Table, num_rows: int) -> EventArrays:
        """Events with user_id, item_index, event_ts, seconds, scene, action and event_id, in any order."""
        # By the whole time stamp, as windows are ordered: by seconds, another event might be the last.
        events = events.sort_by([(c.EVENT_TS, "ascending"), (c.EVENT_ID, "ascending")])
        user_ids = sorted(pc.unique(events[c.USER_ID]).to_pylist())
        return cls(
            user_ids=user_ids,
            user_rows_E=pc.index_in(events[c.USER_ID], pa.array(user_ids)).to_numpy().astype(np.int64),
            item_indices_E=events[c.ITEM_INDEX].to_numpy().astype(np.int64),
            seconds_E=events[SECONDS].to_numpy(),
            scenes_E=np.asarray(events[c.SCENE].to_pandas()),
            actions_E=np.asarray(events[c.ACTION].to_pandas()),
            num_rows=num_rows,
        )


@dataclass(frozen=True)
class Periods:
    """Masks of the events that a model may learn from, that are a user's known history, and that are the truth."""

    trained_E: np.ndarray
    known_E: np.ndarray
    truth_E: np.ndarray

    @classmethod
    def by_time(cls, events: EventArrays, as_of_seconds: int) -> Periods:
        """Known before ``as_of_seconds``, truth from then on."""
        before_E = events.seconds_E < as_of_seconds
        return cls(before_E, before_E, ~before_E)

    @classmethod
    def leave_one_out(cls, events: EventArrays, of_task_E: np.ndarray, train_includes_validation: bool) -> Periods:
        """The last event of the task of every user with at least three is the truth, all others are known.

        The last but one selects models, unless they were trained on it, too.
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


@dataclass(frozen=True)
class QuestionSettings:
    """The settings of the questions, the same for every system."""

    as_of: datetime
    tasks: Mapping[str, TaskConfig]
    evaluation: EvaluationConfig
    windows: WindowsConfig
    seed: int

    @property
    def is_by_time(self) -> bool:
        """Whether the truth is the test period, and not the last event of every user."""
        return self.windows.split != LEAVE_ONE_OUT

    @property
    def end(self) -> datetime:
        """End of the events that are read, exclusive."""
        return self.as_of + timedelta(days=self.evaluation.test_days if self.is_by_time else 0)


@dataclass(frozen=True)
class EvaluationInputs:
    """The inputs of the questions.

    Attributes:
        events: Those before ``QuestionSettings.end`` on items of the vocabulary.
        item_ids: Of the vocabulary, parallel to ``item_indices``.
        excluded: By task, the rows of items that may not be recommended (``recall.popular.excluded_items``).
    """

    events: EventArrays
    item_ids: pa.Array
    item_indices: np.ndarray
    excluded: Mapping[str, np.ndarray]


class OfflineEvaluation:
    """Questions and simple references of each task."""

    def __init__(self, inputs: EvaluationInputs, settings: QuestionSettings) -> None:
        self._inputs, self.settings, self._events = inputs, settings, inputs.events
        self._as_of_seconds = int(settings.as_of.timestamp())
        self._questions: dict[str, EvaluationTask] = {}

    @property
    def user_ids(self) -> list[str]:
        """The users with an event that is read; a row is a position in this list."""
        return self._events.user_ids

    @property
    def num_rows(self) -> int:
        """N."""
        return self._events.num_rows

    def question(self, task: str) -> EvaluationTask:
        """The test period, or with `windows.split: leave_one_out` the last event; made once for all systems."""
        if task not in self._questions:
            self._questions[task] = self._make_question(task)
        return self._questions[task]

    def references(self, task: str) -> dict[str, Scorer]:
        """The simple references, from the events that are known of a task."""
        return build_references(self._known_log(task), self.settings.evaluation, as_of_seconds=self._as_of_seconds)

    def own_history(self, task: str, days: float) -> Scorer:
        """The users' own events of a task, fading over ``days``, as a source of candidates."""
        return OwnHistory(self._known_log(task), as_of_seconds=self._as_of_seconds, days=days)

    def most_popular(self, task: str) -> Scorer:
        """The task's most popular items of all time, for users without a vector."""
        return MostPopular(self._known_log(task))

    def pairs(self, task: str, hidden_users: np.ndarray, since: datetime) -> sparse.csr_matrix:
        """Users and their items of a task, bool [U, N], without the events of ``hidden_users`` from ``since`` on."""
        is_late_E = self._events.seconds_E >= int(since.timestamp())
        return self._pairs(self._of_task(task) & ~(is_late_E & np.isin(self._events.user_rows_E, hidden_users)))

    def histories(self, task: str) -> tuple[np.ndarray, list[np.ndarray], list[np.ndarray]]:
        """Rows of the users with a known event of a task, their items, oldest first, and the seconds of these."""
        return self._events.sequences(self._of_task(task) & self._periods(task).known_E)

    def asked(self, user_rows: np.ndarray, seconds: Sequence[np.ndarray], target_of: str | None = None) -> np.ndarray:
        """Epoch seconds, int64, at which users with histories are asked what comes next: `as_of`.

        Where the last event of every user is the truth, `as_of` has no meaning for them: they are asked after their
        newest event by the usual gap between events.

        Args:
            seconds: Of the events of each history.
            target_of: Ask when the first truth of this task happened, as papers do; of users without one as else.
        """
        asked_B = np.full(len(user_rows), self._as_of_seconds, np.int64)
        if not self.settings.is_by_time:
            asked_B = np.array([of_user[-1] for of_user in seconds], np.int64) + usual_gap(seconds)
        if target_of is not None:
            truth = np.flatnonzero(self._of_task(target_of) & self._periods(target_of).truth_E)
            users, first = np.unique(self._events.user_rows_E[truth], return_index=True)  # events are in order of time
            target_U, has_target_U = np.zeros(len(self.user_ids), np.int64), np.zeros(len(self.user_ids), bool)
            target_U[users], has_target_U[users] = self._events.seconds_E[truth[first]], True
            asked_B = np.where(has_target_U[user_rows], target_U[user_rows], asked_B)
        return asked_B

    def cold_users(self, task: str, events: int, days: int) -> np.ndarray:
        """Mask of the users with fewer than ``events`` known events of a task in the last ``days``."""
        log = self._known_log(task)
        recent_E = log.seconds_E >= self._as_of_seconds - days * SECONDS_PER_DAY
        return np.bincount(log.user_rows_E[recent_E], minlength=log.users) < events

    def rows_of(self, user_ids: Sequence[str]) -> np.ndarray:
        """Rows of those users that have events."""
        rows, is_known = self.user_rows(pa.chunked_array([pa.array(user_ids, pa.string())]))
        return rows[is_known]

    def user_rows(self, user_ids: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the users, and a mask of those that have a row."""
        found = pc.index_in(user_ids, pa.array(self._events.user_ids))
        return pc.fill_null(found, 0).to_numpy().astype(np.int64), found.is_valid().to_numpy()

    def item_rows(self, item_ids: pa.ChunkedArray) -> np.ndarray:
        """Vocabulary rows of items that are all in it."""
        return self._inputs.item_indices[pc.index_in(item_ids, self._inputs.item_ids).to_numpy()].astype(np.int64)

    def is_item(self, item_ids: pa.ChunkedArray) -> np.ndarray:
        """Mask of the items that are in the vocabulary."""
        return pc.is_in(item_ids, self._inputs.item_ids).to_numpy()

    def _make_question(self, task: str) -> EvaluationTask:
        config, periods = self.settings.evaluation, self._periods(task)
        candidates_N = np.zeros(self.num_rows, bool)
        candidates_N[self._inputs.item_indices] = True
        candidates_N[self._inputs.excluded[task]] = False
        return EvaluationTask(
            task=task,
            as_of=self.settings.as_of,
            truth=self._pairs(self._of_task(task) & periods.truth_E),
            history=self._pairs(periods.known_E),
            candidates_N=candidates_N,
            groups=self._groups(task, periods.trained_E),
            ks=config.ks,
            samples=config.bootstrap_samples,
            seed=self.settings.seed,
        )

    def _groups(self, task: str, trained_E: np.ndarray) -> dict[str, np.ndarray]:
        """By training events; for the task `all`, whose events are of every scene, also by scene."""
        item_indices = self._events.item_indices_E[trained_E]
        counts_N = np.bincount(item_indices, minlength=self.num_rows)
        groups = item_groups(counts_N, self.settings.evaluation.hot_share)
        if task != ALL_TASK:
            return groups
        return groups | scene_groups(item_indices, self._events.scenes_E[trained_E], self.num_rows)

    def _periods(self, task: str) -> Periods:
        settings, events = self.settings, self._events
        if not settings.is_by_time:
            return Periods.leave_one_out(events, self._of_task(task), settings.windows.train_includes_validation)
        if not (events.seconds_E >= self._as_of_seconds).any():
            raise NothingToEvaluateError(
                f"no event in [{settings.as_of}, {settings.end}): nothing to evaluate; as_of is too late"
            )
        return Periods.by_time(events, self._as_of_seconds)

    def _of_task(self, task: str) -> np.ndarray:
        return self._events.of_task(self.settings.tasks.get(task))

    def _known_log(self, task: str) -> TrainingLog:
        return self._events.log(self._of_task(task) & self._periods(task).known_E)

    def _pairs(self, chosen_E: np.ndarray) -> sparse.csr_matrix:
        events = self._events
        return pair_matrix(
            events.user_rows_E[chosen_E], events.item_indices_E[chosen_E], len(events.user_ids), self.num_rows
        )
