"""One entrance to every format: which columns a source has, and its cells."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

from pyspark.sql import DataFrame, SparkSession

from precise_core.sources.cells import Batch, Need
from precise_core.sources.config import FileInput, Format, format_of
from precise_core.sources.folders import folder_columns, with_folder_cells
from precise_core.sources.listing import list_files
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
    parquet_has_rows,
    parquet_schema,
    parquet_storage,
    read_delta,
    read_jdbc,
    read_parquet,
    typed_columns,
)


def read_cells(spark: SparkSession, source: FileInput, batch: Batch, needs: Sequence[Need]) -> DataFrame:
    """The requested columns of ``batch`` as cells (precise_core/sources/cells.py).

    Args:
        spark: The session.
        source: Format and how it is written, or the database.
        batch: The files, or the version of the Delta table.
        needs: (column name, role) pairs; every named column must exist in every file (JSON Lines: in some line), or
            be the name of a folder on the way to it (`scene=home/`).

    Raises:
        DataError: A file is empty or truncated, or the database cannot be read.
        SchemaError: A column is missing, twice in the header, or of a type that its role cannot have.
    """
    if source.jdbc is not None:
        return read_jdbc(spark, source.jdbc, needs)
    if format_in_use(source) == "delta":
        return read_delta(spark, batch.files[0], batch.version, needs)
    files_by_folder_names: dict[tuple[str, ...], list[Path]] = {}
    for file in batch.files:
        names = folder_columns(file, needs, lambda file: _columns_of_all_rows(spark, source, file))
        files_by_folder_names.setdefault(names, []).append(file)
    parts = []
    for names, files in files_by_folder_names.items():
        own = [need for need in needs if need[0] not in names]
        parts.append(with_folder_cells(_read_files(spark, source, files, own), files, names))
    return reduce(DataFrame.unionByName, parts)


def _columns_of_all_rows(spark: SparkSession, source: FileInput, file: Path) -> Collection[str]:
    """The columns that some row has: a key of JSON Lines may appear late."""
    return jsonl_keys(file, source) if format_in_use(source) == "jsonl" else columns_of(spark, source, file)


def _read_files(spark: SparkSession, source: FileInput, files: Sequence[Path], needs: Sequence[Need]) -> DataFrame:
    kind = format_in_use(source)
    if kind == "csv":
        return read_csv(spark, files, source, needs)
    return read_jsonl(spark, files, source, needs) if kind == "jsonl" else read_parquet(spark, files, needs)


def why_without_rows(source: FileInput, file: Path) -> str | None:
    """What is to say of a file of which no row can come; None where one must.

    Raises:
        DataError: The file is damaged or cut off, or not what its format says.
    """
    if not file.stat().st_size:
        return "the file is empty"
    kind = format_in_use(source)
    if kind == "csv":
        has_rows = csv_has_rows(file, source)
    else:
        has_rows = jsonl_has_rows(file, source) if kind == "jsonl" else parquet_has_rows(file)
    return None if has_rows else "the file has no rows"


def whole(source: FileInput) -> list[Batch]:
    """Everything that ``source`` names.

    Raises:
        DataError: No file matches, or a file is empty or cut off.
    """
    if source.path is None:
        return [Batch()]
    if format_in_use(source) == "delta":
        return [Batch((Path(source.path).resolve(),))]
    return batches_of(source, list_files(source.path))


def batches_of(source: FileInput, files: Sequence[Path]) -> list[Batch]:
    """Files that are read together: Parquet of one storage; other formats sort that out themselves.

    Raises:
        DataError: A Parquet file is not one, or was cut off.
    """
    groups: dict[Any, list[Path]] = {}
    for file in files:
        storage = parquet_storage(file) if format_in_use(source) == "parquet" else None
        groups.setdefault(storage, []).append(file)
    return [Batch(tuple(group)) for group in groups.values()]


def columns_of(spark: SparkSession, source: FileInput, file: Path | None) -> dict[str, str]:
    """Columns of a file, a Delta folder or (``file`` is None) the database table, with their types as far as known."""
    if source.jdbc is not None:
        return typed_columns(jdbc_frame(spark, source.jdbc))
    assert file is not None
    kind = format_in_use(source)
    if kind == "csv":
        return csv_columns(file, source)
    if kind == "jsonl":
        return jsonl_columns(file, source)
    if kind == "delta":
        return typed_columns(spark.read.format("delta").load(str(file)))
    return {field.name: str(field.type) for field in parquet_schema(file)}


def warnings_of(source: FileInput, file: Path) -> list[str]:
    """What a person should know of a file that is read all the same."""
    kind = format_in_use(source)
    return text_warnings(file, source, kind) if kind in ("csv", "jsonl") else []


def has_types(source: FileInput) -> bool:
    """Whether columns of the source have types, so that a time may be one without being read."""
    return format_in_use(source) not in ("csv", "jsonl")


def format_in_use(source: FileInput) -> Format | None:
    """The format of a source's files; None for a database."""
    return source.format or (None if source.path is None else format_of(source.path))
