"""Spark's exceptions as ours: what a worker raised on purpose, a file that cannot be read, history that is gone."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar
from urllib.parse import unquote

from deltalake.exceptions import DeltaError
from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException

from precise_core import errors
from precise_core.errors import DataError, HistoryGoneError
from schemas import Table

# What Spark says where a file or a commit of an old version was cleaned up.
_GONE = ("FILE_NOT_EXIST", "PATH_NOT_FOUND", "DELTA_MISSING_CHANGE_DATA", "DELTA_FILE_NOT_FOUND", "DELTA_VERSION_NOT")
_T = TypeVar("_T")

_UNREADABLE = re.compile(r"error while reading file (?:file:)?/*(/\S+?)\.?\s")

_RAISED = re.compile(r"^precise_core\.errors\.(\w+): (.+)$", re.MULTILINE)


@contextmanager
def raised_as_ours() -> Iterator[None]:
    """Raise what a worker raised, in one line with its reason, instead of Spark's traceback around it."""
    try:
        yield
    except (PySparkException, Py4JJavaError) as error:
        found = _RAISED.search(str(error))
        kind = getattr(errors, found[1], None) if found else None
        if found is None or kind is None:
            raise
        raise kind(found[2]) from error


@contextmanager
def naming_unreadable_files(advice: str = "fetch the file again") -> Iterator[None]:
    """Turn Spark's failure to read a file into an error that names it, and ends with ``advice``.

    Raises:
        DataError: A file is damaged: cut off, a page whose checksum does not hold, or gone meanwhile.
    """
    try:
        yield
    except (PySparkException, Py4JJavaError) as error:
        told = f"{error}\n{getattr(error, '_stackTrace', '')}"
        found = _UNREADABLE.search(told)
        if found is None:
            raise
        why = "the checksum of a page does not hold" if "checksum" in told.lower() else "damaged, cut off or gone"
        raise DataError(f"{unquote(found.group(1))}: cannot be read, {why}; {advice}") from error


def or_gone(table: Table, since: int, action: Callable[[], _T]) -> _T:
    """What ``action`` returns, which reads version ``since`` of the table.

    Raises:
        HistoryGoneError: VACUUM or the log's retention has removed what was needed.
    """
    try:
        return action()
    except (DeltaError, PySparkException, Py4JJavaError) as error:
        if isinstance(error, DeltaError) or any(sign in str(error) for sign in _GONE):
            raise HistoryGoneError(f"table {table.name}: version {since} cannot be read any more") from error
        raise
