"""Files of an object store, as far as a source asks a ``Path`` about them; an object is read where it lies.

A folder is what the names of objects have before a slash: it is there as long as one of them is.
"""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple, cast

from precise_core.store import Entry, is_remote, store_at
from precise_core.warehouse.places import file_of, store_errors

_NOTHING = datetime(1970, 1, 1, tzinfo=UTC)
_BUFFER_BYTES = 4 << 20  # a request each


class Status(NamedTuple):
    """Of ``os.stat_result`` what is asked for."""

    st_size: int
    st_mtime_ns: int


@dataclass(frozen=True, order=True)
class ObjectFile:
    """One object; ``tag`` is what its store names the content by (an etag)."""

    uri: str
    size_bytes: int = 0
    modified: datetime = _NOTHING
    tag: str = ""

    def __str__(self) -> str:
        return self.uri

    @property
    def name(self) -> str:
        return self.uri.rpartition("/")[2]

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.name).suffix

    @property
    def parent(self) -> PurePosixPath:
        return PurePosixPath(self.uri).parent

    def resolve(self) -> ObjectFile:
        return self

    def stat(self) -> Status:
        return Status(self.size_bytes, int(self.modified.timestamp()) * 1_000_000_000)

    def open(self) -> BinaryIO:
        """The bytes, as they are stored."""
        filesystem, path = file_of(self.uri)
        with store_errors(self.uri):
            return cast(BinaryIO, filesystem.open_input_stream(path, compression=None, buffer_size=_BUFFER_BYTES))


SourceFile = Path | ObjectFile


class Branch:
    """A name in an object store, and the names below it: a listing as a tree that is walked like folders."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.file: ObjectFile | None = None
        self._below: dict[str, Branch] = {}

    def __str__(self) -> str:
        return self.uri

    def __lt__(self, other: Branch) -> bool:
        return self.uri < other.uri

    @property
    def name(self) -> str:
        return self.uri.rpartition("/")[2]

    def __truediv__(self, name: str) -> Branch:
        return self._below.get(name) or Branch(f"{self.uri}/{name}")

    def exists(self) -> bool:
        return self.is_file() or self.is_dir()

    def is_file(self) -> bool:
        """An empty object that has others below it is no file: Hadoop and consoles mark folders so."""
        return self.file is not None and not (self._below and not self.file.size_bytes)

    def is_dir(self) -> bool:
        return bool(self._below)

    def is_symlink(self) -> bool:
        return False

    def iterdir(self) -> Iterator[Branch]:
        return iter(self._below.values())

    def resolve(self) -> Branch:
        return self

    def add(self, names: Sequence[str], entry: Entry) -> None:
        if names:
            self._below.setdefault(names[0], Branch(f"{self.uri}/{names[0]}")).add(names[1:], entry)
        elif not self.uri.endswith("/"):
            self.file = ObjectFile(self.uri, entry.size_bytes, entry.modified, entry.tag)


def listed(pattern: str) -> tuple[Branch, tuple[str, ...]]:
    """The bucket of ``pattern`` with everything that it may name, and the parts of ``pattern`` below the bucket.

    Raises:
        StoreError: The store does not answer, or refuses.
    """
    bucket, parts = _split(pattern)
    literal = 0
    while literal < len(parts) and not glob.has_magic(parts[literal]):
        literal += 1
    store, prefix, root = store_at(bucket), "/".join(parts[:literal]), Branch(bucket)
    one = store.find(prefix) if prefix else None
    for entry in [*([one] if one else []), *store.list(prefix)]:
        root.add(entry.name.split("/"), entry)
    return root, parts


def folder_of(path: str) -> SourceFile:
    """The folder of a Delta table, its links resolved."""
    return ObjectFile(path.rstrip("/")) if is_remote(path) else Path(path).resolve()


def is_there(path: str) -> bool:
    """Whether a file that was taken once is still where it was."""
    if not is_object(path):
        return Path(path).exists()
    bucket, parts = _split(path)
    return store_at(bucket).find("/".join(parts)) is not None


def is_object(path: str) -> bool:
    """Whether it is the URI of something in an object store, and not the label of a database."""
    return is_remote(path) and not path.startswith("jdbc:")


def _split(uri: str) -> tuple[str, tuple[str, ...]]:
    scheme, _, rest = uri.partition("://")
    bucket, _, path = rest.partition("/")
    return f"{scheme}://{bucket}", tuple(part for part in path.split("/") if part)
