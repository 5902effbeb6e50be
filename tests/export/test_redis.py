"""What is published reaches Redis whole, bit for bit, and its readers in one step, whatever ends the job."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import schemas
from jobs.export_vectors import main
from precise_core import consume
from precise_core.errors import CheckpointError, StoreError
from precise_core.export.config import ExportConfig, RedisConfig
from precise_core.export.published import VectorSet, published_sets
from precise_core.export.push import Pushed, push
from precise_core.export.redis_store import RedisStore
from precise_core.export.stores import REDIS_PASSWORD, opened_stores
from schemas import columns as c
from tests.night import CONFIG
from tests.redis_server import PASSWORD, RedisServer, running_redis
from tests.serving.world import DELETED, USERS, World, wait_until

CURRENT = "precise:current"


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with running_redis() as started:
        yield started


@pytest.fixture
def client(server: RedisServer) -> Iterator[Any]:
    with closing(server.client()) as made:
        made.flushall()
        yield made


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path / "warehouse")
    made.publish(0)
    return made


def config_of(server: RedisServer, **changes: Any) -> ExportConfig:
    return ExportConfig(redis=RedisConfig(url=server.url), **{"batch_rows": 4, "sample": 5, "tries": 2} | changes)


def export(
    world: World, config: ExportConfig, tasks: list[str] | None = None, *, whole: bool = False
) -> dict[str, Pushed]:
    assert config.redis is not None
    with closing(RedisStore(config.redis, config, PASSWORD)) as store:
        sets = published_sets(world.root, tasks)
        return push(store, sets, config, whole=whole, only_these=tasks is not None, warn=pytest.fail)


def looked_up(client: Any, name: str, key: str) -> np.ndarray | None:
    """A vector as any reader finds it: two plain questions."""
    value = client.get(client.hget(CURRENT, name) + key.encode())
    return None if value is None else np.frombuffer(value, "<f4")


def living(world: World) -> list[str]:
    return [item for item in world.items if item not in ("item-1", DELETED)]


def require_published(client: Any, world: World, night: int) -> None:
    for task in ("all", "share"):
        version = f"{task}-{night}"
        assert client.hget(CURRENT, f"{task}:model_version") == version.encode()
        for kind, keys in (("users", USERS), ("items", living(world))):
            for key in keys:
                found = looked_up(client, f"{task}:{kind}", key)
                np.testing.assert_array_equal(found, np.float32(world.vector(version, key)))


def test_every_published_vector_is_there_bit_for_bit(server: RedisServer, client: Any, world: World) -> None:
    pushed = export(world, config_of(server))
    users, items = len(USERS), len(living(world))
    assert pushed["all:users"] == Pushed(users, users) and pushed["share:items"] == Pushed(items, items)
    require_published(client, world, 0)
    assert looked_up(client, "all:items", DELETED) is None  # deleted since
    assert looked_up(client, "all:users", "stranger") is None
    assert client.dbsize() == 1 + 2 * (users + items)


def test_what_is_the_same_is_not_sent_again(server: RedisServer, client: Any, world: World) -> None:
    config = config_of(server)
    export(world, config)
    assert all(done.sent == 0 for done in export(world, config).values())
    renamed, gone, new = USERS[2], USERS[3], "somebody new"
    own = world.vector
    try:
        USERS.remove(gone)
        USERS.append(new)
        world.vector = lambda version, key: own(version, key + "!" * (key == renamed))  # type: ignore[method-assign]
        world.publish(0)
        pushed = export(world, config)
        assert pushed["all:users"] == Pushed(len(USERS), 2)
        assert pushed["all:items"].sent == 0
        require_published(client, world, 0)
    finally:
        USERS.remove(new)
        USERS.insert(3, gone)
    assert looked_up(client, "all:users", gone) is None
    world.delete("item-9")
    assert {name: done.sent for name, done in export(world, config).items() if "items" in name} == {
        "all:items": 0, "share:items": 0,
    }  # fmt: skip
    assert looked_up(client, "all:items", "item-9") is None
    assert all(done.sent == done.rows for done in export(world, config, whole=True).values())


def test_what_was_replaced_goes_after_its_grace_and_can_come_back(
    server: RedisServer, client: Any, world: World
) -> None:
    config = config_of(server).model_copy(update={"redis": RedisConfig(url=server.url, grace_seconds=600)})
    client.set("precise:mine", "not a vector")
    export(world, config)
    held = client.hget(CURRENT, "all:users") + USERS[0].encode()
    before = world.version(schemas.PUBLISHED_MODELS)
    world.publish(1)
    export(world, config)
    np.testing.assert_array_equal(np.frombuffer(client.get(held), "<f4"), np.float32(world.vector("all-0", USERS[0])))
    require_published(client, world, 1)
    require_only_old_ones_expire(client)
    world.restore(schemas.PUBLISHED_MODELS, before)  # a rollback: what was on its way out stays
    assert all(done.sent == 0 for done in export(world, config).values())
    require_published(client, world, 0)
    require_only_old_ones_expire(client)


def require_only_old_ones_expire(client: Any) -> None:
    led_to = tuple(value for value in client.hgetall(CURRENT).values() if value.startswith(b"precise:"))
    kept = [key for key in client.scan_iter() if key.startswith((*led_to, b"precise:current", b"precise:mine"))]
    old = set(client.scan_iter()) - set(kept)
    assert kept and old
    assert {client.ttl(key) for key in kept} == {-1}
    assert all(0 < client.ttl(key) <= 600 for key in old)


def test_one_task_alone_leaves_the_others_as_they_are(server: RedisServer, client: Any, world: World) -> None:
    config = config_of(server)
    export(world, config)
    world.publish(1)
    assert set(export(world, config, ["share"])) == {"share:users", "share:items"}
    assert client.hget(CURRENT, "all:model_version") == b"all-0"
    assert client.hget(CURRENT, "share:model_version") == b"share-1"
    found = looked_up(client, "all:users", USERS[0])
    np.testing.assert_array_equal(found, np.float32(world.vector("all-0", USERS[0])))
    with pytest.raises(CheckpointError, match="published for nothing, only for all, share"):
        export(world, config, ["nothing"])


@pytest.mark.usefixtures("client")
def test_a_reader_never_sees_two_versions_at_once(server: RedisServer, world: World) -> None:
    config = config_of(server, batch_rows=2)
    export(world, config)
    is_over, wrong, seen = threading.Event(), list[str](), set[str]()

    def read() -> None:
        with closing(server.client()) as own:
            while not is_over.is_set():
                led_to = own.hgetall(CURRENT)
                versions = {task: led_to[f"{task}:model_version".encode()].decode() for task in ("all", "share")}
                if len({version.rpartition("-")[2] for version in versions.values()}) > 1:
                    wrong.append(f"two nights: {versions}")
                for task, version in versions.items():
                    for kind, key in (("users", USERS[1]), ("items", "item-7")):
                        value = own.get(led_to[f"{task}:{kind}".encode()] + key.encode())
                        if value != np.float32(world.vector(version, key)).tobytes():
                            wrong.append(f"{version} {key}")
                seen.update(versions.values())

    def read_and_tell() -> None:
        try:
            read()
        except Exception as error:
            wrong.append(repr(error))

    reader = threading.Thread(target=read_and_tell)
    reader.start()
    try:
        for night in (1, 2, 3):
            world.publish(night)
            export(world, config)
            wait_until(lambda night=night: bool(wrong) or f"share-{night}" in seen)
    finally:
        is_over.set()
        reader.join()
    assert wrong == []


def _export_that_breaks(root: Path, config: ExportConfig, break_it: Callable[[], object]) -> None:
    """``break_it`` when half of a set is sent."""

    def breaking(batches: Any, rows: int) -> Iterator[Any]:
        for batch in batches:
            if rows <= 0:
                break_it()
            rows -= len(batch[0])
            yield batch

    class Breaking(RedisStore):
        def send(self, vectors: VectorSet, batches: Any, *, whole: bool) -> int:
            return super().send(vectors, breaking(batches, vectors.rows // 2), whole=whole)

    assert config.redis is not None
    with closing(Breaking(config.redis, config, PASSWORD)) as store:
        push(store, published_sets(root), config, whole=False, only_these=False, warn=print)


def _end() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_run_changes_nothing_and_the_next_one_goes_on(server: RedisServer, client: Any, world: World) -> None:
    config = config_of(server)
    export(world, config)
    before, keys = client.hgetall(CURRENT), client.dbsize()
    world.publish(1)
    killed = get_context("spawn").Process(target=_export_that_breaks, args=(world.root, config, _end))
    killed.start()
    killed.join(120)
    assert killed.exitcode == -signal.SIGKILL
    half = client.dbsize() - keys
    assert 0 < half < len(USERS) and client.hgetall(CURRENT) == before
    require_published(client, world, 0)
    assert export(world, config)["all:users"] == Pushed(len(USERS), len(USERS) - half)
    require_published(client, world, 1)


def test_a_store_that_loses_or_changes_vectors_is_found_out(server: RedisServer, client: Any, world: World) -> None:
    class Losing(RedisStore):
        def send(self, vectors: VectorSet, batches: Any, *, whole: bool) -> int:
            sent = super().send(vectors, batches, whole=whole)
            key = self._prefix(vectors) + USERS[4].encode()
            self._client.delete(key) if vectors.task == "all" else self._client.set(key, b"1234")
            return sent

    config = config_of(server, sample=1000)
    export(world, config)
    before = client.hgetall(CURRENT)
    world.publish(1)
    assert config.redis is not None
    with closing(Losing(config.redis, config, PASSWORD)) as store:
        for tasks, said in ((["all"], "14 of 15 vectors of all:users are there"), (["share"], "1 of 15 vectors")):
            with pytest.raises(StoreError, match=said):
                push(store, published_sets(world.root, tasks), config, whole=False, only_these=True, warn=pytest.fail)
    assert client.hgetall(CURRENT) == before
    client.delete(before[b"all:users"] + USERS[0].encode())  # lost later: the next run puts it back
    world.publish(0)
    assert export(world, config)["all:users"].sent == 1


def test_a_full_store_and_one_that_is_down_are_told_in_one_line(
    server: RedisServer, client: Any, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(server)
    export(world, config)
    before = client.hgetall(CURRENT)
    world.publish(1)
    client.config_set("maxmemory", "1")
    try:
        with pytest.raises(StoreError, match=rf"{server.url}: .*maxmemory.*; readers still see"):
            export(world, config)
    finally:
        client.config_set("maxmemory", "0")
    assert client.hgetall(CURRENT) == before
    monkeypatch.setenv(REDIS_PASSWORD, "another secret")
    with pytest.raises(StoreError, match=rf"{server.url}: ") as refused, opened_stores(config):
        pass
    monkeypatch.setenv(REDIS_PASSWORD, PASSWORD)
    server.stop()
    try:
        with pytest.raises(StoreError, match=rf"{server.url}: .*refused") as down, opened_stores(config):
            pass
    finally:
        server.start()
    for told in (str(refused.value), str(down.value)):
        assert "secret" not in told and "\n" not in told
    export(world, config)  # it has come back empty
    require_published(client, world, 1)


@pytest.mark.parametrize("is_down", [True, False], ids=["down", "silent"])
def test_a_store_that_is_gone_half_way_is_told_in_one_line_and_the_next_run_goes_on(
    server: RedisServer, client: Any, world: World, is_down: bool
) -> None:
    config = config_of(server, timeout_seconds=0.5)
    export(world, config)
    world.publish(1)
    break_it, mend_it = (server.stop, server.start) if is_down else (server.fall_silent, server.go_on)
    try:
        with pytest.raises(StoreError, match=rf"{server.url}: .*; readers still see what they saw before\Z") as told:
            _export_that_breaks(world.root, config, break_it)
    finally:
        mend_it()
    assert "\n" not in str(told.value) and PASSWORD not in str(told.value)
    if not is_down:  # one that was down has come back empty
        require_published(client, world, 0)
    export(world, config)
    require_published(client, world, 1)


def test_what_goes_wrong_after_the_vectors_are_there_is_told_as_it_is(
    server: RedisServer, client: Any, world: World
) -> None:
    class Breaking(RedisStore):
        """Its server refuses writes from the switch on, or from what comes after it."""

        breaks_at = "switch"

        def switch(self, sets: Any, *, only_these: bool) -> None:
            self._break("switch")
            super().switch(sets, only_these=only_these)

        def remove_old(self) -> int:
            self._break("remove_old")
            return super().remove_old()

        def _break(self, step: str) -> None:
            if step == self.breaks_at:
                client.config_set("min-replicas-to-write", "1")

    config, warnings = config_of(server), list[str]()
    export(world, config)
    world.publish(1)
    assert config.redis is not None
    with closing(Breaking(config.redis, config, PASSWORD)) as store:
        how: dict[str, Any] = {"whole": False, "only_these": False, "warn": warnings.append}
        try:
            with pytest.raises(StoreError, match="; while readers were being switched; run the job again") as told:
                push(store, published_sets(world.root), config, **how)
            assert "still see" not in str(told.value) and warnings == []
            client.config_set("min-replicas-to-write", "0")
            store.breaks_at = "remove_old"
            push(store, published_sets(world.root), config, **how)
        finally:
            client.config_set("min-replicas-to-write", "0")
    require_published(client, world, 1)
    assert len(warnings) == 1 and "readers see the new version, what it replaced is not removed yet" in warnings[0]


def test_a_store_that_is_away_for_a_moment_is_waited_for(server: RedisServer, client: Any, world: World) -> None:
    server.stop()
    later = threading.Timer(0.5, server.start)
    later.start()
    try:
        export(world, config_of(server, tries=30))
    finally:
        later.join()
    require_published(client, world, 0)


def test_the_job_says_what_it_sent_and_writes_it_down(
    server: RedisServer, client: Any, world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*more: str) -> int:
        flags = ["--config", str(CONFIG), "--set", f"warehouse={world.root}", "--set", f"export.redis.url={server.url}"]
        return main([*flags, *more])

    monkeypatch.setenv(REDIS_PASSWORD, PASSWORD)
    assert run() == 0
    require_published(client, world, 0)
    said = capsys.readouterr().out
    assert f"all:users: {len(USERS)} vectors are there, {len(USERS)} of them sent now" in " ".join(said.split())
    assert run("--task", "share") == 0
    (first, second) = consume.read_table(world.root, "runs").sort_by("started_at").to_pylist()
    every = 2 * (len(USERS) + len(living(world)))
    assert (first["rows_in"], first["rows_out"], first["rows_rejected"]) == (every, every, 0)
    assert (second["rows_out"], second["rows_rejected"]) == (0, every // 2)
    assert dict(first["input_versions"]) == {
        table.name: world.version(table) for table in (schemas.PUBLISHED_MODELS, schemas.ITEMS, schemas.USER_EMBEDDINGS)
    }
    assert PASSWORD not in str([first, second])
    monkeypatch.delenv(REDIS_PASSWORD)
    capsys.readouterr()
    assert run() == 2
    assert "export_vectors failed: redis://127.0.0.1" in capsys.readouterr().out.replace("\n", " ")


def test_a_publication_without_vectors_of_a_kind_is_refused(server: RedisServer, world: World) -> None:
    rows = [{c.ITEM_ID: item, c.TITLE: item, c.IS_DELETED: True} for item in world.items]
    world.write(schemas.ITEMS, rows)
    with pytest.raises(StoreError, match="all:items: all-0 has no vectors"):
        export(world, config_of(server))
