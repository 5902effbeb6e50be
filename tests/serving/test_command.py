"""The command as a process of its own: several workers, one of which is killed; and what it refuses."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from jobs.serve import main
from tests.night import CONFIG, ROOT
from tests.serving.world import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path / "warehouse")
    made.publish(0)
    return made


@pytest.fixture
def warehouse(world: World) -> Path:
    return world.root


@contextmanager
def process_of(warehouse: Path, port: int, *sets: str) -> Iterator[subprocess.Popen[bytes]]:
    settings = [f"warehouse={warehouse}", f"serving.port={port}", *sets]
    command = [sys.executable, "jobs/serve.py", "--config", str(CONFIG), *(w for s in settings for w in ("--set", s))]
    process = subprocess.Popen(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, start_new_session=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def get(port: int, path: str) -> bytes:
    """The answer; empty where there is none, or another status than 200."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
            return bytes(answer.read())
    except OSError:
        return b""


def wait_until(is_time: Callable[[], object]) -> None:
    deadline = time.monotonic() + 240
    while not is_time():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def workers_of(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    children = [one for one in psutil.Process(process.pid).children() if one.status() != psutil.STATUS_ZOMBIE]
    return [child for child in children if any("spawn_main" in word for word in child.cmdline())]


@pytest.mark.faults
def test_several_workers_answer_and_one_that_is_killed_is_replaced(warehouse: Path) -> None:
    port = free_port()
    with process_of(warehouse, port, "serving.workers=2") as process:
        wait_until(lambda: get(port, "/ready"))
        assert b"all-0" in get(port, "/version")
        assert b'path="/version",status="200"' in get(port, "/metrics")
        (first, second) = workers_of(process)
        first.kill()
        for _ in range(50):  # a request that is on its way to the killed one has waited in no queue but the common one
            assert get(port, "/user_vector?user_id=user-1")
        wait_until(lambda: len(workers_of(process)) == 2 and first.pid not in {w.pid for w in workers_of(process)})
        assert second.is_running()
        wait_until(lambda: all(get(port, "/ready") for _ in range(20)))
        wait_until(lambda: b"precise_serves_newest 1.0" in get(port, "/metrics"))
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0


@pytest.mark.faults
def test_several_workers_take_over_and_refuse_the_same(world: World) -> None:
    port = free_port()

    def all_say(what: str, path: str) -> bool:
        return all(what.encode() in get(port, path) for _ in range(20))

    with process_of(world.root, port, "serving.workers=2", "serving.poll_seconds=0.2") as process:
        wait_until(lambda: get(port, "/ready"))
        world.publish(1)
        wait_until(lambda: all_say("all-1", "/version"))
        for worker in workers_of(process):
            worker.suspend()  # until what is published is damaged
        world.publish(2)
        (world.index_folder("all-2") / "vectors.npy").unlink()
        for worker in workers_of(process):
            worker.resume()
        wait_until(lambda: all_say("missing in the folder", "/health"))
        assert all_say("all-1", "/version")
        world.publish(3)
        wait_until(lambda: all_say("all-3", "/version"))
        assert all_say('"ok"', "/health")
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0


def test_what_cannot_be_served_is_refused_in_one_line(warehouse: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        for sets, reason in (
            ([f"serving.port={taken.getsockname()[1]}"], "Address already in use"),
            (["serving.host=0.0.0.0"], "PRECISE_SERVING_TOKEN is not set"),
            (["warehouse=/nowhere"], "no such folder"),
            (["serving.max_k=0"], "serving.max_k"),
        ):
            given = [f"warehouse={warehouse}", *sets]
            flags = [word for one in dict(s.split("=") for s in given).items() for word in ("--set", "=".join(one))]
            assert main(["--config", str(CONFIG), *flags]) == 2
            said = capsys.readouterr().err
            assert said.startswith("serve failed: ") and reason in said and said.count("\n") == 1
