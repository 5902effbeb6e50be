"""The command `serve`: from the configuration to processes that answer. It starts no Spark and is no row in `runs`.

It imports nothing of what answers are made with: beside several workers it only waits.
"""

from __future__ import annotations

import os
import socket
import sys
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import uvicorn
from rich.console import Console

from precise_core.artefacts import ROLLBACK_JOURNAL
from precise_core.command_line import command_parser, overrides_of
from precise_core.errors import ConfigError, PreciseError
from precise_core.serving.served import CHECKED, LOOPBACK, SERVED, SEVERAL, TOKEN, Served
from precise_core.store import store_at

_APPLICATION = "precise_core.serving.worker:application"
_EXIT_FAILED = 2


class ServeCommand:
    """Called with the arguments it serves until it is stopped, and gives the exit code.

    Args:
        read: From a configuration file and what overrides it to what is served.
    """

    def __init__(self, name: str, doc: str | None, read: Callable[[str, Sequence[str]], Served]) -> None:
        self.name, self.parser, self._read = name, command_parser(name, doc), read

    def __call__(self, argv: Sequence[str] | None = None) -> int:
        arguments = self.parser.parse_args(sys.argv[1:] if argv is None else argv)
        try:
            served = self._read(arguments.config, overrides_of(arguments))
            require_safe(served, os.environ.get(TOKEN))
            _run(served, is_verbose=arguments.verbose)
        except PreciseError as error:
            Console(stderr=True).print(f"{self.name} failed: {error}", style="bold red", markup=False, soft_wrap=True)
            return _EXIT_FAILED
        return 0


def require_safe(served: Served, token: str | None) -> None:
    """Refuse a warehouse that is not there, and an open door: another address than this machine's own without a token.

    Raises:
        ConfigError: Either of these, or the token is too short to be one.
        StoreError: The object store of the warehouse does not answer, or refuses.
    """
    store = store_at(served.root)
    if store.local and not store.local.is_dir():
        raise ConfigError(f"warehouse {served.warehouse}: no such folder")
    store.get(ROLLBACK_JOURNAL)  # of an object store it is found out now whether it can be read
    if token is not None and len(token) < 16:
        raise ConfigError(f"{TOKEN}: a token of {len(token)} characters; at least 16 are needed")
    if token is None and served.serving.host not in LOOPBACK:
        raise ConfigError(
            f"serving.host {served.serving.host}: others could reach it and {TOKEN} is not set; set it to a secret, or "
            f"listen on one of {', '.join(LOOPBACK)}"
        )


def _run(served: Served, *, is_verbose: bool) -> None:
    config = served.serving
    options: dict[str, Any] = {
        "host": config.host,
        "port": config.port,
        "access_log": is_verbose,
        "server_header": False,
        "timeout_keep_alive": 30,
        "timeout_worker_healthcheck": 60,  # a worker that opens a publication on a busy machine is not dead
        "timeout_graceful_shutdown": round(config.timeout_seconds) + 1,
    }
    _require_free(config.host, config.port)
    os.environ[SERVED] = served.model_dump_json()
    if config.workers == 1:
        uvicorn.run(_APPLICATION, factory=True, **options)
        return
    with tempfile.TemporaryDirectory(prefix="precise-serving-") as shared:
        for name in (SEVERAL, CHECKED):
            os.environ[name] = tempfile.mkdtemp(dir=shared)
        uvicorn.run(_APPLICATION, factory=True, workers=config.workers, **options)


def _require_free(host: str, port: int) -> None:
    """Refuse a port that is taken, in one line and before anything is opened."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigError(f"serving.host {host}, serving.port {port}: {error.strerror}") from error
