"""What a request must keep to before it reaches an answer: token, size, number at a time, time.

Under it everything is measured, refusals too.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import time
from typing import Any

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from precise_core.serving.config import ServingConfig
from precise_core.serving.metrics import IN_FLIGHT, SECONDS
from precise_core.serving.reference_page import PATHS
from precise_core.serving.served import LOOPBACK

OPEN = ("/", "/ready", "/openapi.json", *PATHS)  # they hold no data


class Refused(HTTPException):
    """An answer that is none: HTTP status, the field that is wrong (of the query, the body or a header), and why."""

    def __init__(self, status: int, field: str, message: str) -> None:
        super().__init__(status, message)
        self.field = field


def refusal(*errors: tuple[str, str]) -> dict[str, Any]:
    """The body of every 4xx and 5xx: what is wrong with which field."""
    return {"errors": [{"field": field, "message": message} for field, message in errors]}


class Guard:
    """Around the application; ``token`` None = whoever reaches this machine's own address may ask."""

    def __init__(self, app: ASGIApp, config: ServingConfig, token: str | None) -> None:
        self._app, self._config = app, config
        self._expected = f"Bearer {token}".encode() if token else None
        self._working = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, watched = time.perf_counter(), _Watched(send)
        self._working += 1
        IN_FLIGHT.inc()
        try:
            await self._answer(scope, receive, watched)
        finally:
            self._working -= 1
            IN_FLIGHT.dec()
            path = getattr(scope.get("route"), "path", "other")  # never what was sent: anybody could invent series
            SECONDS.labels(path, watched.status).observe(time.perf_counter() - started)

    async def _answer(self, scope: Scope, receive: Receive, send: _Watched) -> None:
        try:
            self._require(scope)
            async with asyncio.timeout(self._config.timeout_seconds):
                await self._app(scope, _limited(receive, self._config.max_body_bytes), send)
        except Refused as refused:
            await send.refuse(refused)
        except TimeoutError:
            await send.refuse(Refused(504, "", f"not answered within {self._config.timeout_seconds:g} seconds"))

    def _require(self, scope: Scope) -> None:
        """Refuse by what the head of the request says."""
        headers = dict(scope["headers"])
        if self._expected is None:
            host = _host_of(headers.get(b"host", b"").decode("latin-1"))
            if host not in LOOPBACK:  # a page of another site that had its name point here
                raise Refused(403, "header.host", f"{host!r}: without a token only {', '.join(LOOPBACK)} are answered")
        elif scope["path"] not in OPEN and not hmac.compare_digest(headers.get(b"authorization", b""), self._expected):
            raise Refused(401, "header.authorization", "a bearer token is needed, the one in PRECISE_SERVING_TOKEN")
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self._config.max_body_bytes:
            raise _too_large(self._config.max_body_bytes)
        if self._working > self._config.max_concurrent and scope["path"] not in OPEN:
            raise Refused(503, "", f"{self._config.max_concurrent} requests are being answered; try again")


class _Watched:
    """``send``, with the status that went out and an answer in its place where none has begun."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status = 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        await self._send(message)

    async def refuse(self, refused: Refused) -> None:
        if self.status:  # an answer is on its way already
            return
        body = json.dumps(refusal((refused.field, refused.detail))).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        headers += [(b"www-authenticate", b"Bearer")] if refused.status_code == 401 else []
        headers += [(b"retry-after", b"1")] if refused.status_code == 503 else []
        # The rest of a body that was not read would be taken for the next request.
        headers += [(b"connection", b"close")] if refused.status_code in (408, 413, 504) else []
        await self({"type": "http.response.start", "status": refused.status_code, "headers": headers})
        await self({"type": "http.response.body", "body": body})


def _host_of(header: str) -> str:
    """The name or address of a `Host`, without its port and without the brackets of IPv6."""
    return header[1:].partition("]")[0] if header.startswith("[") else header.partition(":")[0]


def _limited(receive: Receive, most: int) -> Receive:
    taken = 0

    async def limited() -> Message:
        nonlocal taken
        message = await receive()
        taken += len(message.get("body", b""))
        if taken > most:
            raise _too_large(most)
        return message

    return limited


def _too_large(most: int) -> Refused:
    return Refused(413, "body", f"larger than serving.max_body_bytes {most:,}")
