"""Who works on a warehouse, as its files say: for people to find the process, for others to see whether it lives.

<warehouse>/.lock                   who writes; empty where the last one ended as it should
<warehouse>/readers/<token>.json    who reads which versions since when
"""

from __future__ import annotations

import json
import os
import socket
import sys
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from precise_core.artefacts import READERS

LOCK_FILE = ".lock"

_SECONDS = "%Y-%m-%d %H:%M:%S UTC"


@dataclass(kw_only=True)
class _Process:
    pid: int = field(default_factory=os.getpid)
    host: str = field(default_factory=socket.gethostname)

    @property
    def is_on_this_host(self) -> bool:
        """The kernel vouches for processes of this host only; on some shares a lock never leaves its host."""
        return self.host == socket.gethostname()

    @property
    def is_this(self) -> bool:
        return self.is_on_this_host and self.pid == os.getpid()

    def _described(self, what: str, since: str) -> str:
        return f"process {self.pid} on {self.host} ({what}), since {since}"


def _own_command() -> str:
    return " ".join([Path(sys.argv[0]).name, *_without_users(sys.argv[1:])])[:500]


@dataclass(kw_only=True)
class Holder(_Process):
    """Who writes the warehouse."""

    command: str = field(default_factory=_own_command)
    since: str = field(default_factory=lambda: f"{datetime.now(UTC):{_SECONDS}}")

    def __str__(self) -> str:
        return self._described(self.command, self.since)


@dataclass(kw_only=True)
class Lease(_Process):
    """One reader: ``pinned`` are the versions it reads, by table; every newer file it may need is younger than it.

    Attributes:
        place: Its object in the store of the warehouse.
        save: Writes it there again.
    """

    name: str
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    pinned: dict[str, int] = field(default_factory=dict)
    place: str = field(default_factory=lambda: f"{READERS}/{uuid.uuid4().hex}.json")
    save: Callable[[], None] = field(default=lambda: None, repr=False)

    def __str__(self) -> str:
        return self._described(self.name, f"{self.started_at:{_SECONDS}}")

    def pin(self, table: str, version: int) -> None:
        """Write down that ``table`` is read at ``version``."""
        self.pinned[table] = version
        self.save()

    @property
    def content(self) -> dict[str, Any]:
        """What its object says."""
        kept = {name: getattr(self, name) for name in ("pid", "host", "name", "pinned")}
        return kept | {"started_at": self.started_at.isoformat()}


def read_holder(content: str | bytes) -> Holder | None:
    """The holder that the lock names; None where it was released as it should be."""
    try:
        said = json.loads(content)
        return Holder(**{name: said[name] for name in ("pid", "host", "command", "since")})
    except (ValueError, TypeError, KeyError):
        return None


def read_lease(content: str | bytes, place: str, began: datetime) -> Lease:
    """The reader of a lease; one without a name, of pid 0, where nothing was written into it yet."""
    try:
        said = json.loads(content)
        started_at = datetime.fromisoformat(said["started_at"])
        described = {name: said[name] for name in ("pid", "host", "name", "pinned")}
        return Lease(**described, started_at=started_at, place=place)
    except (ValueError, TypeError, KeyError):
        name = "a reader that has not yet said who it is"
        return Lease(pid=0, host="?", name=name, started_at=began, place=place)


def _without_users(arguments: Sequence[str]) -> list[str]:
    """The arguments without the value of any ``--user-id``, however abbreviated: the file outlives a killed erasure."""
    shown, is_value = list[str](), False
    for argument in arguments:
        flag, equals, _ = argument.partition("=")
        names_user = not is_value and len(flag) > len("--") and "--user-id".startswith(flag)
        shown.append("..." if is_value else f"{flag}=..." if names_user and equals else argument)
        is_value = names_user and not equals
    return shown
