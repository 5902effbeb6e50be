"""An `events` table that changes from night to night, the sequences brought forward over it, and a pandas oracle."""

from __future__ import annotations

import copy
import shutil
from argparse import Namespace
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from deltalake import DeltaTable, write_deltalake
from pyspark.sql import SparkSession

from jobs.build_sequences import write_sequences
from precise_core.config import load_config
from precise_core.config.tasks import TaskConfig
from precise_core.run.job import Job
from precise_core.sequences.config import SequencesConfig
from precise_core.sequences.night import check_sequences, prepare_sequences
from precise_core.settings import Settings
from precise_core.warehouse.tables import Warehouse
from schemas import EVENTS, ITEM_VOCABULARY, USER_SEQUENCES
from tests.night import CONFIG
from tests.oracles import AS_OF, TASKS, Event

DAY = timedelta(days=1)
SEQUENCES = SequencesConfig(max_length=4, max_lengths={"share": 2}, buckets=3)

Rows = dict[tuple[str, str], tuple[list[int], list[str], list[datetime]]]


class TalkingJob(Job):
    """A job that remembers what it said."""

    def __init__(self, settings: Settings) -> None:
        super().__init__("build_sequences", settings, Namespace())
        self.said: list[str] = []

    def say(self, message: str) -> None:
        self.said.append(message)


@dataclass
class Night:
    """What a night did to `user_sequences`."""

    version: int
    said: str
    files_before: set[str]
    files: set[str]

    @property
    def rewritten(self) -> set[str]:
        """task=.../bucket=... of the files that came."""
        return {str(Path(file).parent.relative_to(Path(file).parents[2])) for file in self.files - self.files_before}

    @property
    def was_full(self) -> bool:
        return "full build:" in self.said


class World:
    """Events by id, written to Delta as they change, and the configuration of the next night."""

    def __init__(self, spark: SparkSession, folder: Path, items: int = 6) -> None:
        self.spark, self.warehouse = spark, Warehouse(str(folder))
        self.events: dict[str, Event] = {}
        self.vocabulary: dict[str, int] = {}
        self.as_of, self.tasks, self.sequences = AS_OF, dict(TASKS), SEQUENCES
        self.warehouse.create_if_missing(EVENTS)
        self.add_items(f"i{number}" for number in range(items))

    def copy_to(self, folder: Path) -> World:
        """The same world in a warehouse of its own."""
        shutil.copytree(self.warehouse.root, folder)
        other = copy.copy(self)
        other.warehouse, other.tasks = Warehouse(str(folder)), dict(self.tasks)
        other.events, other.vocabulary = dict(self.events), dict(self.vocabulary)
        return other

    def add_items(self, items: Iterable[str]) -> None:
        for item in items:
            self.vocabulary[item] = len(self.vocabulary) + 2
        rows = [{"item_id": i, "item_index": n, "first_seen": AS_OF} for i, n in self.vocabulary.items()]
        self.warehouse.replace_records(ITEM_VOCABULARY, rows)

    def put(self, *events: Event) -> None:
        """Append what is new and update what is known under its id."""
        known = [event for event in events if event.event_id in self.events]
        new = [event for event in events if event.event_id not in self.events]
        self.events |= {event.event_id: event for event in events}
        if new:
            write_deltalake(self.events_path, events_table(new), mode="append")
        if known:
            merge = DeltaTable(self.events_path).merge(
                events_table(known), "t.event_id = s.event_id", source_alias="s", target_alias="t"
            )
            merge.when_matched_update_all().execute()

    def delete(self, *event_ids: str) -> None:
        self.events = {key: event for key, event in self.events.items() if key not in event_ids}
        DeltaTable(self.events_path).delete(f"event_id IN ({', '.join(map(repr, event_ids))})")

    def erase(self, user: str) -> None:
        self.events = {key: event for key, event in self.events.items() if event.user_id != user}
        DeltaTable(self.events_path).delete(f"user_id = '{user}'")

    @property
    def events_path(self) -> str:
        return self.warehouse.path(EVENTS)

    @property
    def sequences_path(self) -> str:
        return self.warehouse.path(USER_SEQUENCES)

    def settings(self) -> Settings:
        base = load_config(CONFIG, Settings, [f"warehouse={self.warehouse.root}"]).model_dump()
        changes = {"as_of": self.as_of, "tasks": self.tasks, "sequences": self.sequences}
        return Settings.model_validate(base | changes | {"ranking_features": {}, "experiment": {}})

    def night(self, *, full: bool = False, check: int = 0) -> Night:
        """Build, compare with the oracle, and tell what was done."""
        before = self._files()
        job = TalkingJob(self.settings())
        update = prepare_sequences(job, full=full)
        if check:
            check_sequences(job, update, check)
        if update:
            write_sequences(job, update)
        job.release()
        assert self.stored() == expected(self.events.values(), self.vocabulary, self.tasks, self.as_of, self.sequences)
        return Night(self.warehouse.version(USER_SEQUENCES), "\n".join(job.said), before, self._files())

    def _files(self) -> set[str]:
        return set(DeltaTable(self.sequences_path).file_uris()) if self.warehouse.exists(USER_SEQUENCES) else set()

    def bucket_of(self, user: str) -> int:
        table = self.warehouse.read_arrow(USER_SEQUENCES, self.warehouse.version(USER_SEQUENCES))
        return next(row["bucket"] for row in table.to_pylist() if row["user_id"] == user)

    def stored(self) -> Rows:
        table = self.warehouse.read_arrow(USER_SEQUENCES, self.warehouse.version(USER_SEQUENCES))
        rows = table.to_pylist()
        found = {(row["user_id"], row["task"]): (row["item_indices"], row["scenes"], row["event_ts"]) for row in rows}
        assert len(found) == len(rows), "a user and task has two rows"
        for row in rows:
            assert row["length"] == len(row["item_indices"]) and row["last_event_ts"] == row["event_ts"][-1]
            assert 0 <= row["bucket"] < self.sequences.buckets
        return found


def events_table(events: Iterable[Event]) -> pa.Table:
    columns = ("event_id", "user_id", "item_id", "scene", "action")
    rows = [
        {name: getattr(event, name) for name in columns}
        | {"event_ts": event.ts, "event_date": event.ts.date(), "value": None}
        for event in events
    ]
    return pa.Table.from_pylist(rows, schema=EVENTS.arrow_schema())


def expected(
    events: Iterable[Event],
    vocabulary: Mapping[str, int],
    tasks: Mapping[str, TaskConfig],
    as_of: datetime,
    config: SequencesConfig,
) -> Rows:
    """The last N of every user and task, by sorting everything in pandas."""
    columns = ["ts", "event_id", "user_id", "item_id", "scene", "action"]
    log = pd.DataFrame([[getattr(event, name) for name in columns] for event in events], columns=columns)
    log = log[log["ts"] < as_of].sort_values(["ts", "event_id"])
    result: Rows = {}
    for name, task in {"all": None, **tasks}.items():
        of_task = log
        for column in ("scene", "action"):
            value = getattr(task, column, None)
            of_task = of_task if value is None else of_task[of_task[column] == value]
        for user, line in of_task.groupby("user_id"):
            last = line.tail(config.length_of(name))
            indices = [vocabulary.get(item, 1) for item in last["item_id"]]
            result[str(user), name] = (indices, list(last["scene"]), [ts.to_pydatetime() for ts in last["ts"]])
    return result


def event(
    number: int, user: str, hours: float, item: str = "i1", scene: str = "videos", action: str = "click"
) -> Event:
    """An event ``hours`` after ``AS_OF``."""
    return Event(AS_OF + timedelta(hours=hours), f"e{number:04d}", user, item, scene, action)


def moved(one: Event, **changes: Any) -> Event:
    """A correction: the same id, something else."""
    return replace(one, **changes)
