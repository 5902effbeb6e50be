"""Where something lies: a ``Path`` on a local folder, a URI in an object store; and folders of files at such places.

A ``Path`` stays a ``Path``, so that on a local folder files are opened where they lie, without a copy.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from precise_core.store.base import Store
from precise_core.store.local import LocalStore, atomic_folder
from precise_core.store.sums import SUMS_FILE

Place = str | Path


def is_remote(place: Place) -> bool:
    """Whether it is a URI; a ``Path`` never is, since it makes `s3a:/b` of `s3a://b`."""
    return isinstance(place, str) and "://" in place


def store_at(root: Place) -> Store:
    """The store below ``root``: `s3a://bucket/place` and other URIs in an object store, anything else a local folder.

    Raises:
        ConfigError: No object store of this scheme is known, its package is not there, or no bucket is named.
    """
    if not is_remote(root):
        return LocalStore(root)
    from precise_core.store.remote import RemoteStore  # obstore is needed for URIs only

    return RemoteStore(str(root))


def below(place: Place, *names: str) -> Place:
    """A place further down."""
    return "/".join([str(place).rstrip("/"), *names]) if is_remote(place) else Path(place, *names)


def above(place: Place) -> Place:
    """The place that this one lies in; a bucket lies in itself."""
    if not is_remote(place):
        return Path(place).parent
    outer = str(place).rstrip("/").rpartition("/")[0]
    return outer if is_remote(outer) and not outer.endswith("://") else place


def name_of(place: Place) -> str:
    return str(place).rstrip("/").rpartition("/")[2] if is_remote(place) else Path(place).name


def absolute(place: Place) -> Place:
    """The same place for a process that was started elsewhere."""
    return place if is_remote(place) else Path(place).resolve()


def fetched(folder: Place) -> Path:
    """A folder of files where they can be opened: locally as it is, else a copy that is as its list of sums says.

    Raises:
        CheckpointError: In an object store it is incomplete or was changed; the message names the object.
    """
    return store_at(above(folder)).fetch(name_of(folder)) if is_remote(folder) else Path(folder)


def is_there(folder: Place) -> bool:
    """Whether a folder of files is there; in an object store, whether it is complete."""
    if is_remote(folder):
        return store_at(folder).get(SUMS_FILE) is not None
    return Path(folder).is_dir()


@contextmanager
def new_folder(folder: Place) -> Iterator[Path]:
    """A local draft to fill, its list of sums included; all of it is at ``folder`` when the block ends well.

    A folder that is there already is replaced as a whole.
    """
    if not is_remote(folder):
        with atomic_folder(folder) as draft:
            yield draft
        return
    store, name = store_at(above(folder)), name_of(folder)
    with store.draft(name) as draft:
        yield draft
        store.put_folder(draft, name)
