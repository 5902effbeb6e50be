"""What the workers of one server have verified, so that each folder is read once and not once by each of them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from precise_core.serving.served import CHECKED
from precise_core.store.local import locked
from precise_core.store.sums import verify_sums

_PREPARING = ".preparing"


@dataclass(frozen=True)
class Checked:
    """Notes of the workers of a server, in a folder that lives as long as it; None = there is one worker.

    A folder that was verified counts as long as its files have the sizes, times and inodes that they had before that.
    Where notes cannot be kept (a full disk, a folder that was cleaned away) every worker verifies for itself.
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
        with self._locked(f"{folder.name}.lock"):
            before = _state(folder)
            if self._noted(folder) != before:
                verify_sums(folder)
                self._note(folder, before)

    def add(self, folder: Path) -> None:
        """Note that a folder is sound: it was written a moment ago."""
        self._note(folder, _state(folder))

    @contextmanager
    def alone(self, folders: Iterable[Path]) -> Iterator[bool]:
        """One worker at a time; yields whether another one has made sure of all the ``folders`` meanwhile."""
        with self._locked(_PREPARING):
            yield all(self._noted(folder) == _state(folder) for folder in folders)

    def _noted(self, folder: Path) -> str | None:
        with suppress(OSError):
            return (self.notes / folder.name).read_text(encoding="utf-8") if self.notes else None
        return None

    def _note(self, folder: Path, state: str) -> None:
        if self.notes:
            with suppress(OSError):
                (self.notes / folder.name).write_text(state, encoding="utf-8")

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        with ExitStack() as stack:
            if self.notes:
                with suppress(OSError):
                    stack.enter_context(locked(self.notes / name))
            yield


NOBODY = Checked()


def _state(folder: Path) -> str:
    files = ((path.relative_to(folder).as_posix(), path.stat()) for path in sorted(folder.rglob("*")))
    return json.dumps([[name, at.st_size, at.st_mtime_ns, at.st_ctime_ns, at.st_ino] for name, at in files])
