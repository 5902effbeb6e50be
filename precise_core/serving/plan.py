"""What is published at this moment, and the parts that a server of it needs: nothing is read but logs.

A part is a folder under `<warehouse>/serving` (of an object store in the cache of this machine), named after what it is
made of, so that one that is there already serves the next publication too, and a publication that was gone back to is
the same plan again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from precise_core.artefacts import ROLLBACK_JOURNAL, SERVING, TABLES
from precise_core.config.tasks import ALL_TASK
from precise_core.consume.publications import published_now
from precise_core.errors import HistoryGoneError, InterruptedRollbackError, MissingTableError
from precise_core.serving.served import Served
from precise_core.store import Place, store_at
from precise_core.warehouse.places import sizes_of
from precise_core.warehouse.reader import TableReader
from schemas import ITEM_VOCABULARY, ITEMS, PUBLISHED_MODELS, RECOMMENDATIONS, USER_EMBEDDINGS, USER_SEQUENCES, Table
from schemas import columns as c

_READ = (PUBLISHED_MODELS, RECOMMENDATIONS, USER_EMBEDDINGS, USER_SEQUENCES, ITEM_VOCABULARY, ITEMS)
_FORMAT = 2  # of the files of a part; another one is made anew


@dataclass(frozen=True)
class Part:
    """A folder to be mapped: its kind, what it is made from, and a digest of the content of that."""

    kind: str
    about: dict[str, Any]
    digest: str

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.digest}"

    def folder(self, warehouse: Place) -> Path:
        return store_at(warehouse).scratch / SERVING / self.name


@dataclass(frozen=True)
class PublishedTask:
    """A row of `published_models` and the parts of its users; ``popularity`` is that of its ``as_of``."""

    task: str
    model_version: str
    as_of: datetime
    index_version: str
    published_at: datetime
    vectors: Part
    histories: Part
    popularity: Part


@dataclass(frozen=True)
class Plan:
    """Everything that is published: vectors by task, lists by task, and what all of them share.

    ``everywhere`` are the histories of `all`, of every user: what was seen, and what the page shows.
    """

    tasks: dict[str, PublishedTask]
    lists: dict[str, Part]
    everywhere: Part
    catalog: Part

    @property
    def parts(self) -> dict[str, Part]:
        """By name."""
        of_tasks = [part for own in self.tasks.values() for part in (own.vectors, own.histories, own.popularity)]
        return {part.name: part for part in (*of_tasks, *self.lists.values(), self.everywhere, self.catalog)}

    @property
    def indexes(self) -> dict[str, str]:
        """model_version by index_version."""
        return {own.index_version: own.model_version for own in self.tasks.values()}

    @property
    def name(self) -> str:
        """The same for the same content, whatever the versions of the tables are called."""
        of_tasks = [[own.task, own.model_version, own.as_of.isoformat()] for own in self.tasks.values()]
        return _digest([sorted(self.parts), sorted(self.indexes), of_tasks])


def state_of_logs(warehouse: Place) -> object:
    """Equal as long as ``plan`` would find the same; it costs a look at some folders."""
    store = store_at(warehouse)
    logs = [store.state(f"{TABLES}/{table.name}/_delta_log") for table in _READ]
    return store.get(ROLLBACK_JOURNAL) is None, logs


def plan(served: Served) -> Plan | None:
    """What is to be served now; None where nothing is published and no lists are there.

    Raises:
        InterruptedRollbackError: A rollback is under way or was interrupted.
        HistoryGoneError: Published vectors cannot be read any more.
        MissingTableError: A table that is needed is not there.
    """
    if store_at(served.root).get(ROLLBACK_JOURNAL) is not None:
        raise InterruptedRollbackError("a rollback is under way: nothing is taken over before it has ended")
    rows, tables = published_now(served.root), TableReader(served.root)
    lists = _lists(tables)
    if not rows and not lists:
        return None
    catalog = _part("catalog", tables, [(ITEM_VOCABULARY, None, {}), (ITEMS, None, {})], {})
    tasks = {task: _task(tables, served, row) for task, row in sorted(rows.items())}
    everywhere = _histories(tables, ALL_TASK)
    return Plan(tasks, lists, everywhere, catalog)


def _task(tables: TableReader, served: Served, row: Mapping[str, Any]) -> PublishedTask:
    task, model_version = row[c.TASK], row[c.MODEL_VERSION]
    source = (USER_EMBEDDINGS, row["table_versions"][USER_EMBEDDINGS.name], {c.MODEL_VERSION: model_version})
    counted = {
        "as_of": row[c.AS_OF].isoformat(),
        "days": served.recall.popular_days,
        "tasks": {name: rule.model_dump() for name, rule in served.tasks.items()},
    }
    return PublishedTask(
        task,
        model_version,
        row[c.AS_OF],
        row[c.INDEX_VERSION],
        row["published_at"],
        vectors=_part("vectors", tables, [source], {c.TASK: task, "model_version": model_version}),
        histories=_histories(tables, task),
        # Not named after the events: those before `as_of` do not change, others are not counted.
        popularity=_part("popularity", tables, [(ITEM_VOCABULARY, None, {})], counted),
    )


def _histories(tables: TableReader, task: str) -> Part:
    """The newest ones, as the job `recall` reads them: a user who was erased is gone without another publication."""
    return _part("histories", tables, [(USER_SEQUENCES, None, {c.TASK: task})], {c.TASK: task})


def _lists(tables: TableReader) -> dict[str, Part]:
    try:
        tasks = tables.snapshot(RECOMMENDATIONS).partition_values(c.TASK)
    except MissingTableError:
        return {}
    return {task: _part("lists", tables, [(RECOMMENDATIONS, None, {c.TASK: task})], {c.TASK: task}) for task in tasks}


def _part(
    kind: str, tables: TableReader, sources: list[tuple[Table, int | None, dict[str, str]]], about: dict[str, Any]
) -> Part:
    """A part made of partitions of tables at a version, None being the newest; their files are its content."""
    files: list[str] = []
    versions: dict[str, int] = {}
    for table, version, partition in sources:
        snapshot = tables.snapshot(table, version)
        folder = tables.path(table)
        found = [file.removeprefix("file://").removeprefix(f"{folder}/") for file in snapshot.files(partition)]
        if gone := [file for file, size in zip(found, sizes_of(folder, found), strict=True) if size is None]:
            raise HistoryGoneError(
                f"table {table.name}: files of version {snapshot.version} are gone, the first is {Path(gone[0]).name}; "
                "run jobs/publish_models.py to publish the vectors that are there"
            )
        files += found
        versions[table.name] = snapshot.version
    return Part(kind, about | {"versions": versions}, _digest([_FORMAT, kind, files, about]))


def _digest(described: Any) -> str:
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]
