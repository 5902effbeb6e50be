"""moto's S3 server for tests: a process of its own, at a free port, in memory, gone afterwards."""

from __future__ import annotations

import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def s3_server(bucket: str, ignored: str = "") -> Iterator[dict[str, str]]:
    """Yields the environment in which a client finds the server; it has one empty bucket.

    Not in this process: a client that holds the interpreter while it waits would wait for ever. The header ``ignored``
    (`HTTP_IF_MATCH`) does not reach it, as with servers that do not know it.
    """
    command = [sys.executable, __file__, ignored]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout
        url = f"http://127.0.0.1:{int(process.stdout.readline())}"
        urllib.request.urlopen(urllib.request.Request(f"{url}/{bucket}", method="PUT")).close()
        yield {
            "AWS_ENDPOINT_URL": url,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "testtest",
            "AWS_REGION": "us-east-1",
            "AWS_ALLOW_HTTP": "true",
        }
    finally:
        process.kill()
        process.wait()


def main(ignored: str) -> None:
    """Say the port and answer, one request at a time: between a condition and a write moto has no lock of its own."""
    from moto.moto_server.werkzeug_app import create_backend_app
    from werkzeug.serving import make_server

    app = create_backend_app("s3")

    def answer(environ: dict[str, Any], start: Any) -> Any:
        environ.pop(ignored, None)
        return app(environ, start)

    server = make_server("127.0.0.1", 0, answer, threaded=False)
    print(server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1])
