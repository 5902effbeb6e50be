"""The data of the report, read from the warehouse without Spark; big tables are only counted, never loaded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from precise_core.artefacts import CHECKPOINTS, LIST_RANKERS, checkpoint_manifest, checkpoints_in_use, rankers_in_use
from precise_core.config.tasks import ALL_TASK
from precise_core.errors import StoreError
from precise_core.recommendations.names import ALL_LISTS, LIST_RANKER_FILE
from precise_core.settings import Settings
from precise_core.store import Place, below, store_at
from precise_core.warehouse.reader import TableReader
from schemas import (
    EVALUATION_METRICS,
    EVENTS,
    EVENTS_REJECTED,
    IMPRESSIONS,
    IMPRESSIONS_REJECTED,
    ITEM_EMBEDDINGS,
    ITEM_VOCABULARY,
    ITEMS,
    ITEMS_REJECTED,
    PUBLISHED_MODELS,
    RANKING_FEATURES,
    RANKING_SCORES,
    RECALL_CANDIDATES,
    RECOMMENDATIONS,
    RUNS,
    TABLES,
    USER_SEQUENCES,
    VALIDATION_RESULTS,
    Table,
)
from schemas import columns as c

SOURCES: tuple[tuple[Table, Table], ...] = (
    (EVENTS, EVENTS_REJECTED),
    (ITEMS, ITEMS_REJECTED),
    (IMPRESSIONS, IMPRESSIONS_REJECTED),
)

# They record or maintain the state of the warehouse; their seconds are not a step of a night.
_NO_STEP_OF_A_NIGHT = ("run_night", "maintain_tables", "erase_user", "rollback")
_UNTRAINED = "untrained"  # kept for comparison only


@dataclass(frozen=True)
class TrainedModel:
    """A checkpoint in use: its task, its version, and the log of its training."""

    name: str
    model_version: str
    manifest: Mapping[str, Any]
    log: pd.DataFrame  # one row per logged step


@dataclass(frozen=True)
class Example:
    """One user: recent items (newest first), items after `as_of`, the lists, and candidates where there are none."""

    user_id: str
    history: list[tuple[str, str]]  # item_id, scene
    history_length: int
    future: frozenset[str]
    candidates: dict[tuple[str, str], list[tuple[str, str | None]]]  # by task and source: item_id, seed_item_id
    lists: dict[tuple[str, str], list[tuple[str, str]]]  # by task and list: item_id, reason


class Night:
    """Everything the report shows of one warehouse."""

    def __init__(self, warehouse: Place, settings: Settings) -> None:
        self.settings = settings
        self.tables = TableReader(warehouse)
        self._warehouse, self._checkpoints = warehouse, below(warehouse, CHECKPOINTS)
        self._is_known = pc.field(c.EVENT_TS) < _instant(settings.as_of)

    @cached_property
    def known_events(self) -> pd.DataFrame:
        """Events before `as_of` by scene and action."""
        return self.tables.counts(EVENTS, [c.SCENE, c.ACTION], self._is_known)

    @cached_property
    def item_popularity(self) -> pd.Series:
        """Events before `as_of` per item, most popular first; only items with at least one."""
        return self.tables.counts(EVENTS, [c.ITEM_ID], self._is_known)["rows"]

    @cached_property
    def sequence_lengths(self) -> pd.DataFrame:
        return self.tables.counts(USER_SEQUENCES, [c.TASK, c.LENGTH])

    def users_of(self, task: str) -> int:
        lengths = self.sequence_lengths
        return int(lengths.loc[lengths[c.TASK] == task, "rows"].sum())

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """`evaluation_metrics` of the configured `as_of`, or of the latest one where that has none."""
        frame = self.tables.frame(EVALUATION_METRICS, EVALUATION_METRICS.column_names)
        configured = frame[frame[c.AS_OF] == pd.Timestamp(self.settings.as_of)]
        return configured if len(configured) else frame[frame[c.AS_OF] == frame[c.AS_OF].max()]

    def reject_reasons(self) -> pd.DataFrame:
        """table, reason, source_file, rows of everything in quarantine."""
        found = [
            self.tables.counts(rejected, [c.REASON, c.SOURCE_FILE]).assign(table=accepted.name)
            for accepted, rejected in SOURCES
            if self.tables.exists(rejected)
        ]
        columns = ["table", c.REASON, c.SOURCE_FILE, "rows"]
        return pd.concat(found)[columns] if found else pd.DataFrame(columns=columns)

    @cached_property
    def checks(self) -> pd.DataFrame:
        """The latest result of every expectation on every table."""
        frame = self.tables.frame(VALIDATION_RESULTS, VALIDATION_RESULTS.column_names)
        identity = ["table_name", "expectation", "column"]
        return frame.sort_values(["checked_at", c.RUN_ID, *identity]).groupby(identity, sort=True).tail(1)

    @cached_property
    def runs(self) -> pd.DataFrame:
        """The latest run of every job; of a job that ran once per task, the latest of each under that configuration."""
        columns = [name for name in RUNS.column_names if name != "configuration"]
        frame = self.tables.frame(RUNS, columns).sort_values(["started_at", c.RUN_ID], ignore_index=True)
        frame = frame[~frame[c.JOB].isin(_NO_STEP_OF_A_NIGHT)].reset_index(drop=True)
        for name in ("metrics", "artefacts", "input_versions", "output_versions"):
            frame[name] = [dict(value) if value is not None else {} for value in frame[name]]
        frame["product"] = [" ".join(sorted(artefacts)) for artefacts in frame["artefacts"]]
        by_job = frame.groupby(c.JOB)
        is_latest = by_job[c.RUN_ID].transform("last") == frame[c.RUN_ID]
        is_current = by_job["config_hash"].transform("last") == frame["config_hash"]
        kept = frame[is_latest | (is_current & (frame["status"] == "succeeded"))]
        return kept.groupby([c.JOB, "product"]).tail(1).reset_index(drop=True)

    def precise_gains(self) -> dict[str, dict[str, dict[str, float]]]:
        """What PRECISE is worth on held-out lists, by task and list (``recommendations.ablation``); empty where the
        ranking model of lists in use knows no PRECISE."""
        try:
            version = rankers_in_use(self._warehouse, LIST_RANKERS)[ALL_LISTS]
            found = store_at(self._warehouse).get(f"{LIST_RANKERS}/{version}/{LIST_RANKER_FILE}")
            about = json.loads(found.text if found else "")
        except (KeyError, StoreError, ValueError):  # nothing was learned, or its folder was removed
            return {}
        return dict(about["figures"].get("precise", {}))

    def scored_impressions(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Labels and probabilities of the test impressions, by ranking model in use."""
        rankers = rankers_in_use(self._warehouse)
        if not rankers or not self.tables.rows_if_any(RANKING_SCORES):
            return {}
        features = self.tables.frame(RANKING_FEATURES, [c.IMPRESSION_ID, c.LABEL, c.SPLIT])
        # Over all tasks: an impression that one ranking model has learned from is not tested on any.
        is_learned_from = features.loc[features[c.SPLIT] != c.TEST, c.IMPRESSION_ID].unique()
        tested = features[~features[c.IMPRESSION_ID].isin(is_learned_from)].drop_duplicates(c.IMPRESSION_ID)
        found = {}
        for system, version in rankers.items():
            of_version = pc.field(c.RANKER_VERSION) == version
            scores = self.tables.frame(RANKING_SCORES, [c.IMPRESSION_ID, c.SCORE], of_version)
            rows = scores.merge(tested, on=c.IMPRESSION_ID).sort_values(c.IMPRESSION_ID)
            if len(rows):
                found[system] = (rows[c.LABEL].to_numpy(), rows[c.SCORE].to_numpy())
        return found

    def cold_items(self) -> pd.DataFrame:
        """model_version, is_cold, rows of the item vectors; only of served checkpoints where these have any."""
        counts = self.tables.counts(ITEM_EMBEDDINGS, [c.MODEL_VERSION, c.IS_COLD])
        served = counts[counts[c.MODEL_VERSION].isin(self._served)]
        return served if len(served) else counts

    def items_with_text(self) -> int:
        """Items with a title or a description."""
        has_text = (pc.field(c.TITLE) != "") | (pc.field(c.DESCRIPTION) != "")
        return self.tables.dataset(ITEMS).count_rows(filter=has_text)

    @cached_property
    def trainings(self) -> list[TrainedModel]:
        """The newest checkpoint of each task: Universal Training first, then by name."""
        in_use = checkpoints_in_use(self._checkpoints)
        names = sorted(in_use.keys() - {_UNTRAINED}, key=lambda name: (name != ALL_TASK, name))
        return [
            TrainedModel(
                name=name,
                model_version=in_use[name],
                manifest=checkpoint_manifest(self._checkpoints, in_use[name]),
                log=read_metric_log(self._text(f"{in_use[name]}/metrics.jsonl")),
            )
            for name in names
        ]

    def _text(self, name: str) -> str:
        found = store_at(self._checkpoints).get(name)
        return found.text if found else ""

    @cached_property
    def published(self) -> dict[str, str] | None:
        """Task -> published model_version; None where nothing was ever published."""
        if not self.tables.exists(PUBLISHED_MODELS):
            return None
        rows = self.tables.frame(PUBLISHED_MODELS, [c.TASK, c.MODEL_VERSION])
        return dict(zip(rows[c.TASK], rows[c.MODEL_VERSION], strict=True))

    def table_stats(self) -> list[tuple[Table, int, int, int]]:
        """(table, version, rows, bytes) of every table that exists, in the order of the data flow."""
        present = [table for table in TABLES if self.tables.exists(table)]
        return [(t, self.tables.version(t), self.tables.rows(t), self.tables.size_bytes(t)) for t in present]

    def titles(self, item_ids: Iterable[str]) -> dict[str, str]:
        """item_id -> title; the id itself where the item has no title."""
        requested = sorted(set(item_ids))
        frame = self.tables.frame(ITEMS, [c.ITEM_ID, c.TITLE], pc.field(c.ITEM_ID).isin(requested))
        titles = zip(frame[c.ITEM_ID], frame[c.TITLE], strict=True)
        return dict(zip(requested, requested, strict=True)) | {item: title for item, title in titles if title}

    def examples(self, number: int, history: int, candidates: int) -> list[Example]:
        """Some users, drawn by a seeded hash of the user id among those with lists of their own.

        Each has at most ``history`` recent events and ``candidates`` items per list. Without published lists they have
        the candidates of the served checkpoints.
        """
        if self.tables.rows_if_any(RECOMMENDATIONS):
            users = self.tables.counts(RECOMMENDATIONS, [c.USER_ID], pc.field(c.USER_ID) != c.ANYBODY)[c.USER_ID]
            drawn = self._drawn(users, number)
            return self._people(drawn, history, {}, self._lists(drawn, candidates))
        served = sorted(self._served & set(self.tables.counts(RECALL_CANDIDATES, [c.MODEL_VERSION])[c.MODEL_VERSION]))
        where = pc.field(c.MODEL_VERSION).isin(served) if served else None
        users = self.tables.counts(RECALL_CANDIDATES, [c.USER_ID], where)[c.USER_ID]
        drawn = self._drawn(users, number)
        recalled = pc.field(c.USER_ID).isin(drawn) & (pc.field(c.RANK) <= candidates)
        columns = [c.USER_ID, c.TASK, c.SOURCE, c.RANK, c.ITEM_ID, c.SEED_ITEM_ID]
        rows = self.tables.frame(RECALL_CANDIDATES, columns, recalled & where if served else recalled)
        return self._people(
            drawn, history, {user: _candidate_lists(rows[rows[c.USER_ID] == user]) for user in drawn}, {}
        )

    def _drawn(self, users: Iterable[str], number: int) -> list[str]:
        seed = self.settings.seed
        return sorted(users, key=lambda user: hashlib.sha256(f"{seed}/{user}".encode()).hexdigest())[:number]

    def _people(
        self,
        drawn: list[str],
        history: int,
        candidates: Mapping[str, dict[tuple[str, str], list[tuple[str, str | None]]]],
        lists: Mapping[str, dict[tuple[str, str], list[tuple[str, str]]]],
    ) -> list[Example]:
        sequences = self._sequences(drawn)
        future = self._future(drawn)
        return [
            Example(
                user_id=user,
                history=sequences.get(user, [])[:history],
                history_length=len(sequences.get(user, [])),
                future=future.get(user, frozenset()),
                candidates=candidates.get(user, {}),
                lists=lists.get(user, {}),
            )
            for user in drawn
        ]

    def _lists(self, users: list[str], longest: int) -> dict[str, dict[tuple[str, str], list[tuple[str, str]]]]:
        """By user, then by task and list in the order of the configuration: the first items and their reasons."""
        where = pc.field(c.USER_ID).isin(users) & (pc.field(c.RANK) <= longest)
        columns = [c.USER_ID, c.TASK, c.LIST, c.RANK, c.ITEM_ID, c.REASON]
        rows = self.tables.frame(RECOMMENDATIONS, columns, where)
        known = list(self.settings.recommendations.lists)
        order = {name: place for place, name in enumerate([*known, *sorted(set(rows[c.LIST]) - set(known))])}
        found: dict[str, dict[tuple[str, str], list[tuple[str, str]]]] = {}
        for row in sorted(records(rows), key=lambda row: (row.task != ALL_TASK, row.task, order[row.list], row.rank)):
            found.setdefault(row.user_id, {}).setdefault((row.task, row.list), []).append((row.item_id, row.reason))
        return found

    @cached_property
    def list_sources(self) -> pd.DataFrame:
        """task, list, sources (joined by commas) and rows of the lists of users; the table streams."""
        keys, parts = [c.TASK, c.LIST, c.SOURCES], []
        scanner = self.tables.dataset(RECOMMENDATIONS).scanner(columns=keys, filter=pc.field(c.USER_ID) != c.ANYBODY)
        for batch in scanner.to_batches():
            joined = pc.binary_join(batch.column(c.SOURCES), ",")
            frame = pd.DataFrame({c.TASK: batch.column(c.TASK), c.LIST: batch.column(c.LIST), c.SOURCES: joined})
            parts.append(frame.groupby(keys, as_index=False).size())
        if not parts:
            return pd.DataFrame(columns=[*keys, "rows"])
        summed = pd.concat(parts).rename(columns={"size": "rows"}).groupby(keys, as_index=False).sum()
        known = {name: place for place, name in enumerate(self.settings.recommendations.lists)}
        return summed.sort_values(keys, key=lambda values: values.map(lambda value: (known.get(value, 99), value)))

    @property
    def _served(self) -> set[str]:
        """Model versions that are served; unreadable pointers are reported by the training section."""
        if self.published is not None:
            return set(self.published.values())
        try:
            return {training.model_version for training in self.trainings}
        except (OSError, ValueError, KeyError):
            return set()

    def _sequences(self, users: list[str]) -> dict[str, list[tuple[str, str]]]:
        """(item_id, scene) of every user's all-scene sequence, newest first."""
        where = pc.field(c.USER_ID).isin(users) & (pc.field(c.TASK) == ALL_TASK)
        rows = self.tables.frame(USER_SEQUENCES, [c.USER_ID, c.ITEM_INDICES, c.SCENES], where)
        indices = sorted({int(index) for row in rows[c.ITEM_INDICES] for index in row})
        words = self.tables.frame(ITEM_VOCABULARY, [c.ITEM_ID, c.ITEM_INDEX], pc.field(c.ITEM_INDEX).isin(indices))
        item_ids = dict(zip(words[c.ITEM_INDEX], words[c.ITEM_ID], strict=True))
        return {
            user: [(item_ids.get(int(i), f"#{i}"), scene) for i, scene in zip(items, scenes, strict=True)][::-1]
            for user, items, scenes in zip(rows[c.USER_ID], rows[c.ITEM_INDICES], rows[c.SCENES], strict=True)
        }

    def _future(self, users: list[str]) -> dict[str, frozenset[str]]:
        """Items of each user in the test days after `as_of`."""
        end = self.settings.as_of + timedelta(days=self.settings.evaluation.test_days)
        where = pc.field(c.USER_ID).isin(users) & ~self._is_known & (pc.field(c.EVENT_TS) < _instant(end))
        rows = self.tables.frame(EVENTS, [c.USER_ID, c.ITEM_ID], where)
        return {str(user): frozenset(group) for user, group in rows.groupby(c.USER_ID)[c.ITEM_ID]}


def read_metric_log(text: str) -> pd.DataFrame:
    """The text of a ``metrics.jsonl`` as a frame; an incomplete line is left out."""
    records = []
    for line in text.splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(record, dict):
            validation = record.pop("validation", None) or {}
            records.append(record | {f"validation_{key}": value for key, value in validation.items()})
    frame = pd.DataFrame(records)
    if len(frame) and "step" not in frame:
        frame["step"] = range(1, len(frame) + 1)
    return frame


def _candidate_lists(rows: pd.DataFrame) -> dict[tuple[str, str], list[tuple[str, str | None]]]:
    lists: dict[tuple[str, str], list[tuple[str, str | None]]] = {}
    for row in records(rows.sort_values([c.TASK, c.SOURCE, c.RANK])):
        lists.setdefault((row.task, row.source), []).append((row.item_id, row.seed_item_id))
    return lists


def _instant(time: datetime) -> pa.Scalar:
    return pa.scalar(time, pa.timestamp("us", tz="UTC"))


def records(frame: pd.DataFrame) -> Iterator[Any]:
    """Named tuples, one per row; untyped, because the columns of a frame are known only when it is read."""
    return iter(frame.itertuples(index=False))
