"""Parquet, Delta and databases to cells: formats whose columns have types."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError
from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import to_arrow_type
from pyspark.sql.types import BinaryType, LongType, StructField

from precise_core.config.folders import require_delta_path
from precise_core.errors import ConfigError, DataError, SchemaError
from precise_core.sources.cells import (
    Need,
    Role,
    cell_name,
    ids_of,
    names_of,
    path_of_row,
    problem_where,
    quoted,
    require_columns,
    spark_paths,
)
from precise_core.sources.config import FileInput, JdbcTable
from precise_core.sources.ids import id_text, is_no_id, shown_id
from precise_core.sources.objects import SourceFile
from precise_core.sources.raw import RAW_PARTS, parts_of_row, row_as_json
from precise_core.warehouse.reader import open_parquet
from schemas import columns as c


def read_parquet(
    spark: SparkSession, files: Sequence[SourceFile], _source: FileInput, needs: Sequence[Need]
) -> DataFrame:
    """The needed columns of Parquet files of one storage (``parquet_storage``)."""
    for file in reversed(files):
        schema = parquet_schema(file)
        types = dict(zip(schema.names, schema.types, strict=True))
        _require_types(file, needs, types)
    return _typed_cells(parquet_frame(spark, files), needs, types, path_of_row())


def read_delta(spark: SparkSession, folder: SourceFile, version: int | None, needs: Sequence[Need]) -> DataFrame:
    """The needed columns of one version of a Delta table; the newest by default."""
    number = delta_version(folder) if version is None else version
    frame = spark.read.format("delta").option("versionAsOf", number).load(str(folder))
    return _typed_frame_cells(frame, needs, str(folder))


def delta_version(folder: SourceFile) -> int:
    """The newest version of a Delta table.

    Raises:
        DataError: There is none.
        ConfigError: Its path has characters that Delta's library cannot take.
    """
    require_delta_path("Delta table", str(folder))
    try:
        return DeltaTable(str(folder)).version()
    except DeltaError as error:
        raise DataError(f"{folder}: not a Delta table ({error})") from error


def read_jdbc(spark: SparkSession, source: JdbcTable, needs: Sequence[Need]) -> DataFrame:
    """The needed columns of a database table or query, persisted so that all of a run sees the same rows."""
    # What is kept is the JSON alone, and not beside it what it is made of.
    return _typed_frame_cells(jdbc_frame(spark, source), needs, jdbc_label(source)).drop(RAW_PARTS).persist()


def jdbc_frame(spark: SparkSession, source: JdbcTable) -> DataFrame:
    """The table or query as it is.

    Raises:
        ConfigError: An environment variable is not set.
        DataError: The database cannot be reached or refuses the question.
    """
    content = {"dbtable": source.table} if source.table is not None else {"query": source.query}
    # A time without a zone is UTC; read the usual way it would be in the zone of the JVM.
    options: dict[str, Any] = {"url": source.url, "driver": source.driver, "preferTimestampNTZ": True}
    options["fetchsize"] = source.fetch_rows
    try:
        return spark.read.format("jdbc").options(**options, **content, **_credentials(source)).load()
    except (PySparkException, Py4JJavaError) as error:
        raise DataError(f"{jdbc_label(source)}: {_cause(error)}") from error


def jdbc_label(source: JdbcTable) -> str:
    """Names the table in messages and in `source_file`: address and table, never a password."""
    return f"{source.url.partition('?')[0]} {source.table or source.query}"


def typed_columns(frame: DataFrame) -> dict[str, str]:
    """Columns and types of a Delta or database table, in Spark's spelling."""
    return {field.name: field.dataType.simpleString() for field in frame.schema}


def _credentials(source: JdbcTable) -> dict[str, str]:
    named = {"user": source.user_env, "password": source.password_env}
    missing = [variable for variable in named.values() if variable is not None and variable not in os.environ]
    if missing:
        raise ConfigError(f"{jdbc_label(source)}: environment variable {missing[0]} is not set")
    return {option: os.environ[variable] for option, variable in named.items() if variable is not None}


def _cause(error: Exception) -> str:
    if "ClassNotFoundException" in str(error):
        return "the driver's jar is not on Spark's class path; `make install` adds PostgreSQL's, --jars any other"
    lines = str(getattr(error, "java_exception", None) or error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _typed_frame_cells(frame: DataFrame, needs: Sequence[Need], label: str) -> DataFrame:
    require_columns(label, needs, frame.columns)
    types = {name: _arrow_type(label, frame.schema[name]) for name in names_of(needs)}
    _require_types(label, needs, types)
    return _typed_cells(frame, needs, types, F.lit(label).alias(c.SOURCE_FILE))


def _arrow_type(label: str, column: StructField) -> pa.DataType:
    try:
        return to_arrow_type(column.dataType)
    except PySparkException as error:
        kind = column.dataType.simpleString()
        raise SchemaError(f"{label}: column {column.name!r} is {kind}, which cannot be read") from error


def _typed_cells(
    frame: DataFrame, needs: Sequence[Need], types: Mapping[str, pa.DataType], source_file: Column
) -> DataFrame:
    ids = {name: _plain(types[name]) for name in ids_of(needs)}
    cells = {name: _typed_cell(frame, name, types[name]) for name in names_of(needs)}
    cells |= {name: id_text(F.col(quoted(name)), kind) for name, kind in ids.items()}
    are_no_ids = [is_no_id(F.col(quoted(name)), kind) for name, kind in ids.items()]
    shown = {name: _shown(frame, name, types.get(name)) for name in frame.columns}
    shown |= {name: shown_id(shown[name], kind) for name, kind in ids.items()}
    came = [column.alias(name) for name, column in shown.items()]
    # Rows are put in order by what came, which Spark cannot do with these types.
    has_order = not any(kind in field.dataType.simpleString() for field in frame.schema for kind in ("map<", "variant"))
    return frame.select(
        *[column.alias(cell_name(name)) for name, column in cells.items()],
        problem_where(F.lit(False), are_no_ids),
        row_as_json(*came).alias(c.RAW),
        source_file,
        *([parts_of_row(came, F.lit(None).cast("string"))] if has_order else []),
    )


def _shown(frame: DataFrame, name: str, kind: pa.DataType | None) -> Column:
    """A column for the JSON of a rejected row, so that it can be read again."""
    if kind is not None and pa.types.is_timestamp(_plain(kind)):
        return parquet_time(frame, name)  # in nanoseconds it arrives as a number
    is_binary = isinstance(frame.schema[name].dataType, BinaryType)
    return F.col(quoted(name)).cast("string") if is_binary else F.col(quoted(name))  # and not in Base64


def parquet_frame(spark: SparkSession, files: Sequence[SourceFile]) -> DataFrame:
    """Parquet files as they are, but timestamps in nanoseconds (pandas' default) arrive as bigint."""
    # Spark refuses TIMESTAMP(NANOS) otherwise; the setting is read again when the query runs, so it stays set.
    spark.conf.set("spark.sql.legacy.parquet.nanosAsLong", "true")
    return spark.read.parquet(*spark_paths(files))


def parquet_time(frame: DataFrame, name: str) -> Column:
    """A day or instant of ``parquet_frame`` as a timestamp; pyarrow's schema does not show how it was stored."""
    column = F.col(quoted(name))
    if isinstance(frame.schema[name].dataType, LongType):
        return F.timestamp_micros(F.floor(column / 1000).cast("bigint"))
    return column.cast("timestamp")


def _footer(file: SourceFile) -> pq.FileMetaData:
    """The metadata of a Parquet file."""
    try:
        if isinstance(file, Path):
            return pq.read_metadata(file)
        with open_parquet(str(file)) as parquet:
            return parquet.metadata
    except PermissionError as error:
        raise DataError(f"{file}: cannot be read (Permission denied)") from error
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{file}: not a Parquet file, or cut off ({error})") from error


def parquet_storage(file: SourceFile) -> frozenset[tuple[str, str, str]]:
    """How a file stores its columns: Spark reads files together only where they are alike in it.

    Arrow's types do not show it: a timestamp[ns] may be stored in two ways, of which Spark reads one as a number.
    """
    schema = _footer(file).schema
    columns = [schema.column(number) for number in range(len(schema))]
    return frozenset((column.path, column.physical_type, str(column.logical_type)) for column in columns)


def parquet_schema(file: SourceFile) -> pa.Schema:
    return _footer(file).schema.to_arrow_schema()


def parquet_columns(file: SourceFile, _source: FileInput) -> dict[str, str]:
    """Columns and types, in Arrow's spelling."""
    return {field.name: str(field.type) for field in parquet_schema(file)}


def parquet_has_rows(file: SourceFile, _source: FileInput) -> bool:
    """Whether the footer counts any."""
    return bool(_footer(file).num_rows)


def _require_types(source: object, needs: Sequence[Need], types: Mapping[str, pa.DataType]) -> None:
    require_columns(source, needs, list(types))
    for name, role in needs:
        if not _fits(role, _plain(types[name])):
            raise SchemaError(f"{source}: column {name!r} is {types[name]}; allowed is {_ALLOWED[role]}")


_ALLOWED = {
    "id": "text or whole numbers (also as decimals or floats)",
    "time": "a timestamp, a date, a number or text",
    "text": "text, a number, a date or a boolean",
    "texts": "text, or a list of text",
    "number": "a number, a boolean or text",
}


def _plain(kind: pa.DataType) -> pa.DataType:
    """The type without dictionary encoding (pandas' categories)."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _is_text(kind: pa.DataType) -> bool:
    """Text, or bytes that a writer did not declare as text, or nothing at all."""
    is_binary = pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or is_binary or pa.types.is_null(kind))


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _is_day_or_instant(kind: pa.DataType) -> bool:
    return bool(pa.types.is_timestamp(kind) or pa.types.is_date(kind))


def _is_list_of_text(kind: pa.DataType) -> bool:
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    return bool(is_list and _is_text(_plain(kind.value_type)))


def _fits(role: Role, kind: pa.DataType) -> bool:
    is_boolean = bool(pa.types.is_boolean(kind))
    if role == "id":
        return _is_text(kind) or _is_number(kind)
    if role == "time":
        return _is_text(kind) or _is_number(kind) or _is_day_or_instant(kind)
    if role == "number":
        return _is_text(kind) or _is_number(kind) or is_boolean
    is_scalar = _is_text(kind) or _is_number(kind) or _is_day_or_instant(kind) or is_boolean
    return is_scalar or (role == "texts" and _is_list_of_text(kind))


def _typed_cell(frame: DataFrame, name: str, kind: pa.DataType) -> Column:
    if _is_day_or_instant(_plain(kind)):
        return parquet_time(frame, name)
    column = F.col(quoted(name))
    # A large double prints as 1.7E9, which a cast to decimal reads back.
    return F.to_json(column) if _is_list_of_text(kind) else column.cast("string")
