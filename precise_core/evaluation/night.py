"""The offline evaluation of a night: published vectors and candidates against what users did next.

Everything is read from the tables that other teams read, so that what is measured is what was published.
U users, N vocabulary rows, E events.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import functions as F
from scipy import sparse

from precise_core.config.tasks import ALL_TASK
from precise_core.data_sets.synthetic import days_after_start, interests
from precise_core.data_sets.synthetic_truth import item_probabilities, topic_probabilities
from precise_core.errors import CheckpointError, NothingToEvaluateError, VersionMixError
from precise_core.evaluation.event_arrays import EventArrays, Periods, event_arrays
from precise_core.evaluation.groups import item_groups, scene_groups
from precise_core.evaluation.names import ORACLE
from precise_core.evaluation.overlap import source_figures
from precise_core.evaluation.protocol import EmbeddingScorer, EvaluationTask, evaluate_lists, evaluate_ranking
from precise_core.evaluation.references import (
    SECONDS_PER_DAY,
    MostPopular,
    OwnHistory,
    Scorer,
    TrainingLog,
    TruePreferences,
    build_references,
    pair_matrix,
)
from precise_core.models.catalog import ItemCatalog
from precise_core.publication.published import published_checkpoint, published_version
from precise_core.recall.popular import excluded_items
from precise_core.run.job import Job
from precise_core.sequences.config import LEAVE_ONE_OUT
from precise_core.sources.config import SyntheticSource
from precise_core.training.checkpoint import UNTRAINED, Checkpoint, latest
from precise_core.training.checkpoints import checkpoint_folder, item_catalog
from precise_core.vectors.encoding import encode_catalog, encode_users
from precise_core.warehouse.arrow_lists import fixed_lists
from schemas import (
    EVENTS,
    ITEM_EMBEDDINGS,
    ITEM_VOCABULARY,
    ITEMS,
    RECALL_CANDIDATES,
    USER_EMBEDDINGS,
    Table,
)
from schemas import columns as c

MERGED = "merged"


class OfflineEvaluation:
    """Builds truth, candidates and systems for each task of a job's configuration."""

    def __init__(self, job: Job) -> None:
        self.job, self.settings = job, job.settings
        self._as_of_seconds = int(self.settings.as_of.timestamp())
        self._references: dict[str, dict[str, Scorer]] = {}
        self._questions: dict[str, EvaluationTask] = {}

    def retrieval(self, task: str) -> list[dict[str, Any]]:
        """Rows of `evaluation_metrics` for full ranking: our checkpoints beside the simple references."""
        references = self.references(task)
        popular = references[f"most_popular_{self.settings.evaluation.popular_days}d"]
        ours, versions = self._our_systems(task, popular)
        return evaluate_ranking({**ours, **references}, self.question(task), model_versions=versions).rows

    def references(self, task: str) -> dict[str, Scorer]:
        """The simple references, from the events that are known of a task; built once."""
        if task not in self._references:
            self._references[task] = self._build_references(task)
        return self._references[task]

    def _build_references(self, task: str) -> dict[str, Scorer]:
        config = self.settings.evaluation
        references = build_references(
            self._known_log(task),
            as_of_seconds=self._as_of_seconds,
            popular_days=config.popular_days,
            knn_shrinkage=config.knn_shrinkage,
            knn_history=config.knn_history,
        )
        if isinstance(self.settings.source, SyntheticSource):
            references[ORACLE] = self._oracle(self.settings.source, task)
        return references

    def _oracle(self, source: SyntheticSource, task: str) -> Scorer:
        """What the synthetic world itself would recommend in the middle of the test period."""
        config = self.settings.tasks.get(task)
        action, scene = (None, None) if config is None else (config.action, config.scene)
        middle = self.settings.as_of + timedelta(days=self.settings.evaluation.test_days / 2)
        users = interests(self.job.spark, source, days_after_start(source, middle)).collect()
        known = {row[c.USER_ID]: (row["first"], row["second"]) for row in users}
        topics_UT = np.stack([topic_probabilities(source, *known[user], action) for user in self._events.user_ids])
        items = self.job.read(ITEMS).select(c.ITEM_ID, (F.col(c.PUBLISHED_TS) <= F.lit(middle)).alias("is_published"))
        table = items.toArrow()
        numbers = [int(item_id.rpartition("-")[2]) for item_id in table[c.ITEM_ID].to_pylist()]
        found = item_probabilities(source, numbers, np.asarray(table["is_published"].to_pandas(), bool), scene)
        items_TN = np.zeros((source.topics, self._events.num_rows))
        known_N = pc.is_in(table[c.ITEM_ID], self._vocabulary[c.ITEM_ID].combine_chunks()).to_numpy()
        items_TN[:, self._index_of(table[c.ITEM_ID].filter(pa.array(known_N)))] = found[:, known_N]
        return TruePreferences(topics_UT, items_TN)

    def own_history(self, task: str, days: float) -> Scorer:
        """The users' own events of a task, fading over ``days``, as a source of candidates."""
        return OwnHistory(self._known_log(task), as_of_seconds=self._as_of_seconds, days=days)

    def most_popular(self, task: str) -> Scorer:
        """The task's most popular items of all time: what users without a vector get."""
        return MostPopular(self._known_log(task))

    def pairs(self, task: str, hidden_users: np.ndarray, since: datetime) -> sparse.csr_matrix:
        """Who had what of a task, bool [U, N]: all events that are read, but those of some users from an instant on."""
        events = self._events
        is_late_E = events.seconds_E >= int(since.timestamp())
        chosen_E = self._of_task(task) & ~(is_late_E & np.isin(events.user_rows_E, hidden_users))
        users, rows = len(events.user_ids), events.num_rows
        return pair_matrix(events.user_rows_E[chosen_E], events.item_indices_E[chosen_E], users, rows)

    def histories(self, task: str) -> tuple[np.ndarray, list[np.ndarray]]:
        """Rows of the users with a known event of a task, and their items, oldest first."""
        return self._events.sequences(self._of_task(task) & self._periods(task).known_E)

    def cold_users(self, task: str, events: int, days: int) -> np.ndarray:
        """Mask of the users with fewer than so many known events of a task in the last days."""
        log = self._known_log(task)
        recent_E = log.seconds_E >= self._as_of_seconds - days * SECONDS_PER_DAY
        return np.bincount(log.user_rows_E[recent_E], minlength=log.users) < events

    @property
    def user_ids(self) -> list[str]:
        """The users with an event that is read; a row is a position in this list."""
        return self._events.user_ids

    def _known_log(self, task: str) -> TrainingLog:
        return self._events.log(self._of_task(task) & self._periods(task).known_E)

    def rows_of(self, user_ids: list[str]) -> np.ndarray:
        """Rows of the users that have events."""
        rows, known = self._user_rows(pa.chunked_array([pa.array(user_ids, pa.string())]))
        return rows[known]

    def encoded(
        self, checkpoint: Checkpoint, catalog: ItemCatalog, task: str, fallback: Scorer | None = None
    ) -> EmbeddingScorer:
        """A system whose vectors are in no table, encoded in this process.

        Args:
            checkpoint: The model.
            catalog: The items' texts as the checkpoint reads them.
            task: The task whose events are the users' histories.
            fallback: Scores of users without any.
        """
        model = checkpoint.load_model()
        rows = np.arange(2, catalog.num_rows)
        items_ND = encode_catalog(model, catalog, rows)
        user_rows, histories = self.histories(task)
        users_BD = encode_users(model, catalog, histories, checkpoint.manifest.model.encoder.max_length)
        return self.scorer(rows, items_ND, user_rows, users_BD, fallback)

    def recall(self, task: str) -> list[dict[str, Any]]:
        """Rows of `evaluation_metrics` for the recalled candidates of a task, per source and merged (Table VIII)."""
        version = published_checkpoint(self.job, task).model_version
        candidates = self._slice(RECALL_CANDIDATES, version)
        user_rows, known_C = self._user_rows(candidates[c.USER_ID])
        item_indices = self._index_of(candidates[c.ITEM_ID])
        sources, places = (
            np.array(candidates[c.SOURCE].to_pylist()),
            (len(self._events.user_ids), self.settings.recall.k),
        )
        lists = {
            source: _lists(places, user_rows, item_indices, candidates[c.RANK], known_C & (sources == source))
            for source in sorted(set(sources) - {c.POPULAR})  # a fallback of few users; it is in the merged list
        }
        user_filter = "new" if self.settings.recall.filter_seen else "all"
        question = self.question(task)
        between = source_figures(lists, question, user_filter=user_filter, model_version=version)
        lists[MERGED] = _lists(places, user_rows, item_indices, candidates[c.MERGED_RANK], known_C)
        versions = dict.fromkeys(lists, version)
        return evaluate_lists(lists, question, user_filter=user_filter, model_versions=versions).rows + between

    def question(self, task: str) -> EvaluationTask:
        """What is asked of every system: the test period, or with `windows.split: leave_one_out` the last event.

        Made once: its candidates come from a Spark job.
        """
        if task not in self._questions:
            self._questions[task] = self._make_question(task)
        return self._questions[task]

    def _make_question(self, task: str) -> EvaluationTask:
        events, config = self._events, self.settings.evaluation
        periods = self._periods(task)
        users, rows = len(events.user_ids), events.num_rows
        truth_E = self._of_task(task) & periods.truth_E
        known_E = periods.known_E
        return EvaluationTask(
            task=task,
            as_of=self.settings.as_of,
            truth=pair_matrix(events.user_rows_E[truth_E], events.item_indices_E[truth_E], users, rows),
            history=pair_matrix(events.user_rows_E[known_E], events.item_indices_E[known_E], users, rows),
            candidates_N=self._candidates(task),
            groups=self._groups(task, periods.trained_E),
            ks=config.ks,
            samples=config.bootstrap_samples,
            seed=self.settings.seed,
        )

    def _of_task(self, task: str) -> np.ndarray:
        return self._events.of_task(self.settings.tasks.get(task))

    def _periods(self, task: str) -> Periods:
        windows = self.settings.windows
        if windows.split == LEAVE_ONE_OUT:
            return Periods.leave_one_out(self._events, self._of_task(task), windows.train_includes_validation)
        return Periods.by_time(self._events, self._as_of_seconds)

    def _groups(self, task: str, trained_E: np.ndarray) -> dict[str, np.ndarray]:
        """By training events; for the task `all`, whose events are of every scene, also by scene."""
        events = self._events
        item_indices = events.item_indices_E[trained_E]
        counts_N = np.bincount(item_indices, minlength=events.num_rows)
        groups = item_groups(counts_N, self.settings.evaluation.hot_share)
        if task != ALL_TASK:
            return groups
        return groups | scene_groups(item_indices, events.scenes_E[trained_E], events.num_rows)

    def _our_systems(self, task: str, fallback: Scorer) -> tuple[dict[str, Scorer], dict[str, str | None]]:
        universal = published_checkpoint(self.job, ALL_TASK)
        systems = {c.PRECISE_UT: self._published(universal, ALL_TASK, fallback)}
        versions: dict[str, str | None] = {c.PRECISE_UT: universal.model_version}
        if task == ALL_TASK:
            untrained = latest(checkpoint_folder(self.job), UNTRAINED)
            systems[c.PRECISE_UNTRAINED] = self.encoded(untrained, item_catalog(self.job, untrained), task, fallback)
            versions[c.PRECISE_UNTRAINED] = untrained.model_version
            return systems, versions
        try:
            targeted = published_checkpoint(self.job, task)
        except CheckpointError as error:
            self.job.say(f"{task}: no targeted model to evaluate, {error}")
            return systems, versions
        systems[c.PRECISE] = self._published(targeted, task, fallback)
        versions[c.PRECISE] = targeted.model_version
        return systems, versions

    def _published(self, checkpoint: Checkpoint, task: str, fallback: Scorer) -> Scorer:
        """A system made of the vectors in the tables."""
        width = checkpoint.manifest.model.fusion.width
        items, users = (
            self.job.warehouse.read_arrow(
                table, published_version(self.job, task, table), where={c.MODEL_VERSION: checkpoint.model_version}
            )
            for table in (ITEM_EMBEDDINGS, USER_EMBEDDINGS)
        )
        users = users.filter(pc.equal(users[c.TASK], task))
        for name, rows, job in (("item_embeddings", items, "embed_items"), ("user_embeddings", users, "embed_users")):
            if not rows.num_rows:
                raise VersionMixError(f"{name} has no vectors of {checkpoint.model_version}; run jobs/{job}.py")
        user_rows, known = self._user_rows(users[c.USER_ID])
        vectors_BD = _matrix(users[c.EMBEDDING], width)
        return self.scorer(
            items[c.ITEM_INDEX].to_numpy(),
            _matrix(items[c.EMBEDDING], width),
            user_rows[known],
            vectors_BD[known],
            fallback,
        )

    def scorer(
        self,
        rows: np.ndarray,
        items_MD: np.ndarray,
        user_rows: np.ndarray,
        users_BD: np.ndarray,
        fallback: Scorer | None,
    ) -> EmbeddingScorer:
        """A system of vectors for these item rows and user rows."""
        width = items_MD.shape[1]
        items_ND, has_N = np.zeros((self._events.num_rows, width), np.float32), np.zeros(self._events.num_rows, bool)
        items_ND[rows], has_N[rows] = items_MD, True
        users = len(self._events.user_ids)
        users_UD, has_U = np.zeros((users, width), np.float32), np.zeros(users, bool)
        users_UD[user_rows], has_U[user_rows] = users_BD, True
        return EmbeddingScorer(users_UD, items_ND, has_user_U=has_U, has_item_N=has_N, fallback=fallback)

    @cached_property
    def _events(self) -> EventArrays:
        is_by_time = self.settings.windows.split != LEAVE_ONE_OUT
        end = self.settings.as_of + timedelta(days=self.settings.evaluation.test_days if is_by_time else 0)
        events = event_arrays(self.job.read(EVENTS), self.job.read(ITEM_VOCABULARY), end)
        if is_by_time and not (events.seconds_E >= self._as_of_seconds).any():
            raise NothingToEvaluateError(
                f"no event in [{self.settings.as_of}, {end}): nothing to evaluate; as_of is too late"
            )
        return events

    @cached_property
    def _vocabulary(self) -> pa.Table:
        return self._table(ITEM_VOCABULARY, [c.ITEM_ID, c.ITEM_INDEX])

    def _candidates(self, task: str) -> np.ndarray:
        tables = (self.job.read(EVENTS), self.job.read(ITEMS), self.job.read(ITEM_VOCABULARY))
        excluded = excluded_items(*tables, self.settings.tasks, self.settings.as_of, task)
        candidates_N = np.zeros(self._events.num_rows, bool)
        candidates_N[self._vocabulary[c.ITEM_INDEX].to_numpy()] = True
        candidates_N[excluded.toPandas()[c.ITEM_INDEX].to_numpy(np.int64)] = False
        return candidates_N

    def _user_rows(self, user_ids: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the users, and which of them have a row at all."""
        found = pc.index_in(user_ids, pa.array(self._events.user_ids))
        known = found.is_valid().to_numpy()
        return pc.fill_null(found, 0).to_numpy().astype(np.int64), known

    def _index_of(self, item_ids: pa.ChunkedArray) -> np.ndarray:
        found = pc.index_in(item_ids, self._vocabulary[c.ITEM_ID].combine_chunks())
        return self._vocabulary[c.ITEM_INDEX].to_numpy()[found.to_numpy()].astype(np.int64)

    def _slice(self, table: Table, model_version: str) -> pa.Table:
        return self._table(table, None, {c.MODEL_VERSION: model_version})

    def _table(self, table: Table, columns: list[str] | None, where: Mapping[str, str] | None = None) -> pa.Table:
        return self.job.warehouse.read_arrow(table, self.job.pin(table), columns, where)


def _matrix(column: pa.ChunkedArray, width: int) -> np.ndarray:
    return fixed_lists(column.combine_chunks(), width).astype(np.float32)


def _lists(
    shape: tuple[int, int], user_rows_C: np.ndarray, items_C: np.ndarray, ranks_C: pa.ChunkedArray, chosen_C: np.ndarray
) -> np.ndarray:
    """Candidates as one list of items per user, best first, -1 = nothing; a candidate without a rank is in none."""
    ranked_UK = np.full(shape, -1, np.int64)
    ranks_C = pc.fill_null(ranks_C, 0).to_numpy()
    chosen_C = chosen_C & (ranks_C > 0) & (ranks_C <= shape[1])
    ranked_UK[user_rows_C[chosen_C], ranks_C[chosen_C] - 1] = items_C[chosen_C]
    return ranked_UK
