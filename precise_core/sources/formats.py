"""One entrance to every format: which columns a source has, and its cells."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pyspark.sql import DataFrame, SparkSession

from precise_core.sources.cells import Batch, Need
from precise_core.sources.config import FileInput, Format, format_of
from precise_core.sources.listing import list_files
from precise_core.sources.text_formats import csv_columns, jsonl_columns, read_csv, read_jsonl, text_warnings
from precise_core.sources.typed_formats import (
    jdbc_frame,
    parquet_schema,
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
        needs: (column name, role) pairs; every named column must exist in every file (JSON Lines: in some line).

    Raises:
        DataError: A file is empty or truncated, or the database cannot be read.
        SchemaError: A column is missing, twice in the header, or of a type that its role cannot have.
    """
    if source.jdbc is not None:
        return read_jdbc(spark, source.jdbc, needs)
    kind = format_in_use(source)
    if kind == "csv":
        return read_csv(spark, batch.files, source, needs)
    if kind == "delta":
        return read_delta(spark, batch.files[0], batch.version, needs)
    return read_jsonl(spark, batch.files, source, needs) if kind == "jsonl" else read_parquet(spark, batch.files, needs)


def whole(source: FileInput) -> list[Batch]:
    """Everything that ``source`` names, in one batch.

    Raises:
        DataError: No file matches, or a file is empty.
    """
    if source.path is None:
        return [Batch()]
    if format_in_use(source) == "delta":
        return [Batch((Path(source.path).resolve(),))]
    return [Batch(tuple(list_files(source.path)))]


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
