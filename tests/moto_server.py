"""moto's S3 server for tests: in this process, at a free port, in memory, gone afterwards."""

from __future__ import annotations

import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def s3_server(bucket: str, ignored: str | None = None) -> Iterator[dict[str, str]]:
    """Yields the environment in which a client finds the server; it has one empty bucket.

    It answers one request at a time: between a condition and a write moto has no lock of its own. The header
    ``ignored`` (`HTTP_IF_MATCH`) does not reach it, as with servers that do not know it.
    """
    from moto.moto_server.werkzeug_app import create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        def log(self, *_: Any) -> None:
            pass

    app = create_backend_app("s3")

    def answer(environ: dict[str, Any], start: Any) -> Any:
        environ.pop(ignored, None)
        return app(environ, start)

    server = make_server("127.0.0.1", 0, answer, threaded=False, request_handler=Quiet)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}"
    try:
        urllib.request.urlopen(urllib.request.Request(f"{url}/{bucket}", method="PUT")).close()
        yield {
            "AWS_ENDPOINT_URL": url,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "testtest",
            "AWS_REGION": "us-east-1",
            "AWS_ALLOW_HTTP": "true",
        }
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
