"""Some users' histories as Spark hands them to a worker, and their candidates before an instant.

Shapes: B users, E events, C candidates.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa

from precise_core.config.tasks import ALL_TASK
from precise_core.recommendations.config import RecommendationsConfig
from precise_core.recommendations.features import FeatureFacts, UserTallies, candidate_features
from precise_core.recommendations.history import UserEvents, filled, item_tally, pair_keys, positions_in
from precise_core.recommendations.point_in_time import PointInTime
from precise_core.recommendations.sources import Candidates, Ranked, gather_candidates, source_scores
from precise_core.sequences.chunks import TASK_BITS
from schemas import columns as c

MICROS_PER_DAY = 86_400_000_000
BLOCK_USERS = 256


@dataclass(frozen=True)
class TaskCandidates:
    """Candidates of B users in one task.

    Attributes:
        features_CG: float32, columns as ``FEATURE_NAMES``.
        last_ages_C: Days before the instant that the user last had the item, float64; infinite: never.
    """

    task: str
    candidates: Candidates
    features_CG: np.ndarray
    last_ages_C: np.ndarray

    @property
    def is_repeat_C(self) -> np.ndarray:
        """Whether the user had the item before the instant."""
        return np.isfinite(self.last_ages_C)

    def where(self, mask_C: np.ndarray) -> TaskCandidates:
        found = self.candidates
        scores, ranks = ({name: values[mask_C] for name, values in of.items()} for of in (found.scores, found.ranks))
        kept = Candidates(found.user_rows_C[mask_C], found.item_rows_C[mask_C], scores, ranks)
        return TaskCandidates(self.task, kept, self.features_CG[mask_C], self.last_ages_C[mask_C])


@dataclass(frozen=True)
class UserBlock:
    """Histories of B users, each oldest first: user_id, item_indices, event_ts (microseconds) and task_bits.

    Args:
        instant: In microseconds; events from then on are not part of anybody's history.
    """

    rows: pa.RecordBatch
    instant: int
    items: int

    @cached_property
    def user_ids(self) -> list[str]:
        return list(self.rows.column(c.USER_ID).to_pylist())

    @cached_property
    def events(self) -> UserEvents:
        """Those before the instant."""
        return self._events(self._micros_E < self.instant)

    def of_task(self, bit: int) -> UserEvents:
        """Those before the instant that belong to the task."""
        return self._events((self._micros_E < self.instant) & self._belong(bit))

    def taken(self, bit: int) -> np.ndarray:
        """``pair_keys`` of what was taken in the task from the instant on, ascending."""
        later_E = (self._micros_E >= self.instant) & self._belong(bit)
        return np.unique(pair_keys(self._user_rows_E[later_E], self._items_E[later_E]))

    def _events(self, mask_E: np.ndarray) -> UserEvents:
        ages_E = (self.instant - self._micros_E[mask_E]) / MICROS_PER_DAY
        return UserEvents(len(self.user_ids), self.items, self._user_rows_E[mask_E], self._items_E[mask_E], ages_E)

    def _belong(self, bit: int) -> np.ndarray:
        return (self._flat(TASK_BITS) >> bit & 1).astype(bool)

    @cached_property
    def _user_rows_E(self) -> np.ndarray:
        lists = self.rows.column(c.ITEM_INDICES)
        return np.repeat(np.arange(len(lists)), np.diff(lists.offsets.to_numpy()))

    @cached_property
    def _items_E(self) -> np.ndarray:
        return self._flat(c.ITEM_INDICES).astype(np.int64)

    @cached_property
    def _micros_E(self) -> np.ndarray:
        return self._flat(c.EVENT_TS)

    def _flat(self, name: str) -> np.ndarray:
        return self.rows.column(name).flatten().to_numpy(zero_copy_only=False)


def user_blocks(
    batches: Iterable[pa.RecordBatch], instant: int, items: int, users: int = BLOCK_USERS
) -> Iterator[UserBlock]:
    """The rows of a partition, so many users at a time that memory stays small however many there are."""
    for batch in batches:
        for start in range(0, batch.num_rows, users):
            yield UserBlock(batch.slice(start, users), instant, items)


class CandidateMaker:
    """Candidates of every task with their features, from what is known at one instant.

    Args:
        bits: Bit of each task.
    """

    def __init__(self, known: PointInTime, config: RecommendationsConfig, bits: Mapping[str, int]) -> None:
        self.known, self._config, self._bits = known, config, bits
        self._facts = FeatureFacts(known, bits)

    def make(
        self, block: UserBlock, recalled: Mapping[str, Mapping[str, Ranked]] | None = None
    ) -> Iterator[TaskCandidates]:
        """Of each task; ``recalled`` are what indexes found, by task and source."""
        users = UserTallies.of(block.events, self.known)
        similar, facts = self.known.similarities, self.known.facts
        scores = source_scores(block.events, users.items, similar, block.user_ids, self._config)
        for task, bit in self._bits.items():
            history = users.items if task == ALL_TASK else item_tally(block.of_task(bit))
            own = None if task == ALL_TASK else history
            found = (recalled or {}).get(task)
            candidates = gather_candidates(scores, facts[task], block.events.users, self._config, own, found)
            of_items = self._facts.at(task, candidates.item_rows_C)
            features_CG = candidate_features(candidates, users, history, self.known, of_items)
            places_C = users.items.positions(candidates.user_rows_C, candidates.item_rows_C)
            yield TaskCandidates(task, candidates, features_CG, filled(users.items.last_P, places_C, np.inf))


def labels(made: TaskCandidates, taken: np.ndarray) -> np.ndarray:
    """Whether each candidate was taken, bool [C]; ``taken`` are keys of ``UserBlock.taken``."""
    keys_C = pair_keys(made.candidates.user_rows_C, made.candidates.item_rows_C)
    return positions_in(taken, keys_C) < len(taken)
