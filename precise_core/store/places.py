"""Where something lies: a ``Path`` on a local folder, a URI in an object store; and folders of files at such places.

A ``Path`` stays a ``Path``, so that on a local folder files are opened where they lie, without a copy.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from precise_core.config.folders import require_delta_path
from precise_core.errors import ConfigError
from precise_core.store.base import Store
from precise_core.store.local import LocalStore, atomic_folder
from precise_core.store.sums import SUMS_FILE

Place = str | Path

_S3 = re.compile(r"s3[an]?://")
_KINDS = ("s3a://", "gs://")  # that Spark, deltalake, pyarrow 14 and obstore all read


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


def place_of(root: str | Path, *, is_read_only: bool = False) -> str:
    """A warehouse's folder as an absolute path; a URI without a slash at its end, one of S3 as `s3a://`.

    Raises:
        ConfigError: A URI names no bucket, or the path is one that Delta's libraries take for another.
    """
    if is_remote(root):
        place = _S3.sub("s3a://", re.sub("(?<![:/])/+$", "", str(root)))
        if not place.startswith(_KINDS):
            raise ConfigError(
                f"warehouse {root}: no warehouse lies in such a place; there are folders, s3a://bucket/folder and "
                "gs://bucket/folder"
            )
        if not place.partition("://")[2].partition("/")[0]:
            raise ConfigError(f"warehouse {root}: it names no bucket; such as s3a://bucket/lake is needed")
        if found := re.search("[?#]", place):
            raise ConfigError(
                f"warehouse {root}: what follows {found[0]!r} is no part of a path in a URI; leave it out"
            )
    elif re.match(r"\w+:/", str(root)):
        raise ConfigError(
            f"warehouse {root}: a URI has two slashes after its scheme, and a Path leaves one of them out"
        )
    else:
        place = str(Path(root).resolve())
    require_delta_path("warehouse", place, is_read_only=is_read_only)
    return place


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


def copy_of(folder: Place) -> Path:
    """Where ``fetched`` has put a folder."""
    return store_at(above(folder)).scratch / name_of(folder)


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
