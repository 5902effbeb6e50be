"""Named objects below one root: a local folder, or a place in an object store.

What is no Delta table lies in one: pointers, journals, lists, locks, folders of files. Only this room knows which of
the two it is; the root alone decides.
"""

from precise_core.store.base import Entry, Store, Stored
from precise_core.store.places import (
    Place,
    above,
    absolute,
    below,
    copy_of,
    fetched,
    is_remote,
    is_there,
    name_of,
    new_folder,
    place_of,
    store_at,
)

__all__ = [
    "Entry",
    "Place",
    "Store",
    "Stored",
    "above",
    "absolute",
    "below",
    "copy_of",
    "fetched",
    "is_remote",
    "is_there",
    "name_of",
    "new_folder",
    "place_of",
    "store_at",
]
