"""A PostgreSQL server for tests: its own folder, a free port, gone afterwards."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PASSWORD = "not a secret"


@dataclass(frozen=True)
class Postgres:
    """A running server with one database, `postgres`, owned by the user `shop`."""

    programs: Path
    port: int

    @property
    def url(self) -> str:
        return f"jdbc:postgresql://127.0.0.1:{self.port}/postgres"

    def sql(self, statements: str) -> None:
        command = [str(self.programs / "psql"), "-v", "ON_ERROR_STOP=1", "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        command += ["-U", "shop", "-d", "postgres", "-c", statements]
        subprocess.run(
            command,
            check=True,
            env={**os.environ, "PGPASSWORD": PASSWORD, "PGCLIENTENCODING": "UTF8"},
            capture_output=True,
        )


def server_programs() -> Path | None:
    """Folder of initdb and pg_ctl; None where no server is installed."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    config = shutil.which("pg_config")
    if config:
        found = subprocess.run([config, "--bindir"], capture_output=True, text=True, check=True)
        folders.append(Path(found.stdout.strip()))
    return next((folder for folder in folders if (folder / "initdb").is_file()), None)


@contextmanager
def running(programs: Path) -> Iterator[Postgres]:
    """Start a server; as another user where we are root, whom it refuses."""
    folder = Path(tempfile.mkdtemp(prefix="precise-pg-"))
    data = folder / "data"
    (folder / "password").write_text(PASSWORD, encoding="utf-8")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    prefix = _as_somebody(folder)

    def do(program: str, *arguments: str) -> None:
        subprocess.run(
            [*prefix, str(programs / program), *arguments], check=True, cwd=folder, stdout=subprocess.DEVNULL
        )

    settings = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
    secrets = ("-A", "scram-sha-256", "--pwfile", str(folder / "password"))
    try:
        do("initdb", "-D", str(data), "-U", "shop", *secrets, "--encoding", "UTF8", "--locale", "C")
        do("pg_ctl", "-D", str(data), "-w", "-l", str(folder / "log"), "-o", settings, "start")
        try:
            yield Postgres(programs, port)
        finally:
            do("pg_ctl", "-D", str(data), "-w", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _as_somebody(folder: Path) -> list[str]:
    if os.getuid() != 0:
        return []
    names = {entry.pw_name for entry in pwd.getpwall()}
    user = "postgres" if "postgres" in names else "nobody"
    for path in (folder, *folder.iterdir()):
        shutil.chown(path, user)
    return ["setpriv", f"--reuid={user}", f"--regid={pwd.getpwnam(user).pw_gid}", "--clear-groups"]
