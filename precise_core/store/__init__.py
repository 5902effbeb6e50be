"""Named objects below one root: a local folder, or a place in an object store.

What is no Delta table lies in one: pointers, journals, lists, locks, and folders of files (``folders``). Only this room
knows which of the two it is: ``store_at`` decides by the root alone.
"""

from __future__ import annotations

from pathlib import Path

from precise_core.store.base import Entry, Store, Stored
from precise_core.store.local import LocalStore

__all__ = ["Entry", "Store", "Stored", "is_remote", "store_at"]


def is_remote(root: str | Path) -> bool:
    """Whether the root is a URI; a ``Path`` never is, since it makes `s3a:/b` of `s3a://b`."""
    return isinstance(root, str) and "://" in root


def store_at(root: str | Path) -> Store:
    """The store below ``root``: `s3a://bucket/place` and other URIs in an object store, anything else a local folder.

    Raises:
        ConfigError: No object store of this scheme is known, its package is not there, or no bucket is named.
    """
    if not is_remote(root):
        return LocalStore(root)
    from precise_core.store.remote import RemoteStore  # obstore is needed for URIs only

    return RemoteStore(str(root))
