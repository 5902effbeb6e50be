"""What a store can do, wherever its objects lie."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from precise_core.errors import ConflictError, StoreError

DRAFT = ".writing"  # how the name of a file ends while it is written
_CONTROLS = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True)
class Stored:
    """One object as it was read: ``tag`` names exactly this content for ``put_if_match``."""

    content: bytes
    tag: str
    modified: datetime

    @property
    def text(self) -> str:
        return self.content.decode("utf-8")


@dataclass(frozen=True)
class Entry:
    """One object of a listing; ``modified`` by the clock of the store.

    In an object store ``tag`` changes with the content; a local folder would have to read it, and has none here.
    """

    name: str
    size_bytes: int
    modified: datetime
    tag: str = ""


class Store(ABC):
    """Objects by name (`rankers/latest.json`), each written whole or not at all and seen by the next reader.

    Two conditions decide between writers who do not know of each other: *absent*, and *as I read it*. A condition that
    fails because the object holds the very same content already has not failed: a request that is repeated after its
    answer was lost meets its own object. So whoever must be the only one writes something of his own into it.

    Folders of files (a checkpoint, an index) are complete when their list of sums is there, which is written last.

    Attributes:
        root: As it was given; every message names it.
        local: The folder in which every object is an ordinary file; None in an object store.
        scratch: A local folder for what is not finished: on a local folder itself, else on this machine alone.
    """

    def __init__(self, root: str, scratch: Path, local: Path | None = None) -> None:
        self.root, self.scratch, self.local = root, scratch, local

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.root!r})"

    def place(self, name: str) -> str:
        """Where an object or a folder is, for messages."""
        return f"{self.root.rstrip('/')}/{name}"

    @abstractmethod
    def get(self, name: str) -> Stored | None:
        """The object; None where there is none.

        Raises:
            StoreError: The store does not answer, or refuses.
        """

    def put(self, name: str, content: str | bytes, *, is_private: bool = False) -> str:
        """Write the object, whatever it was; returns its new tag.

        Args:
            content: Text is written as UTF-8.
            is_private: On a local folder only its owner may read it; an object store has policies instead.
        """
        return self._put(require_name(name), _bytes(content), is_private)

    def put_if_absent(self, name: str, content: str | bytes, *, is_private: bool = False) -> str:
        """Write the object unless there is one; returns its tag.

        Raises:
            ConflictError: There is one, of other content.
        """
        return self._unless_same(name, _bytes(content), lambda sent: self._put_absent(name, sent, is_private))

    def put_if_match(self, name: str, content: str | bytes, tag: str) -> str:
        """Replace the content that has ``tag``; returns the new tag.

        Raises:
            ConflictError: The object has changed since, or is gone.
        """
        return self._unless_same(name, _bytes(content), lambda sent: self._put_match(name, sent, tag))

    def _unless_same(self, name: str, content: bytes, put: Callable[[bytes], str]) -> str:
        require_name(name)
        try:
            return put(content)
        except ConflictError:
            found = self.get(name)
            if found is None or found.content != content:
                raise
            return found.tag

    @abstractmethod
    def list(self, folder: str = "") -> list[Entry]:
        """Every object below ``folder``, at any depth, sorted by name; nothing half-written."""

    @abstractmethod
    def find(self, name: str) -> Entry | None:
        """The object as ``list`` would show it; None where there is none."""

    @abstractmethod
    def names(self, folder: str = "") -> Sequence[str]:
        """Names of the objects and folders directly below ``folder``, without it, sorted; nothing half-written."""

    @abstractmethod
    def state(self, folder: str) -> object:
        """Equal as long as no object directly in ``folder`` has come or gone; to be asked often."""

    @abstractmethod
    def delete(self, name: str) -> bool:
        """Remove the object; False where there was none."""

    @abstractmethod
    def move(self, name: str, to: str) -> None:
        """Give the object another name, below folders that are made; in an object store it is there under both for a
        moment."""

    @abstractmethod
    def now(self) -> datetime:
        """The time by the clock that sets ``modified``."""

    @abstractmethod
    def keeps_versions(self) -> bool:
        """Whether what is replaced or removed stays there as an older version."""

    @abstractmethod
    def fetch(self, folder: str) -> Path:
        """A local folder with every file of ``folder``, each as its list of sums says.

        On a local folder this is the folder itself; else a copy that is made once, and again where it is damaged.

        Raises:
            CheckpointError: The list is missing, or a file is missing or changed; the message names it.
        """

    @abstractmethod
    def draft(self, folder: str) -> AbstractContextManager[Path]:
        """A local folder to fill, of which will be made ``folder`` or one beside it; removed afterwards."""

    @abstractmethod
    def put_folder(self, draft: Path, folder: str) -> None:
        """Make a draft, with its list of sums, ``folder``; one that is there is replaced as a whole.

        Raises:
            CheckpointError: The draft has no list of sums.
            ConflictError: Another writer has completed the folder meanwhile, with other files.
        """

    @abstractmethod
    def delete_folder(self, folder: str) -> None:
        """Remove a folder with all its files, the list of sums first: it is never seen half."""

    @abstractmethod
    def _put(self, name: str, content: bytes, is_private: bool) -> str: ...

    @abstractmethod
    def _put_absent(self, name: str, content: bytes, is_private: bool) -> str: ...

    @abstractmethod
    def _put_match(self, name: str, content: bytes, tag: str) -> str: ...


def require_name(name: str) -> str:
    """The name of an object or folder below a root, refused where it could lead out of it or be read as another.

    Raises:
        StoreError: It has an empty part, `.`, `..`, a backslash, a control character, or the ending of drafts.
    """
    parts = name.split("/")
    is_odd = _CONTROLS.search(name) or "\\" in name or name.endswith(DRAFT)
    if is_odd or any(part in ("", ".", "..") for part in parts):
        raise StoreError(
            f"object {name!r}: a name has parts between single slashes, none of them empty, . or .., no backslash or "
            f"control character, and does not end with {DRAFT}"
        )
    return name


def _bytes(content: str | bytes) -> bytes:
    return content.encode() if isinstance(content, str) else content
