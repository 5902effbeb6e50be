"""An S3 server for tests, versitygw: its own folder, a free port, gone afterwards."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.fs

from tests.night import ROOT

PROGRAM = ROOT / "build" / "bin" / "versitygw"
KEY, SECRET, REGION = "test", "testtest", "us-east-1"


def environment_of(endpoint: str, secret: str = SECRET) -> dict[str, str]:
    """What a process needs to know of a server."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_REGION": REGION,
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_ALLOW_HTTP": "true",
    }


@contextmanager
def running_s3(folder: Path | None = None, *flags: str) -> Iterator[str]:
    """Endpoint of a server over a folder of its own, or over ``folder``: every object is a file in it."""
    assert PROGRAM.is_file(), "run `make s3-server`"
    own = Path(tempfile.mkdtemp(prefix="precise-s3-"))
    port, data = _free_port(), folder or own
    credentials = {"ROOT_ACCESS_KEY_ID": KEY, "ROOT_SECRET_ACCESS_KEY": SECRET}
    command = [str(PROGRAM), "--port", f"127.0.0.1:{port}", "--region", REGION, "-q", *flags, "posix", str(data)]
    process = subprocess.Popen(command, env=os.environ | credentials, stdout=subprocess.DEVNULL)
    try:
        for _ in range(1200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None, f"{' '.join(command)} has ended with {process.returncode}"
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(own, ignore_errors=True)


def make_bucket(endpoint: str, name: str) -> None:
    host = endpoint.removeprefix("http://")
    server = pyarrow.fs.S3FileSystem(
        access_key=KEY, secret_key=SECRET, endpoint_override=host, scheme="http", region=REGION,
        allow_bucket_creation=True,
    )  # fmt: skip
    server.create_dir(name)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
