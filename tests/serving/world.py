"""A small published warehouse, written without Spark: users, items, vectors, an index, lists; and a server of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from deltalake import DeltaTable
from starlette.testclient import TestClient

import schemas
from precise_core.artefacts import INDEXES
from precise_core.config.tasks import TaskConfig
from precise_core.index.config import IndexConfig
from precise_core.index.index import build_index
from precise_core.recall.config import RecallConfig
from precise_core.serving.app import create_app
from precise_core.serving.config import ServingConfig
from precise_core.serving.keeper import Keeper
from precise_core.serving.prepare import prepare
from precise_core.serving.served import Served
from schemas import Table
from schemas import columns as c
from tests.fake_warehouse import put

MONDAY = datetime(2024, 3, 4, tzinfo=UTC)
USERS = [f"user-{number}" for number in range(12)] + ["a/b?c", "../../etc/passwd", "Jürgen"]
NEWCOMER = "newcomer"  # was shown something, but did nothing
ITEMS, WIDTH = 40, 8
DELETED = "item-3"
TASKS = {"share": TaskConfig(action="share")}


class World:
    """Nights that publish; a model is named after the night, and so is what its vectors are drawn from."""

    def __init__(self, root: Path) -> None:
        self.root = root
        draw = np.random.default_rng(5)
        self.items = [f"item-{number}" for number in range(ITEMS)]
        events = [
            {c.EVENT_ID: f"{user}-{n}", c.USER_ID: user, c.ITEM_ID: f"item-{int(draw.integers(ITEMS - 5))}",
             c.SCENE: "s", c.ACTION: "share" if n % 4 == 0 else "click", c.EVENT_TS: MONDAY - timedelta(days=9 - n),
             c.EVENT_DATE: (MONDAY - timedelta(days=9 - n)).date()}
            for user in USERS for n in range(9)
        ]  # fmt: skip
        self.histories = {user: [row[c.ITEM_ID] for row in events if row[c.USER_ID] == user] for user in USERS}
        titles = [{c.ITEM_ID: item, c.TITLE: f"Title of {item}", c.IS_DELETED: item == DELETED} for item in self.items]
        self.write(schemas.EVENTS, events)
        self.write(schemas.ITEMS, titles)
        words = [{c.ITEM_ID: item, c.ITEM_INDEX: 2 + place} for place, item in enumerate(self.items)]
        self.write(schemas.ITEM_VOCABULARY, words)
        self.write(schemas.USER_SEQUENCES, list(self._sequences(events)))

    def publish(self, night: int) -> str:
        """Encode, index, list and publish; returns the checkpoint of `all`."""
        as_of = MONDAY + timedelta(days=night)
        rows, versions = [], {task: f"{task}-{night}" for task in ("all", *TASKS)}
        users = [
            {c.USER_ID: user, c.TASK: task, c.MODEL_VERSION: version, c.EMBEDDING: self.vector(version, user),
             c.AS_OF: as_of}
            for task, version in versions.items() for user in USERS
        ]  # fmt: skip
        self.write(schemas.USER_EMBEDDINGS, users)
        self.write(schemas.RECOMMENDATIONS, list(self._lists(f"lists-{night}", as_of)))
        at = {table.name: self.version(table) for table in (schemas.USER_EMBEDDINGS, schemas.USER_SEQUENCES)}
        for task, version in versions.items():
            self.index(version)
            row = {c.TASK: task, c.MODEL_VERSION: version, c.AS_OF: as_of, c.INDEX_VERSION: f"{version}-index"}
            rows.append(row | {"table_versions": list(at.items()), "published_at": as_of, c.VALID_FROM: as_of})
        self.write(schemas.PUBLISHED_MODELS, rows)
        return versions["all"]

    def index(self, version: str) -> None:
        living = [item for item in self.items if item != "item-1"]  # deleted before the model was published
        vectors = np.array([self.vector(version, item) for item in living], np.float32)
        places = np.array([2 + self.items.index(item) for item in living], np.int32)
        queries = np.array([self.vector(version, f"after {item}") for item in living], np.float32)
        built = build_index(
            living, places, vectors, model_version=version, config=IndexConfig(), seed=1, seed_queries_ND=queries
        )
        built.save(self.index_folder(version))

    def index_folder(self, version: str) -> Path:
        return self.root / INDEXES / f"{version}-index"

    def vector(self, version: str, key: str) -> list[float]:
        """Of one checkpoint and one user or item; the same every time."""
        drawn = np.random.default_rng([*f"{version} {key}".encode()]).normal(size=WIDTH)
        return list(map(float, (drawn / np.linalg.norm(drawn)).astype(np.float32)))

    def write(self, table: Table, rows: list[dict[str, Any]]) -> None:
        """Replace a table."""
        put(self.root, table, rows, "overwrite")

    def version(self, table: Table) -> int:
        return int(DeltaTable(self.root / "tables" / table.name).version())

    def restore(self, table: Table, version: int) -> None:
        DeltaTable(self.root / "tables" / table.name).restore(version)

    def delete(self, item: str) -> None:
        """Take an item out of the catalog, as `ingest` does, after everything was published."""
        rows = [
            {c.ITEM_ID: one, c.TITLE: f"Title of {one}", c.IS_DELETED: one in (item, DELETED)} for one in self.items
        ]
        self.write(schemas.ITEMS, rows)

    def served(self, **serving: Any) -> Served:
        config = {"poll_seconds": 0.05, "retry_seconds": 0.05} | serving
        return Served(
            warehouse=str(self.root), tasks=TASKS, recall=RecallConfig(k=10, seeds=3, neighbours=6),
            serving=ServingConfig(**config),
        )  # fmt: skip

    def _sequences(self, events: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for task in ("all", "share"):
            for user in USERS:
                mine = [row for row in events if row[c.USER_ID] == user and task in ("all", row[c.ACTION])]
                yield {
                    c.USER_ID: user, c.TASK: task, c.LENGTH: len(mine), c.BUCKET: len(user) % 2,
                    c.ITEM_INDICES: [2 + self.items.index(row[c.ITEM_ID]) for row in mine],
                    c.EVENT_TS: [row[c.EVENT_TS] for row in mine], c.SCENES: ["s"] * len(mine),
                    c.LAST_EVENT_TS: mine[-1][c.EVENT_TS],
                }  # fmt: skip

    def _lists(self, ranked_by: str, as_of: datetime) -> Iterator[dict[str, Any]]:
        for user in (*USERS, c.ANYBODY):
            for task in ("all", "share"):
                for name in ("all", "new", "repeat")[: 2 if user == c.ANYBODY else 3]:
                    for rank in range(1, 6):
                        yield {
                            c.USER_ID: user, c.TASK: task, c.LIST: name, c.RANK: rank,
                            c.ITEM_ID: f"item-{(len(user) + len(name) + 7 * rank) % ITEMS}", c.SCORE: 1 / rank,
                            c.SOURCES: ["history", "u2i"], c.REASON: f"taken {rank} times before",
                            c.MODEL_VERSION: f"{ranked_by}/{name}", c.AS_OF: as_of,
                        }  # fmt: skip


@contextmanager
def client_of(
    world: World, token: str | None = None, prepare: Callable[..., None] = prepare, **serving: Any
) -> Iterator[TestClient]:
    """A client of the real application; a publication is prepared in this process."""
    served = world.served(**serving)
    app = create_app(served, token, Keeper(served, prepare))
    with TestClient(app, base_url="http://127.0.0.1") as client:
        yield client


def wait_until(is_time: Callable[[], bool]) -> None:
    """Look again and again, for a minute at most."""
    for _ in range(6000):
        if is_time():
            return
        time.sleep(0.01)
    raise AssertionError("it never was")


def wait_for(client: TestClient, path: str, key: str, value: Any) -> None:
    """Ask until the answer has a value."""
    for _ in range(2000):
        if client.get(path).json().get(key) == value:
            return
    raise AssertionError(f"{path}: {key} is {client.get(path).json().get(key)!r}, not {value!r}")
