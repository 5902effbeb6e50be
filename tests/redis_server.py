"""A Redis server for tests: its own folder, a free port, gone afterwards."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

PASSWORD = "not a secret"


@dataclass
class RedisServer:
    """A server with a password that keeps nothing on disk.

    It can be stopped, and started again, empty; or be silent for a while, which keeps its connections and content.
    """

    program: str
    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def client(self) -> Any:
        import redis

        return redis.Redis(port=self.port, password=PASSWORD)

    def start(self) -> None:
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        options += ["--requirepass", PASSWORD, "--dir", str(self.folder), "--logfile", str(self.folder / "log")]
        self.process = subprocess.Popen([self.program, *options], stdout=subprocess.DEVNULL)
        for _ in range(1200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)
        raise AssertionError((self.folder / "log").read_text("utf-8"))

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def fall_silent(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)


def redis_program() -> str:
    """The server's program; without it the test is skipped, except in continuous integration."""
    found = shutil.which("redis-server")
    if found is None and not os.environ.get("CI"):
        pytest.skip("no Redis server on this machine (Debian: apt-get install redis-server)")
    assert found is not None, "continuous integration must have a Redis server: see .ci/run"
    return found


@contextmanager
def running_redis() -> Iterator[RedisServer]:
    folder = Path(tempfile.mkdtemp(prefix="precise-redis-"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    server = RedisServer(redis_program(), folder, port)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)
