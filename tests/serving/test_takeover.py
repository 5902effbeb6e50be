"""A publication is taken over whole, under requests, or refused and said; a rollback and an erasure likewise."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from datetime import timedelta
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from starlette.testclient import TestClient

import schemas
from precise_core import consume
from precise_core.artefacts import ROLLBACK_JOURNAL, SERVING
from precise_core.errors import EnvironmentProblem
from precise_core.serving.keeper import Keeper
from precise_core.serving.plan import Plan, plan
from precise_core.serving.prepare import prepare, prepared_elsewhere, remove_parts
from precise_core.serving.release import Release
from precise_core.store.local import locked
from precise_core.store.sums import verify_sums
from schemas import columns as c
from tests.serving.world import DELETED, MONDAY, USERS, World, client_of, wait_for, wait_until


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    made.publish(0)
    return made


def serves(client: TestClient) -> str:
    return str(client.get("/user_vector", params={"user_id": USERS[0]}).json().get(c.MODEL_VERSION))


@contextmanager
def asking(client: TestClient, world: World) -> Iterator[list[tuple[int, str, str]]]:
    """Ask all the while; every answer must be of one version throughout. Yields (status, path, version)."""
    answers: list[tuple[int, str, str]] = []
    is_over = threading.Event()

    def ask() -> None:
        number = 0
        while not is_over.is_set():
            number += 1
            user, task = USERS[number % len(USERS)], ("all", "share")[number % 2]
            path = ("/user_vector", "/recommend", "/similar")[number % 3]
            more = {"source": "u2i"} if path == "/recommend" else {}
            key = {"item_id": "item-7"} if path == "/similar" else {"user_id": user}
            got = client.get(path, params=key | {"task": task} | more)
            told = got.json()
            answers.append((got.status_code, path, told.get(c.MODEL_VERSION, "")))
            night = int(told[c.MODEL_VERSION].rpartition("-")[2])
            assert told[c.AS_OF] == (MONDAY + timedelta(days=night)).isoformat()
            if path == "/user_vector":
                expected = np.float32(world.vector(told[c.MODEL_VERSION], user))
                np.testing.assert_array_equal(np.float32(told["vector"]), expected)
            if path == "/recommend":
                best = told["items"][0]
                expected = np.dot(
                    world.vector(told[c.MODEL_VERSION], user), world.vector(told[c.MODEL_VERSION], best[c.ITEM_ID])
                )
                assert best[c.SCORE] == pytest.approx(expected, abs=1e-5)

    failed: list[BaseException] = []

    def ask_and_tell() -> None:
        try:
            ask()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=ask_and_tell) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield answers
    finally:
        is_over.set()
        for thread in threads:
            thread.join()
    if failed:
        raise failed[0]


def test_publications_and_a_rollback_are_taken_over_without_a_failed_request(world: World) -> None:
    with client_of(world) as client:
        wait_for(client, "/ready", "ready", True)
        at = {table: world.version(table) for table in (schemas.PUBLISHED_MODELS, schemas.RECOMMENDATIONS)}
        with asking(client, world) as answers:
            for night in (1, 2):
                world.publish(night)
                wait_until(lambda night=night: serves(client) == f"all-{night}")
            for table, version in at.items():
                world.restore(table, version)
            wait_until(lambda: serves(client) == "all-0")
        assert {status for status, _, _ in answers} == {200}
        assert {version for _, _, version in answers} >= {"all-0", "all-1", "all-2"}
        lists = {"user_id": USERS[0]}
        wait_until(lambda: client.get("/recommend", params=lists).json()[c.MODEL_VERSION] == "lists-0/all")
        assert client.get("/health").json()["status"] == "ok"


def break_bytes(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))


def damaged_index(world: World) -> None:
    break_bytes(world.index_folder("all-1") / "vectors.npy")


def half_an_index(world: World) -> None:
    (world.index_folder("share-1") / "index.faiss").unlink()


def index_of_another_checkpoint(world: World) -> None:
    folder = world.index_folder("all-1")
    folder.rename(folder.with_name("aside"))
    world.index_folder("all-0").rename(folder)


def lost_vectors(world: World) -> None:
    folder = world.root / "tables" / "user_embeddings" / "model_version=all-1"
    for file in folder.glob("*.parquet"):
        file.unlink()


def damaged_vectors(world: World) -> None:
    folder = world.root / "tables" / "user_embeddings" / "model_version=all-1"
    for file in folder.glob("*.parquet"):
        file.write_bytes(file.read_bytes()[:200])


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (damaged_index, "changed on disk"),
        (half_an_index, "missing in the folder"),
        (index_of_another_checkpoint, "its vectors are of 'all-0'"),
        (lost_vectors, "are gone"),
        (damaged_vectors, ""),
    ],
)
def test_a_damaged_publication_is_refused_and_said_and_the_old_one_goes_on(
    world: World, damage: Callable[[World], None], reason: str
) -> None:
    with client_of(world, retry_seconds=60.0, poll_seconds=0.05) as client:
        wait_for(client, "/ready", "ready", True)
        rows = world.version(schemas.PUBLISHED_MODELS)
        hidden = world.root / ROLLBACK_JOURNAL
        hidden.write_text("{}", encoding="utf-8")  # nothing is looked at while it is there
        world.publish(1)
        damage(world)
        hidden.unlink()
        wait_until(lambda: "rollback" not in str(told(client)) and told(client) is not None)
        health = client.get("/health").json()
        assert health["status"] == "behind" and reason in health["refused"]
        assert serves(client) == "all-0"
        assert client.get("/recommend", params={"user_id": USERS[1], "source": "u2i"}).status_code == 200
        world.restore(schemas.PUBLISHED_MODELS, rows)  # back to what is sound: no longer behind
        wait_until(lambda: told(client) is None)
        assert serves(client) == "all-0"


def test_a_disk_that_is_full_while_a_part_is_made_leaves_the_old_one_and_nothing_half_made(world: World) -> None:
    room = [True]

    def prepare_where_there_is_room(root: Path, found: Plan, known: Collection[str]) -> None:
        usual = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (usual[0] if room[0] else 600, usual[1]))
        try:
            prepare(root, found, known)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, usual)

    with client_of(world, prepare=prepare_where_there_is_room) as client:
        wait_for(client, "/ready", "ready", True)
        parts = {folder.name for folder in (world.root / SERVING).iterdir()}
        hidden = world.root / ROLLBACK_JOURNAL
        hidden.write_text("{}", encoding="utf-8")  # nothing is looked at while it is there
        wait_until(lambda: "rollback" in str(told(client)))
        world.publish(1)
        room[0] = False  # from here on the limit, which is the whole process's, meets the server's files alone
        hidden.unlink()
        wait_until(lambda: "cannot be made" in str(told(client)))
        assert "is its disk full" in told(client)
        assert serves(client) == "all-0"
        for folder in (world.root / SERVING).iterdir():
            assert folder.name in parts or (verify_sums(folder) is None and not folder.name.startswith("."))
        room[0] = True
        wait_until(lambda: serves(client) == "all-1")
        assert told(client) is None


def told(client: TestClient) -> Any:
    return client.get("/health").json()["refused"]


def test_nothing_is_taken_over_while_a_rollback_is_under_way(world: World) -> None:
    with client_of(world) as client:
        wait_for(client, "/ready", "ready", True)
        (world.root / ROLLBACK_JOURNAL).write_text("{}", encoding="utf-8")
        world.publish(1)
        wait_until(lambda: "rollback is under way" in str(told(client)))
        assert serves(client) == "all-0"
        (world.root / ROLLBACK_JOURNAL).unlink()
        wait_until(lambda: serves(client) == "all-1")


def test_an_item_deleted_after_the_publication_is_shown_no_more(world: World) -> None:
    with client_of(world) as client:
        wait_for(client, "/ready", "ready", True)
        before = {row[c.ITEM_ID] for row in everything(client)}
        assert "item-9" in before
        world.delete("item-9")
        wait_until(lambda: "item-9" not in {row[c.ITEM_ID] for row in everything(client)})
        assert {row[c.ITEM_ID] for row in everything(client)} == before - {"item-9"}


def everything(client: TestClient) -> list[dict[str, Any]]:
    got = client.get("/recommend", params={"user_id": USERS[0], "source": "u2i", "k": 100})
    return list(got.json()["items"])


def test_a_user_who_was_erased_is_in_no_file_of_the_server(world: World) -> None:
    gone = USERS[3]
    with client_of(world) as client:
        wait_for(client, "/ready", "ready", True)
        first = client.get("/version").json()["serving"]
        assert client.get("/user_vector", params={"user_id": gone}).status_code == 200
        USERS.remove(gone)
        try:
            world.publish(0)
        finally:
            USERS.insert(3, gone)
        rows = consume.read_table(world.root, "user_sequences").to_pylist()
        world.write(schemas.USER_SEQUENCES, [row for row in rows if row[c.USER_ID] != gone])
        wait_until(lambda: client.get("/version").json()["serving"] != first)
        wait_until(lambda: told(client) is None and not names(world.root / SERVING, gone))
        assert client.get("/user_vector", params={"user_id": gone}).status_code == 404


def names(folder: Path, user_id: str) -> list[Path]:
    files = [file for part in folder.glob("[!.]*") for file in part.glob("*")]
    return [file for file in files if file.is_file() and user_id.encode() in file.read_bytes()]


def test_a_part_that_was_damaged_is_made_again_and_old_ones_are_removed(world: World) -> None:
    served = world.served()
    found = plan(served)
    assert found is not None
    prepare(world.root, found, set())
    part = found.tasks["all"].vectors.folder(world.root)
    break_bytes(part / "vectors.npy")
    prepare(world.root, found, set())
    opened = Release.open(served, found, None)
    vector = opened.tasks["all"].users.of(USERS[0])
    assert vector is not None
    np.testing.assert_array_equal(vector, np.float32(world.vector("all-0", USERS[0])))
    world.publish(1)
    with client_of(world) as client:
        wait_until(lambda: not part.exists())
        assert serves(client) == "all-1"


def test_what_is_the_same_in_the_next_release_stays_mapped(world: World) -> None:
    served = world.served()
    first = plan(served)
    assert first is not None
    prepare(world.root, first, set())
    old = Release.open(served, first, None)
    world.delete("item-9")
    second = plan(served)
    assert second is not None and second.name != first.name
    prepare(world.root, second, set(old.opened))
    new = Release.open(served, second, old)
    assert new.tasks["all"].users is old.tasks["all"].users
    assert new.tasks["all"].index is old.tasks["all"].index
    assert old.catalog.deleted_indices.tolist() != new.catalog.deleted_indices.tolist()
    assert DELETED in old.catalog.item_ids(old.catalog.deleted_indices)


@pytest.mark.faults
def test_a_publication_is_prepared_in_a_process_of_its_own(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    found = plan(world.served())
    assert found is not None
    prepared_elsewhere(world.root, found, set())
    assert Release.open(world.served(), found, None).tasks["all"].users.of(USERS[0]) is not None
    monkeypatch.setattr("precise_core.serving.prepare._prepare_and_tell", _killed)
    prepared_elsewhere(world.root, found, set())  # a sound one is only verified, for which no process is started
    remove_parts(world.root)
    with pytest.raises(EnvironmentProblem, match="was killed"):
        prepared_elsewhere(world.root, found, set())


def _killed(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.faults
def test_the_process_that_prepares_ends_with_the_worker_that_is_killed(world: World) -> None:
    worker = multiprocessing.get_context("spawn").Process(target=_prepare_slowly, args=(world,))
    (world.root / SERVING).mkdir(exist_ok=True)
    with locked(world.root / SERVING / ".lock"):  # what prepares waits for it
        worker.start()
        wait_until(lambda: len(_working(worker)) == 1)
        (child,) = _working(worker)
        worker.kill()
        wait_until(lambda: not child.is_running())


def _prepare_slowly(world: World) -> None:
    found = plan(world.served())
    assert found is not None
    prepared_elsewhere(world.root, found, set())


def _working(worker: BaseProcess) -> list[psutil.Process]:
    assert worker.pid is not None
    children = psutil.Process(worker.pid).children()
    return [child for child in children if "resource_tracker" not in " ".join(child.cmdline())]


def test_parts_of_a_publication_that_came_meanwhile_are_left_alone(world: World) -> None:
    """Another worker has made them, and has not opened them yet."""

    def prepare_while_another_is_ahead(root: Path, found: Plan, known: Collection[str]) -> None:
        prepare(root, found, known)
        if "all-1" in {own.model_version for own in found.tasks.values()}:
            world.publish(2)
            newer = plan(world.served())
            assert newer is not None
            prepare(root, newer, known)
            made.update(newer.parts)

    made: set[str] = set()
    keeper = Keeper(world.served(), prepare_while_another_is_ahead)
    keeper.look()
    world.publish(1)
    keeper.look()
    assert keeper.release is not None and keeper.release.tasks["all"].model_version == "all-1"
    assert made and made <= {folder.name for folder in (world.root / SERVING).iterdir()}
    keeper.look()
    assert keeper.release.tasks["all"].model_version == "all-2"
