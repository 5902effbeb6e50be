"""What the workers of one server have verified, so that each folder is read once and not once by each of them."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from precise_core.serving.served import CHECKED
from precise_core.store.sums import verify_sums

_PREPARING = ".preparing"


@dataclass(frozen=True)
class Checked:
    """Notes of the workers of a server, in a folder that lives as long as it; None = there is one worker.

    A folder that was verified counts as long as its files have the sizes, times and inodes that they had.
    """

    notes: Path | None = None

    @classmethod
    def from_environment(cls) -> Checked:
        return cls(Path(os.environ[CHECKED]) if CHECKED in os.environ else None)

    def require_sound(self, folder: Path) -> None:
        """Compare a folder with its sums, unless another worker has; while it does, wait for what it finds.

        Raises:
            CheckpointError: The folder is missing or incomplete, or a file of it was changed.
        """
        if self.notes is None:
            verify_sums(folder)
            return
        with _locked(self.notes / f"{folder.name}.lock"):
            if not self._has(folder):
                verify_sums(folder)
                self.add(folder)

    def add(self, folder: Path) -> None:
        """Note that a folder is sound."""
        if self.notes is not None:
            self._note(folder).write_text(_state(folder), encoding="utf-8")

    @contextmanager
    def alone(self, folders: Iterable[Path]) -> Iterator[bool]:
        """One worker at a time; yields whether another one has made sure of all the ``folders`` meanwhile."""
        if self.notes is None:
            yield False
            return
        with _locked(self.notes / _PREPARING):
            yield all(map(self._has, folders))

    def _has(self, folder: Path) -> bool:
        note = self._note(folder)
        return note.is_file() and note.read_text(encoding="utf-8") == _state(folder)

    def _note(self, folder: Path) -> Path:
        assert self.notes is not None
        return self.notes / folder.name


NOBODY = Checked()


def _state(folder: Path) -> str:
    files = ((path.relative_to(folder).as_posix(), path.stat()) for path in sorted(folder.rglob("*")))
    return json.dumps([[name, at.st_size, at.st_mtime_ns, at.st_ctime_ns, at.st_ino] for name, at in files])


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    with file.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
