"""Which files a path or wildcard means, on a disk or in an object store, and what is in them.

A part of a path that exists is literal; one that does not is a wildcard (`*`, `?`, `[...]`, `**` for any number of
folders), and a folder means the files below it. Names that begin with `_` or `.` are Spark's, Hadoop's and editors'
own: below folders and of wildcards they are left out, at any depth, unless the wildcard itself begins so. Links are
followed, and each real file is listed once.
"""

from __future__ import annotations

import fnmatch
import glob
import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, cast

from precise_core.errors import DataError
from precise_core.sources.objects import Branch, ObjectFile, SourceFile, listed
from precise_core.store import is_remote


class _Node(Protocol):
    """A ``Path``, or a ``Branch`` of a listing."""

    @property
    def name(self) -> str: ...

    def __truediv__(self, name: str, /) -> _Node: ...

    def __lt__(self, other: Any, /) -> bool: ...

    def exists(self) -> bool: ...

    def is_file(self) -> bool: ...

    def is_dir(self) -> bool: ...

    def is_symlink(self) -> bool: ...

    def iterdir(self) -> Iterator[_Node]: ...

    def resolve(self) -> _Node: ...


@dataclass(frozen=True)
class Listing:
    """What a path names.

    Args:
        files: Each real file under the name it was first reached by, in the order of these names.
        notes: What was left out, and why, where that may not be meant.
    """

    files: list[SourceFile]
    notes: list[str]


def list_files(pattern: str) -> list[SourceFile]:
    """The files with content that ``pattern`` names, as it reaches them.

    Raises:
        DataError: Nothing matches, all that does is empty, or a folder cannot be listed.
    """
    files = look_up(pattern).files
    filled = [file for file in files if file.stat().st_size]
    if not filled:
        raise DataError(f"{files[0]}: the file is empty" if files else no_such_file(pattern))
    return filled


def no_such_file(pattern: str) -> str:
    return f"{pattern}: no such file, and no file matches it"


def look_up(pattern: str) -> Listing:
    """Everything that ``pattern`` names.

    Raises:
        DataError: A folder cannot be listed.
        StoreError: An object store does not answer, or refuses.
    """
    notes: list[str] = []
    real: dict[SourceFile, SourceFile] = {}
    try:
        for file in _named(pattern, notes):
            real.setdefault(file.resolve(), file)
    except OSError as error:
        raise DataError(f"{error.filename or pattern}: cannot be listed ({error.strerror})") from error
    return Listing(sorted(real.values()), notes)


def _named(pattern: str, notes: list[str]) -> Iterator[SourceFile]:
    """Every file that ``pattern`` names, as often as links lead to it."""
    if is_remote(pattern):
        branches = cast(Iterator[Branch], _reached(*listed(pattern), notes))
        yield from (branch.file for branch in branches if branch.file)
    elif pattern:
        start = Path(Path(pattern).anchor)
        yield from cast(Iterator[Path], _reached(start, Path(pattern).relative_to(start).parts, notes))


def _reached(start: _Node, parts: tuple[str, ...], notes: list[str]) -> Iterator[_Node]:
    for match in _matches(start, parts, notes):
        for folder in [match, *_folders_below(match)] if match.is_dir() else ():
            yield from _files_of(filter(_is_shown, sorted(folder.iterdir())), notes)
        yield from _files_of([match], notes)


def _matches(folder: _Node, parts: tuple[str, ...], notes: list[str]) -> Iterator[_Node]:
    """The files and folders that ``parts`` name below ``folder``."""
    if not parts:
        yield folder
        return
    part, rest = parts[0], parts[1:]
    path = folder / part
    matching = _matching(folder, part) if glob.has_magic(part) and part != "**" else []
    if path.exists():
        if others := len([match for match in matching if match != path]):
            notes.append(f"{path} is there and is taken by its name; {others} more that match it as a wildcard are not")
        yield from _matches(path, rest, notes)
    elif part == "**":
        # Of a last `**` the folder itself is enough: it means all files below it.
        for below in [folder, *(_folders_below(folder) if rest else ())]:
            yield from _matches(below, rest, notes)
    else:
        for match in matching or ([path] if path.is_symlink() else []):
            yield from _matches(match, rest, notes)


def _matching(folder: _Node, wildcard: str) -> list[_Node]:
    inside: Iterable[_Node] = folder.iterdir() if folder.is_dir() else ()
    shown = inside if wildcard[0] in "_." else filter(_is_shown, inside)
    return sorted(path for path in shown if fnmatch.fnmatchcase(path.name, wildcard))


def _is_shown(path: _Node) -> bool:
    return path.name[0] not in "_."


def _files_of(paths: Iterable[_Node], notes: list[str]) -> Iterator[_Node]:
    for path in paths:
        if path.is_file():
            yield path
        elif path.is_symlink() and not path.exists():
            notes.append(f"{path}: a link to nothing; it is left out tonight")


def _folders_below(path: _Node) -> Iterator[_Node]:
    """Visible folders below ``path``, links to folders too, each real one once: links may run in a circle."""
    seen, waiting = {path.resolve()}, [path]
    while waiting:
        for inside in sorted(waiting.pop().iterdir()):
            if _is_shown(inside) and inside.is_dir() and inside.resolve() not in seen:
                seen.add(inside.resolve())
                waiting.append(inside)
                yield inside


def sha256_of(file: SourceFile) -> str:
    """SHA-256 of the content, cached until the file changes; of an object what its store names the content by."""
    if isinstance(file, ObjectFile):
        return file.tag
    status = file.stat()
    return _sha256_of(file, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=100_000)
def _sha256_of(file: Path, _size: int, _modified_ns: int) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def fingerprint_files(files: Iterable[SourceFile], checksum_of: Callable[[SourceFile], str] = sha256_of) -> str:
    """SHA-256 over the name, size and content hash of every file."""
    lines = [f"{file.name} {file.stat().st_size} {checksum_of(file)}" for file in files]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
