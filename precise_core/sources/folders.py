"""Columns that are not in a file but in the names of the folders on the way to it: `scene=home/date=2024-03-01/`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from urllib.parse import unquote

from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import StringType, StructField, StructType

from precise_core.sources.cells import Need, cell, cell_name, names_of
from precise_core.sources.raw import MALFORMED_ROW, PROBLEM, row_as_json
from schemas import columns as c

_NULL = "__HIVE_DEFAULT_PARTITION__"


def folder_columns(file: Path, needs: Sequence[Need], columns_of: Callable[[Path], Collection[str]]) -> tuple[str, ...]:
    """The needed columns that only folders name; the file is opened only where a folder has a needed name."""
    named = [name for name in names_of(needs) if name in _folder_values(file)]
    own: Collection[str] = columns_of(file) if named else ()
    return tuple(name for name in named if name not in own)


def with_folder_cells(cells: DataFrame, files: Sequence[Path], names: Sequence[str]) -> DataFrame:
    """``cells`` with those that the folders of ``files`` say; they are shown in ``raw`` as well."""
    if not names:
        return cells
    fields = [StructField(name, StringType()) for name in (c.SOURCE_FILE, *map(cell_name, names))]
    rows = [(str(file.resolve()), *map(_folder_values(file).get, names)) for file in files]
    values = cells.sparkSession.createDataFrame(rows, StructType(fields))
    joined = cells.join(F.broadcast(values), on=c.SOURCE_FILE, how="left")
    said = row_as_json(*[cell(name).alias(name) for name in names])
    # A rejected row is read again from `raw`: what the folders said must be there. A malformed one stays as it came.
    body = F.regexp_replace(c.RAW, r"\}\s*$", "")
    merged = F.concat(body, F.when(F.trim(body) == "{", "").otherwise(","), F.substr(said, F.lit(2)))
    is_malformed = F.coalesce(F.col(PROBLEM) == MALFORMED_ROW, F.lit(False))
    return joined.withColumn(c.RAW, F.when(is_malformed, F.col(c.RAW)).otherwise(merged))


def _folder_values(file: Path) -> dict[str, str | None]:
    """Name and value of every folder `name=value` on the way to ``file`` as it was reached, with Hive's escapes."""
    pairs = [part.partition("=") for part in file.parent.parts if "=" in part]
    return {unquote(name): None if value == _NULL else unquote(value) for name, _, value in pairs}
