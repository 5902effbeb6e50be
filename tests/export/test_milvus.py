"""What is published reaches Milvus: `make test-milvus`, with Milvus Lite in an environment of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import schemas
from precise_core.errors import StoreError
from precise_core.export.config import ExportConfig, MilvusConfig
from precise_core.export.milvus_store import MilvusStore
from precise_core.export.published import VectorSet, published_sets
from precise_core.export.push import Pushed, push
from schemas import columns as c
from tests.serving.world import DELETED, USERS, World

pytestmark = pytest.mark.milvus


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path / "warehouse")
    made.publish(0)
    return made


@pytest.fixture
def config(tmp_path: Path) -> ExportConfig:
    return ExportConfig(milvus=MilvusConfig(uri=str(tmp_path / "milvus.db"), users=True), batch_rows=4, tries=2)


def store_of(config: ExportConfig, kind: type[MilvusStore] = MilvusStore) -> closing[MilvusStore]:
    assert config.milvus is not None
    return closing(kind(config.milvus, config, None))


def export(world: World, store: MilvusStore, tasks: list[str] | None = None, **how: Any) -> dict[str, Pushed]:
    config = store._export
    return push(
        store,
        published_sets(world.root, tasks),
        config,
        **{"whole": False, "only_these": bool(tasks), "warn": pytest.fail} | how,
    )


def living(world: World) -> list[str]:
    return [item for item in world.items if item not in ("item-1", DELETED)]


def require_published(store: MilvusStore, world: World, night: int, tasks: tuple[str, ...] = ("all", "share")) -> None:
    """Searching by the alias finds what exact search finds."""
    for task in tasks:
        version, items = f"{task}-{night}", living(world)
        vectors = np.float32([world.vector(version, item) for item in items])
        for user in USERS[:3]:
            asked = np.float32(world.vector(version, user))
            fields = ["id", c.MODEL_VERSION]
            (found,) = store._client.search(f"precise_{task}_items", [asked.tolist()], limit=5, output_fields=fields)
            expected = [items[row] for row in np.argsort(-(vectors @ asked))[:5]]
            assert [one["entity"]["id"] for one in found] == expected
            assert {one["entity"][c.MODEL_VERSION] for one in found} == {version}


def collections(store: MilvusStore) -> set[str]:
    return {name.rpartition("_")[0] + "/" + name[-16:] for name in store._client.list_collections()}


def test_a_publication_is_searched_by_its_alias(world: World, config: ExportConfig) -> None:
    with store_of(config) as store:
        pushed = export(world, store)
        assert pushed["all:items"] == Pushed(len(living(world)), len(living(world)))
        require_published(store, world, 0)
        assert store._client.query("precise_all_users", filter="", output_fields=["count(*)"])[0]["count(*)"] == 15
        assert all(done.sent == 0 for done in export(world, store).values())
        world.publish(1)
        first = collections(store)
        export(world, store, ["share"])
        require_published(store, world, 0, ("all",))
        require_published(store, world, 1, ("share",))
        export(world, store)
        assert len(collections(store) & first) == 2  # those of `all`, replaced just now
        before = world.version(schemas.PUBLISHED_MODELS)
        world.publish(2)
        export(world, store)
        assert not collections(store) & first
        require_published(store, world, 2)
        world.restore(schemas.PUBLISHED_MODELS, before)
        export(world, store)
        require_published(store, world, 1)


class _Ends(Exception):
    pass


class _Ending(MilvusStore):
    """Ends when half of the users are sent."""

    def send(self, vectors: VectorSet, batches: Any, *, whole: bool) -> int:
        def half() -> Iterator[Any]:
            for number, batch in enumerate(batches):
                if number == 2:
                    raise _Ends
                yield batch

        return super().send(vectors, half(), whole=whole)


def test_a_push_that_ends_half_way_changes_nothing_and_the_next_one_starts_cleanly(
    world: World, config: ExportConfig
) -> None:
    with store_of(config) as store:
        export(world, store)
    world.publish(1)
    with store_of(config, _Ending) as ending, pytest.raises(_Ends):
        export(world, ending)
    with store_of(config) as store:
        require_published(store, world, 0)
        export(world, store)
        require_published(store, world, 1)


def test_a_store_that_loses_vectors_is_found_out_and_one_that_is_down_is_told_in_one_line(
    world: World, config: ExportConfig
) -> None:
    class Losing(MilvusStore):
        def send(self, vectors: VectorSet, batches: Any, *, whole: bool) -> int:
            sent = super().send(vectors, batches, whole=whole)
            self._client.delete(self._collection(vectors), ids=[3])
            return sent

    with store_of(config, Losing) as losing, pytest.raises(StoreError, match="14 of 15 vectors of all:users are there"):
        export(world, losing)
    assert config.milvus is not None
    down = config.model_copy(update={"milvus": MilvusConfig(uri="http://127.0.0.1:1"), "timeout_seconds": 1.0})
    with pytest.raises(StoreError, match=r"^http://127.0.0.1:1: .*\Z") as told:
        MilvusStore(down.milvus, down, "name:secret")  # type: ignore[arg-type]
    assert "secret" not in str(told.value) and "\n" not in str(told.value)
