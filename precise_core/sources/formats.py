"""One entrance to every format: which columns a source has, and its cells."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple
from urllib.parse import unquote

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import StringType, StructField, StructType

from precise_core.sources.cells import Batch, Need, cell, cell_name, names_of
from precise_core.sources.config import FileInput
from precise_core.sources.listing import list_files
from precise_core.sources.objects import SourceFile, folder_of
from precise_core.sources.raw import MALFORMED_ROW, PROBLEM, RAW_PARTS, one_below_another, row_as_json
from precise_core.sources.text_formats import (
    csv_columns,
    csv_has_rows,
    jsonl_columns,
    jsonl_has_rows,
    jsonl_keys,
    read_csv,
    read_jsonl,
    text_warnings,
)
from precise_core.sources.typed_formats import (
    jdbc_frame,
    parquet_columns,
    parquet_has_rows,
    parquet_storage,
    read_delta,
    read_jdbc,
    read_parquet,
    typed_columns,
)
from schemas import columns as c

_NULL = "__HIVE_DEFAULT_PARTITION__"


class _FileFormat(NamedTuple):
    """What is particular to a format of files; ``columns`` may be those of a sample of the rows."""

    read: Callable[[SparkSession, Sequence[SourceFile], FileInput, Sequence[Need]], DataFrame]
    columns: Callable[[SourceFile, FileInput], dict[str, str]]
    columns_of_all_rows: Callable[[SourceFile, FileInput], Collection[str]]
    has_rows: Callable[[SourceFile, FileInput], bool]


_FILE_FORMATS = {
    "csv": _FileFormat(read_csv, csv_columns, csv_columns, csv_has_rows),
    "jsonl": _FileFormat(read_jsonl, jsonl_columns, jsonl_keys, jsonl_has_rows),
    "parquet": _FileFormat(read_parquet, parquet_columns, parquet_columns, parquet_has_rows),
}


def _format_of(source: FileInput) -> _FileFormat:
    return _FILE_FORMATS[str(source.format_in_use)]


def read_cells(spark: SparkSession, source: FileInput, batch: Batch, needs: Sequence[Need]) -> DataFrame:
    """The requested columns of ``batch`` as cells (precise_core/sources/cells.py).

    Args:
        needs: (column name, role) pairs; every named column must exist in every file (JSON Lines: in some line), or
            be the name of a folder on the way to it (`scene=home/`).
    """
    if source.jdbc is not None:
        return read_jdbc(spark, source.jdbc, needs)
    if source.format_in_use == "delta":
        return read_delta(spark, batch.files[0], batch.version, needs)
    files_by_folder_names: dict[tuple[str, ...], list[SourceFile]] = {}
    for file in batch.files:
        files_by_folder_names.setdefault(_folder_columns(file, source, needs), []).append(file)
    parts = []
    for names, files in files_by_folder_names.items():
        own = [need for need in needs if need[0] not in names]
        parts.append(_with_folder_cells(_format_of(source).read(spark, files, source, own), files, names))
    return one_below_another(parts)


def why_without_rows(source: FileInput, file: SourceFile) -> str | None:
    """Why a file has no rows; None where it has."""
    if not file.stat().st_size:
        return "the file is empty"
    return None if _format_of(source).has_rows(file, source) else "the file has no rows"


def whole(source: FileInput) -> list[Batch]:
    """Everything that ``source`` names."""
    if source.path is None:
        return [Batch()]
    if source.format_in_use == "delta":
        return [Batch((folder_of(source.path),))]
    return batches_of(source, list_files(source.path))


def batches_of(source: FileInput, files: Sequence[SourceFile]) -> list[Batch]:
    """Files that are read together: Parquet files of one storage, of the other formats all."""
    groups: dict[Any, list[SourceFile]] = {}
    for file in files:
        storage = parquet_storage(file) if source.format_in_use == "parquet" else None
        groups.setdefault(storage, []).append(file)
    return [Batch(tuple(group)) for group in groups.values()]


def columns_of(spark: SparkSession, source: FileInput, file: SourceFile | None) -> dict[str, str]:
    """Columns of a file, a Delta folder or (``file`` is None) the database table, with their types as far as known."""
    if source.jdbc is not None:
        return typed_columns(jdbc_frame(spark, source.jdbc))
    assert file is not None
    if source.format_in_use == "delta":
        return typed_columns(spark.read.format("delta").load(str(file)))
    return _format_of(source).columns(file, source)


def warnings_of(source: FileInput, file: SourceFile) -> list[str]:
    """Warnings about a file that is read nevertheless."""
    return [] if source.has_types else text_warnings(file, source, str(source.format_in_use))


def _folder_columns(file: SourceFile, source: FileInput, needs: Sequence[Need]) -> tuple[str, ...]:
    """The needed columns that only folders name; the file is opened only where a folder has a needed name."""
    named = [name for name in names_of(needs) if name in _folder_values(file)]
    own = _format_of(source).columns_of_all_rows(file, source) if named else ()
    return tuple(name for name in named if name not in own)


def _with_folder_cells(cells: DataFrame, files: Sequence[SourceFile], names: Sequence[str]) -> DataFrame:
    """``cells`` with those that the folders of ``files`` name; they are shown in ``raw`` as well."""
    if not names:
        return cells
    fields = [StructField(name, StringType()) for name in (c.SOURCE_FILE, *map(cell_name, names))]
    rows = [(str(file.resolve()), *map(_folder_values(file).get, names)) for file in files]
    values = cells.sparkSession.createDataFrame(rows, StructType(fields))
    joined = cells.drop(RAW_PARTS).join(F.broadcast(values), on=c.SOURCE_FILE, how="left")
    named = row_as_json(*[cell(name).alias(name) for name in names])
    # A rejected row is read again from `raw`: what the folders name must be there. A malformed one stays as it came.
    body = F.regexp_replace(c.RAW, r"\}\s*$", "")
    merged = F.concat(body, F.when(F.trim(body) == "{", "").otherwise(","), F.substr(named, F.lit(2)))
    is_malformed = F.coalesce(F.col(PROBLEM) == MALFORMED_ROW, F.lit(False))
    return joined.withColumn(c.RAW, F.when(is_malformed, F.col(c.RAW)).otherwise(merged))


def _folder_values(file: SourceFile) -> dict[str, str | None]:
    """Name and value of every folder `name=value` on the way to ``file`` as it was reached, with Hive's escapes."""
    pairs = [part.partition("=") for part in file.parent.parts if "=" in part]
    return {unquote(name): None if value == _NULL else unquote(value) for name, _, value in pairs}
