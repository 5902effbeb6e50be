"""Spark's exceptions translated: an error raised in a worker, an unreadable file, a version that was removed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import unquote

from deltalake.exceptions import DeltaError
from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException

from precise_core import errors
from precise_core.errors import DataError, HistoryGoneError
from precise_core.warehouse.places import refusal
from schemas import Table

_OF_SPARK = (PySparkException, Py4JJavaError)
_RAISED = re.compile(r"^precise_core\.errors\.(\w+): (.+)$", re.MULTILINE)
_UNREADABLE = re.compile(r"error while reading file (?:file:)?/*((?:\w+:/)?/\S+?)\.?\s")
# In Spark's message where a file or a commit of an old version was cleaned up.
_GONE = ("FILE_NOT_EXIST", "PATH_NOT_FOUND", "DELTA_MISSING_CHANGE_DATA", "DELTA_FILE_NOT_FOUND", "DELTA_VERSION_NOT")


@contextmanager
def worker_errors() -> Iterator[None]:
    """Raise a PreciseError as the worker raised it, in one line, instead of Spark's traceback around it."""
    try:
        yield
    except _OF_SPARK as error:
        found = _RAISED.search(str(error))
        kind = getattr(errors, found[1], None) if found else None
        if found is None or kind is None:
            raise
        raise kind(found[2]) from error


@contextmanager
def unreadable_files(advice: str = "fetch the file again") -> Iterator[None]:
    """Name the file that Spark could not read, and end with ``advice``.

    Raises:
        DataError: A file is damaged: cut off, a page with a wrong checksum, or removed meanwhile.
        StoreError: Its object store has refused it.
    """
    try:
        yield
    except _OF_SPARK as error:
        text = f"{error}\n{getattr(error, '_stackTrace', '')}"
        found = _UNREADABLE.search(text)
        if found is None:
            raise
        place = unquote(found.group(1))
        if refused := refusal(place, text):
            raise refused from error
        why = "the checksum of a page does not hold" if "checksum" in text.lower() else "damaged, cut off or gone"
        raise DataError(f"{place}: cannot be read, {why}; {advice}") from error


@contextmanager
def gone_history(table: Table, version: int) -> Iterator[None]:
    """For a block that reads an older version of a table.

    Raises:
        HistoryGoneError: VACUUM or the log's retention has removed what was needed.
    """
    try:
        yield
    except (DeltaError, *_OF_SPARK) as error:
        if isinstance(error, DeltaError) or any(sign in str(error) for sign in _GONE):
            raise HistoryGoneError(f"table {table.name}: version {version} cannot be read any more") from error
        raise
