"""Lock and leases of a warehouse in an object store: who lives keeps it, who is silent loses it, and is told."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
import uuid
from argparse import Namespace
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from precise_core.errors import StoreError, WarehouseBusyError
from precise_core.run.job import Job
from precise_core.store import store_at
from precise_core.warehouse import heartbeats
from precise_core.warehouse.heartbeats import remote_lock
from precise_core.warehouse.holders import LOCK_FILE, Holder
from precise_core.warehouse.locks import leases, reader_lease, require_held, warehouse_lock
from schemas import ITEM_VOCABULARY
from tests.fake_warehouse import settings_of
from tests.moto_server import s3_server

LIFE_SECONDS = 2.0  # the clock of the store counts whole seconds

HOLDER = """
import sys
from precise_core.errors import StoreError, WarehouseBusyError
from precise_core.warehouse import heartbeats
from precise_core.warehouse.locks import reader_lease, require_held, warehouse_lock

heartbeats.BEAT_SECONDS, heartbeats.LIFE_SECONDS = 0.2, 2.0
with warehouse_lock(sys.argv[1]) as before, reader_lease(sys.argv[1], "export", {"events": 3}):
    print("held", flush=True)
    for line in sys.stdin:
        try:
            require_held(sys.argv[1])
            print("still held", flush=True)
        except WarehouseBusyError as error:
            print(error, flush=True)
"""


@pytest.fixture
def root(lake: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(heartbeats, "BEAT_SECONDS", 0.2)
    monkeypatch.setattr(heartbeats, "LIFE_SECONDS", LIFE_SECONDS)
    return f"{lake}/{uuid.uuid4().hex}"


@contextmanager
def holder(root: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the warehouse and reads it; for each line it is sent it asks whether it still does."""
    command = [sys.executable, "-c", HOLDER, root]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        yield process
        process.kill()


def ask(process: subprocess.Popen[str]) -> str:
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write("?\n")
    process.stdin.flush()
    return process.stdout.readline().strip()


def wait_until(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_who_gives_signs_of_life_keeps_the_warehouse(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeats, "LIFE_SECONDS", 60)  # however slow the machine is
    with holder(root) as process:
        store = store_at(root)
        first = store.get(LOCK_FILE)
        wait_until(lambda: store.get(LOCK_FILE).modified > first.modified)  # type: ignore[union-attr]
        message = rf"in use by process {process.pid} on .+ \(-c .+\), since 2\d+.*, last sign of life \d+ s ago; wait"
        with pytest.raises(WarehouseBusyError, match=message), warehouse_lock(root):
            pass
        living, stale = leases(root)
        assert [(lease.pid, lease.name, lease.pinned) for lease in living] == [(process.pid, "export", {"events": 3})]
        assert not stale and ask(process) == "still held"


def test_who_was_stopped_is_followed_and_writes_nothing_more(root: str) -> None:
    """Not even killed: stopped for a while, as a machine that swaps or sleeps, it comes back and wants to go on."""
    with holder(root) as process:
        process.send_signal(signal.SIGSTOP)

        def is_followed() -> bool:
            with suppress(WarehouseBusyError), warehouse_lock(root) as before:
                assert before is not None and before.pid == process.pid
                wait_until(lambda: [lease.pid for lease in leases(root)[1]] == [process.pid])
                process.send_signal(signal.SIGCONT)
                assert f"no longer held by this process, which gave no sign for {LIFE_SECONDS:g} s" in ask(process)
                require_held(root)
                return True
            return False

        wait_until(is_followed)
        found = store_at(root).get(LOCK_FILE)
        assert found is not None and found.content == b""  # released by the one who followed, not taken back
        wait_until(lambda: [lease.pid for lease in leases(root)[0]] == [process.pid])  # as a reader it goes on


def test_of_many_who_want_it_one_gets_it(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeats, "LIFE_SECONDS", 60)
    others = threading.Semaphore(0)

    def take(_: int) -> bool:
        try:
            with remote_lock(store_at(root), Holder()):
                return all(others.acquire(timeout=60) for _ in range(5))
        except WarehouseBusyError:
            others.release()
            return False

    with ThreadPoolExecutor(6) as pool:
        for _ in range(2):  # the first time there is no lock yet, the second time it was released
            assert sum(pool.map(take, range(6))) == 1


@pytest.mark.parametrize("header", ["If-None-Match", "If-Match"])
def test_a_server_that_ignores_conditions_is_refused(header: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with s3_server("old", ignored=f"HTTP_{header.upper().replace('-', '_')}") as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        root = f"s3a://old/{uuid.uuid4().hex}"
        with pytest.raises(StoreError, match=f"{root}: its server ignores {header}, so that"), warehouse_lock(root):
            pass


def test_a_lock_that_was_released_tells_nothing_and_is_taken_at_once(root: str) -> None:
    for _ in range(2):
        with warehouse_lock(root) as before, warehouse_lock(root):  # re-entrant: a night and its jobs
            assert before is None
            require_held(root)
    require_held(root)  # of nobody: what holds no lock cannot lose one


def test_a_sign_whose_answer_was_lost_does_not_lose_the_lock(root: str) -> None:
    store = store_at(root)
    with warehouse_lock(root):
        found = store.get(LOCK_FILE)
        assert found is not None
        store.put_if_match(LOCK_FILE, found.text.replace('"sign": ', '"sign": 9'), found.tag)
        require_held(root)


def test_a_job_that_has_lost_the_warehouse_commits_nothing(root: str, tmp_path: Path) -> None:
    store, other = store_at(root), json.dumps(vars(Holder(pid=1, host="elsewhere", command="run_night.py")))
    job = Job("embed_items", settings_of(tmp_path).model_copy(update={"warehouse": root}), Namespace())
    with warehouse_lock(root):
        store.put(LOCK_FILE, other)
        with pytest.raises(
            WarehouseBusyError, match=r"no longer held .* but by process 1 on elsewhere \(run_night\.py\)"
        ):
            job.write_records(ITEM_VOCABULARY, [])
    found = store.get(LOCK_FILE)
    assert store.list("tables") == [] and found is not None and found.text == other


def test_a_lease_follows_what_is_pinned_and_goes_with_its_reader(root: str) -> None:
    with reader_lease(root, "here") as lease:
        assert leases(root) == ([], [])  # this process is no reader to itself
        lease.pin("events", 7)
        found = store_at(root).get(lease.place)
        assert found is not None and '"events": 7' in found.text
        store_at(root).put("readers/other.json", found.text.replace(lease.host, "elsewhere"))
        assert [other.host for other in leases(root)[0]] == ["elsewhere"]
    assert store_at(root).names("readers") == ["other.json"]
    wait_until(lambda: len(leases(root)[1]) == 1)
