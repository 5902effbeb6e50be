"""A proxy before an S3 server that does harm: answers instead of it, or loses its answers.

A process of its own, ``python -m tests.s3_proxy ENDPOINT``, which prints its port: deltalake holds Python's lock while
it asks a store, and would wait for a proxy in its own process for ever.
"""

from __future__ import annotations

import http.client
import json
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.night import ROOT, own_process

_CONTROL = "/-harm-"


@dataclass(frozen=True)
class Harm:
    """What is done to requests (`PUT /bucket/key`).

    Attributes:
        requests: Pattern of those it is done to.
        status, code: Of the answer they get instead of the server's; by 0 they get none, though the server has done
            what they asked.
        seconds, times: For how long, and how often.
    """

    requests: str = ""
    status: int = 403
    code: str = "AccessDenied"
    seconds: float = 1e9
    times: int = 10**9


@dataclass(frozen=True)
class Proxy:
    endpoint: str

    def do(self, harm: Harm) -> None:
        """From now on, and instead of what it did before."""
        self._ask("PUT", json.dumps(asdict(harm)).encode())

    @property
    def harmed(self) -> list[str]:
        """The requests that it was done to."""
        return list(json.loads(self._ask("GET")))

    def _ask(self, method: str, content: bytes | None = None) -> bytes:
        request = urllib.request.Request(self.endpoint + _CONTROL, content, method=method)
        with urllib.request.urlopen(request) as answer:
            return bytes(answer.read())


@contextmanager
def harmful_proxy(endpoint: str, harm: Harm | None = None) -> Iterator[Proxy]:
    command = [sys.executable, "-m", "tests.s3_proxy", endpoint]
    with subprocess.Popen(command, cwd=ROOT, env=own_process(), stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            proxy = Proxy(f"http://127.0.0.1:{int(process.stdout.readline())}")
            if harm:
                proxy.do(harm)
            yield proxy
        finally:
            process.kill()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    target = ""
    harm = Harm(times=0)
    since = 0.0
    harmed: list[str] = []  # noqa: RUF012

    def handle_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path == _CONTROL:
            self.obey(body)
            return
        kind, request = _Handler, f"{self.command} {self.path.split('?')[0]}"
        is_harmed = (
            re.search(kind.harm.requests, request)
            and time.monotonic() - kind.since < kind.harm.seconds
            and len(kind.harmed) < kind.harm.times
        )
        if is_harmed:
            kind.harmed.append(request)
        if is_harmed and kind.harm.status:
            error = f"<Error><Code>{kind.harm.code}</Code><Message>harm</Message></Error>"
            self.respond(kind.harm.status, {}, error.encode())
            return
        status, headers, content = self.ask_server(body)
        if is_harmed:
            self.close_connection = True
        else:
            self.respond(status, headers, content)

    def obey(self, body: bytes) -> None:
        if self.command == "PUT":
            _Handler.harm, _Handler.since, _Handler.harmed = Harm(**json.loads(body)), time.monotonic(), []
        self.respond(200, {}, json.dumps(_Handler.harmed).encode())

    def ask_server(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        """The host's name stays as it was signed."""
        server = http.client.HTTPConnection(self.target, timeout=60)
        server.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in ("connection", "expect"):
                server.putheader(name, value)
        server.endheaders(body)
        answer = server.getresponse()
        status, headers, content = answer.status, dict(answer.getheaders()), answer.read()
        server.close()
        return status, headers, content

    def respond(self, status: int, headers: dict[str, str], content: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if not re.fullmatch("(?i)connection|transfer-encoding|content-length", name):
                self.send_header(name, value)
        length = {name.lower(): value for name, value in headers.items()}.get("content-length", "0")
        self.send_header("Content-Length", length if self.command == "HEAD" else str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_any

    def log_message(self, *_: object) -> None:
        """Nothing: the test says what went wrong."""


if __name__ == "__main__":
    _Handler.target = sys.argv[1].removeprefix("http://")
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    print(server.server_port, flush=True)
    server.serve_forever()
