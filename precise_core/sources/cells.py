"""Cells: the common form of the rows of every format, from which files.py maps the columns.

A frame of cells has one column per requested name (text; a timestamp where the format knows one), reached by
``cell(name)``, and problem, raw, source_file as in ``precise_core/sources/raw.py``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Literal

from pyspark.sql import Column
from pyspark.sql import functions as F

from precise_core.errors import DataError, SchemaError
from precise_core.sources.objects import SourceFile
from precise_core.sources.raw import INVALID_ID, MALFORMED_ROW, PROBLEM
from schemas import columns as c

# What a column is used for decides which types it may have.
Role = Literal["id", "time", "text", "texts", "number"]
Need = tuple[str, Role]


@dataclass(frozen=True)
class Batch:
    """What is read together.

    Args:
        files: Files with the same columns, or the folder of a Delta table; empty for a database table.
    """

    files: tuple[SourceFile, ...] = ()
    version: int | None = None


def cell(name: str) -> Column:
    """The cell of the source's column ``name``."""
    return F.col(quoted(cell_name(name)))


def cell_name(name: str) -> str:
    return f"cell:{name}"


def quoted(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"


def names_of(needs: Sequence[Need]) -> list[str]:
    return list(dict.fromkeys(name for name, _ in needs))


def ids_of(needs: Sequence[Need]) -> list[str]:
    """Names of columns that hold ids, whatever else they are needed for."""
    return list(dict.fromkeys(name for name, role in needs if role == "id"))


# Spark reads every path as a wildcard (with its option to turn that off, it reads n files n times).
_WILDCARD = re.compile(r"([{}\[\]*?\\])")


def spark_paths(files: Sequence[SourceFile]) -> list[str]:
    """Paths of files, links resolved, escaped so that Spark reads them literally."""
    return [spark_path(file) for file in files]


def spark_path(file: SourceFile) -> str:
    """``spark_paths`` of one file or folder."""
    path = file.resolve()
    scheme, separator, shown = str(path).rpartition("://")
    is_left_out = path.name.startswith(".") or path.name.endswith("._COPYING_")
    if is_left_out or (path.name.startswith("_") and "=" not in path.name):
        raise DataError(f"{file}: Spark leaves out files whose name begins with '_' or '.'; give it another name")
    if ":" in path.name or (":" in shown and _WILDCARD.search(shown)):
        raise DataError(f"{file}: Spark cannot read a file of this name; give it one without ':'")
    try:
        shown.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{os.fsencode(str(file))!r}: the name is not UTF-8; give the file another one") from error
    return scheme + separator + _WILDCARD.sub(r"\\\1", shown)


def path_of_row() -> Column:
    """The path of the file that a row came from, as it is on disk."""
    uri = F.regexp_replace(F.col("_metadata.file_path"), "^file:/+", "/")
    return F.url_decode(F.replace(uri, F.lit("+"), F.lit("%2B"))).alias(c.SOURCE_FILE)


def problem_where(is_malformed: Column, are_no_ids: Sequence[Column] = ()) -> Column:
    problem = F.when(is_malformed, F.lit(MALFORMED_ROW))
    return reduce(lambda known, is_no_id: known.when(is_no_id, F.lit(INVALID_ID)), are_no_ids, problem).alias(PROBLEM)


def require_columns(source: object, needs: Sequence[Need], present: Sequence[str]) -> None:
    """Refuse a source that lacks a needed column, or has it twice."""
    for name in names_of(needs):
        if present.count(name) != 1:
            what = "no column" if name not in present else "more than one column"
            there = str(list(present))  # of a file without a header they are its first row
            raise SchemaError(f"{source}: {what} {name!r}; the columns there are {there}", private=there)
