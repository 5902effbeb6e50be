"""A local folder: single files and whole folders that appear complete or not at all, and the store made of them."""

from __future__ import annotations

import fcntl
import glob
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from fnmatch import fnmatch
from pathlib import Path
from typing import IO

from precise_core.errors import ConflictError, StoreError
from precise_core.store.base import DRAFT, Entry, Store, Stored, require_name
from precise_core.store.sums import require_listed, verify_sums

# Of a folder that a killed process has left: half-written, or on its way out.
LEFTOVERS = (".*.tmp", ".*.old")
_LOCK = ".store.lock"


class LocalStore(Store):
    """The folder ``root``. Its own file system must have locks and hard links, as every usual one has."""

    def __init__(self, root: str | Path) -> None:
        self.folder = Path(root)
        super().__init__(str(root), self.folder, self.folder)

    def get(self, name: str) -> Stored | None:
        file = self.folder / require_name(name)
        try:
            with file.open("rb") as stream:  # the time is of the very file that is read
                content, modified = stream.read(), os.fstat(stream.fileno()).st_mtime
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise StoreError(f"{file}: cannot be read ({error.strerror})") from error
        return Stored(content, _tag(content), _instant(modified))

    def list(self, folder: str = "") -> list[Entry]:
        top = self.folder / require_name(folder) if folder else self.folder
        found = []
        for path, folders, files in os.walk(top):
            folders[:] = [name for name in folders if not _is_hidden(name)]
            for file in (Path(path) / name for name in files if not _is_hidden(name)):
                try:
                    found.append(_entry(file.relative_to(self.folder).as_posix(), file))
                except FileNotFoundError:  # removed at this very moment
                    continue
        return sorted(found, key=lambda entry: entry.name)

    def find(self, name: str) -> Entry | None:
        file = self.folder / require_name(name)
        return _entry(name, file) if file.is_file() else None

    def names(self, folder: str = "") -> Sequence[str]:
        top = self.folder / require_name(folder) if folder else self.folder
        return sorted(path.name for path in top.iterdir() if not _is_hidden(path.name)) if top.is_dir() else []

    def state(self, folder: str) -> object:
        top = self.folder / require_name(folder)
        if not top.is_dir():
            return None
        names = [path.name for path in top.iterdir()]
        return top.stat().st_mtime_ns, len(names), max(names, default="")

    def delete(self, name: str) -> bool:
        try:
            (self.folder / require_name(name)).unlink()
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def move(self, name: str, to: str) -> None:
        target = self.folder / require_name(to)
        target.parent.mkdir(parents=True, exist_ok=True)
        (self.folder / require_name(name)).rename(target)

    def now(self) -> datetime:
        return datetime.now(UTC)

    def keeps_versions(self) -> bool:
        return False

    def fetch(self, folder: str) -> Path:
        verify_sums(self.folder / require_name(folder))
        return self.folder / folder

    @contextmanager
    def draft(self, folder: str) -> Iterator[Path]:
        final = self.folder / require_name(folder)
        with draft_folder(final.parent, final.name) as draft:
            yield draft

    def put_folder(self, draft: Path, folder: str) -> None:
        require_listed(draft)
        move_into_place(draft, self.folder / require_name(folder))

    def delete_folder(self, folder: str) -> None:
        gone = self.folder / require_name(folder)
        if gone.is_dir():
            gone.rename(gone.with_name(f".{gone.name}.{uuid.uuid4().hex[:8]}.old"))
        # Also what one that was killed has left.
        for aside in gone.parent.glob(f".{glob.escape(gone.name)}.????????.old") if gone.parent.is_dir() else ():
            shutil.rmtree(aside)

    def _put(self, name: str, content: bytes, is_private: bool) -> str:
        with self._alone(name) as file:
            replace_file(file, content, mode=_mode(is_private))
        return _tag(content)

    def _put_absent(self, name: str, content: bytes, is_private: bool) -> str:
        with self._alone(name) as file:
            draft = _written_draft(file, content, _mode(is_private))
            try:
                file.hardlink_to(draft)
            except FileExistsError as error:
                raise ConflictError(f"{file}: is there already, someone else was first") from error
            finally:
                draft.unlink()
        return _tag(content)

    def _put_match(self, name: str, content: bytes, tag: str) -> str:
        with self._alone(name) as file:
            found = self.get(name)
            if found is None or found.tag != tag:
                raise ConflictError(f"{file}: {'is gone' if found is None else 'was changed'} since it was read")
            replace_file(file, content, mode=file.stat().st_mode & 0o777)
        return _tag(content)

    @contextmanager
    def _alone(self, name: str) -> Iterator[Path]:
        """The file of an object, while no other store, in this process or another, writes in its folder."""
        file = self.folder / require_name(name)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with locked(file.parent / _LOCK):
                yield file
        except OSError as error:
            raise StoreError(f"{file}: cannot be written ({error.strerror})") from error


@contextmanager
def locked(lock: Path) -> Iterator[None]:
    """Be the only one, of all threads and processes, who holds the file ``lock``; nothing of it is left afterwards."""
    while True:
        with lock.open("a") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            # The one before has removed it: whoever waited for it now holds a file that nobody else will find.
            if _is_at(handle, lock):
                try:
                    yield
                finally:
                    lock.unlink(missing_ok=True)
                return


def _is_at(handle: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle.fileno()), path.stat())
    except FileNotFoundError:
        return False


def replace_file(path: Path, content: str | bytes, *, mode: int = 0o666) -> None:
    """Write a small file in one step: a reader finds the old content or all of the new one, even after a crash.

    The folder is made, text is written as UTF-8, and ``mode`` holds within the umask.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _written_draft(path, content.encode() if isinstance(content, str) else content, mode).replace(path)


def _written_draft(path: Path, content: bytes, mode: int) -> Path:
    draft = path.with_suffix(DRAFT)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    return draft


@contextmanager
def atomic_folder(final_path: str | Path) -> Iterator[Path]:
    """A temporary sibling to fill; renamed to ``final_path`` when the block ends well, removed when it raises.

    A folder that is already there is replaced as a whole; it is untouched when the block raises.
    """
    final = Path(final_path)
    with draft_folder(final.parent, final.name) as draft:
        yield draft
        move_into_place(draft, final)


@contextmanager
def draft_folder(parent: Path, name: str) -> Iterator[Path]:
    """A hidden folder to fill and to ``move_into_place`` in ``parent``; what is still there afterwards is removed."""
    parent.mkdir(parents=True, exist_ok=True)
    draft = parent / f".{name}.{uuid.uuid4().hex[:8]}.tmp"
    draft.mkdir()
    try:
        yield draft
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def move_into_place(draft: Path, final: Path) -> None:
    """A full folder cannot be renamed over another, so the old one steps aside and comes back on failure."""
    if not final.exists():
        draft.rename(final)
        return
    aside = draft.with_suffix(".old")
    final.rename(aside)
    try:
        draft.rename(final)
    except OSError:
        aside.rename(final)
        raise
    shutil.rmtree(aside)


def _mode(is_private: bool) -> int:
    return 0o600 if is_private else 0o666


def _is_hidden(name: str) -> bool:
    return name == _LOCK or name.endswith(DRAFT) or any(fnmatch(name, pattern) for pattern in LEFTOVERS)


def _entry(name: str, file: Path) -> Entry:
    status = file.stat()
    return Entry(name, status.st_size, _instant(status.st_mtime))


def _tag(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _instant(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
