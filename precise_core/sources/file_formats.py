"""CSV, JSON Lines and Parquet to one frame of text cells. Nothing is inferred and no row is lost.

Every reader returns one column per requested name (text; a timestamp where Parquet has one), reached by ``cell(name)``,
and problem, raw, source_file as in ``precise_core/sources/raw.py``.
"""

from __future__ import annotations

import csv
import gzip
import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import reduce
from itertools import islice
from pathlib import Path
from typing import IO, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import LongType, StringType, StructField, StructType

from precise_core.errors import DataError, SchemaError
from precise_core.sources.config import FileInput
from precise_core.sources.listing import list_files
from precise_core.sources.raw import MALFORMED_ROW, PROBLEM, row_as_json
from schemas import columns as c

# What a column is used for decides which Parquet types it may have.
Role = Literal["id", "time", "text", "texts", "number"]
Need = tuple[str, Role]

_CORRUPT = "_corrupt_record"
_SAMPLE_LINES = 1000


def read_cells(spark: SparkSession, source: FileInput, needs: Sequence[Need], *, multi_line: bool = False) -> DataFrame:
    """The requested columns of all files of ``source`` as text cells.

    Args:
        spark: The session.
        source: Path (wildcards allowed), format and delimiter.
        needs: (column name, role) pairs; every named column must exist in every file (JSON Lines: in some line).
        multi_line: CSV only: quoted cells may hold line breaks (such a file is read by one task).

    Raises:
        DataError: No file matches, or a file is empty or truncated.
        SchemaError: A column is missing, twice in the header, or of a type that its role cannot have.
    """
    files = list_files(source.path)
    file_format = source.format or _format_of(source.path)
    if file_format == "csv":
        return _read_csv(spark, files, source.delimiter, needs, multi_line)
    return _read_jsonl(spark, files, needs) if file_format == "jsonl" else _read_parquet(spark, files, needs)


def cell(name: str) -> Column:
    """The cell of the file's column ``name`` in a frame of ``read_cells``."""
    return F.col(_quoted(_cell_name(name)))


def _cell_name(name: str) -> str:
    return f"cell:{name}"


def _quoted(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"


def _format_of(path: str) -> str:
    lowered = path.lower()
    if lowered.endswith((".csv", ".csv.gz")):
        return "csv"
    return "parquet" if lowered.endswith(".parquet") else "jsonl"


def _names(needs: Sequence[Need]) -> list[str]:
    return list(dict.fromkeys(name for name, _ in needs))


def _source_file() -> Column:
    return F.regexp_replace(F.col("_metadata.file_path"), "^file:/+", "/").alias(c.SOURCE_FILE)


def _problem(is_malformed: Column) -> Column:
    return F.when(is_malformed, F.lit(MALFORMED_ROW)).alias(PROBLEM)


def _require(file: Path, needs: Sequence[Need], present: Sequence[str]) -> None:
    for name in _names(needs):
        if present.count(name) != 1:
            what = "no column" if name not in present else "more than one column"
            raise SchemaError(f"{file}: {what} {name!r}; the columns there are {list(present)}")


def _open_text(file: Path) -> IO[str]:
    if file.suffix == ".gz":
        return gzip.open(file, "rt", encoding="utf-8-sig", errors="replace", newline="")
    return file.open(encoding="utf-8-sig", errors="replace", newline="")


def _read_csv(
    spark: SparkSession, files: Sequence[Path], delimiter: str, needs: Sequence[Need], multi_line: bool
) -> DataFrame:
    # Spark takes the header of one file for all; files with another order of columns are read apart.
    files_of_header: dict[tuple[str, ...], list[Path]] = defaultdict(list)
    for file in files:
        with _open_text(file) as stream:
            header = tuple(next(csv.reader(stream, delimiter=delimiter), ()))
        _require(file, needs, header)
        files_of_header[header].append(file)
    parts = [
        _read_csv_of_header(spark, group, header, delimiter, needs, multi_line)
        for header, group in files_of_header.items()
    ]
    return reduce(DataFrame.unionByName, parts)


def _read_csv_of_header(
    spark: SparkSession,
    files: Sequence[Path],
    header: Sequence[str],
    delimiter: str,
    needs: Sequence[Need],
    multi_line: bool,
) -> DataFrame:
    names = _distinct_names(header)
    schema = StructType([StructField(name, StringType()) for name in names])
    frame = (
        spark.read.schema(schema.add(_CORRUPT, StringType()))
        .options(
            header=True,
            sep=delimiter,
            quote='"',
            escape='"',  # RFC 4180: a quote inside a quoted cell is doubled
            mode="PERMISSIVE",
            columnNameOfCorruptRecord=_CORRUPT,
            columnPruning=False,  # with pruning, rows with too few or too many cells go unnoticed
            multiLine=multi_line,
        )
        .csv([str(file) for file in files])
    )
    is_malformed = F.col(_CORRUPT).isNotNull()
    cells = [F.col(_quoted(distinct)).alias(name) for distinct, name in zip(names, header, strict=True)]
    return frame.select(
        *[cells[header.index(name)].alias(_cell_name(name)) for name in _names(needs)],
        _problem(is_malformed),
        F.when(is_malformed, row_as_json(F.col(_CORRUPT).alias("line"))).otherwise(row_as_json(*cells)).alias(c.RAW),
        _source_file(),
    )


def _distinct_names(header: Sequence[str]) -> list[str]:
    """Names that Spark tells apart: it ignores case, and cannot refer to a column without a name."""
    lowered = Counter(name.lower() for name in (*header, "", _CORRUPT))
    return [name if lowered[name.lower()] == 1 else f"{name}#{position}" for position, name in enumerate(header)]


def _read_jsonl(spark: SparkSession, files: Sequence[Path], needs: Sequence[Need]) -> DataFrame:
    lines = spark.read.text([str(file) for file in files]).where(F.trim("value") != "")
    _require_keys(files[0], lines, needs)
    names = _names(needs)
    schema = StructType([StructField(name, StringType()) for name in [*names, _CORRUPT]])
    parsed = F.from_json("value", schema, {"mode": "PERMISSIVE", "columnNameOfCorruptRecord": _CORRUPT})
    is_object = F.ltrim("value").startswith("{")
    frame = lines.select(parsed.alias("parsed"), is_object.alias("is_object"), "value", _source_file())
    return frame.select(
        *[F.col("parsed")[name].alias(_cell_name(name)) for name in names],
        _problem(~F.col("is_object") | F.col("parsed").isNull() | F.col("parsed")[_CORRUPT].isNotNull()),
        F.col("value").alias(c.RAW),
        c.SOURCE_FILE,
    )


def _require_keys(file: Path, lines: DataFrame, needs: Sequence[Need]) -> None:
    """JSON Lines has no header: a key counts as there when some line has it."""
    present = _sampled_keys(file)
    if not set(_names(needs)) <= present:
        keys = lines.select(F.explode(F.json_object_keys("value")).alias("key")).distinct().collect()
        present = {row["key"] for row in keys}
    _require(file, needs, sorted(present))


def _sampled_keys(file: Path) -> set[str]:
    keys: set[str] = set()
    with _open_text(file) as stream:
        for line in islice(stream, _SAMPLE_LINES):
            try:
                row = json.loads(line)
            except ValueError:
                continue  # Spark reads the line again and marks it as malformed
            keys.update(row if isinstance(row, dict) else ())
    return keys


def _read_parquet(spark: SparkSession, files: Sequence[Path], needs: Sequence[Need]) -> DataFrame:
    first = _parquet_schema(files[0], needs)
    for file in files[1:]:
        schema = _parquet_schema(file, needs)
        for name in _names(needs):
            if schema.field(name).type != first.field(name).type:
                raise SchemaError(
                    f"{file}: column {name!r} is {schema.field(name).type}, but {first.field(name).type} in {files[0]}"
                )
    frame = parquet_frame(spark, files)
    cells = [_parquet_cell(frame, name, first.field(name).type).alias(_cell_name(name)) for name in _names(needs)]
    return frame.select(
        *cells,
        _problem(F.lit(False)),
        row_as_json(*[F.col(_quoted(name)) for name in frame.columns]).alias(c.RAW),
        _source_file(),
    )


def parquet_frame(spark: SparkSession, files: Sequence[Path]) -> DataFrame:
    """Parquet files as they are, but timestamps in nanoseconds (pandas' default) arrive as bigint."""
    # Spark refuses TIMESTAMP(NANOS) otherwise; the setting is read again when the query runs, so it stays set.
    spark.conf.set("spark.sql.legacy.parquet.nanosAsLong", "true")
    return spark.read.parquet(*[str(file) for file in files])


def parquet_time(frame: DataFrame, name: str) -> Column:
    """A day or instant of ``parquet_frame`` as a timestamp; pyarrow's schema does not tell how it was stored."""
    column = F.col(_quoted(name))
    if isinstance(frame.schema[name].dataType, LongType):
        return F.timestamp_micros(F.floor(column / 1000).cast("bigint"))
    return column.cast("timestamp")


def parquet_schema(file: Path) -> pa.Schema:
    """The footer's schema.

    Raises:
        DataError: The file is not Parquet or was cut off; the message names it.
    """
    try:
        return pq.read_schema(file)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{file}: not a Parquet file, or cut off ({error})") from error


def _parquet_schema(file: Path, needs: Sequence[Need]) -> pa.Schema:
    schema = parquet_schema(file)
    _require(file, needs, schema.names)
    for name, role in needs:
        if not _fits(role, _plain(schema.field(name).type)):
            raise SchemaError(f"{file}: column {name!r} is {schema.field(name).type}; allowed is {_ALLOWED[role]}")
    return schema


_ALLOWED = {
    "id": "text or whole numbers",
    "time": "a timestamp, a date, a number or text",
    "text": "text, a number, a date or a boolean",
    "texts": "text, or a list of text",
    "number": "a number, a boolean or text",
}


def _plain(kind: pa.DataType) -> pa.DataType:
    """The type without dictionary encoding (pandas' categories)."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind))


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
        return _is_text(kind) or bool(pa.types.is_integer(kind))
    if role == "time":
        return _is_text(kind) or _is_number(kind) or _is_day_or_instant(kind)
    if role == "number":
        return _is_text(kind) or _is_number(kind) or is_boolean
    is_scalar = _is_text(kind) or _is_number(kind) or _is_day_or_instant(kind) or is_boolean
    return is_scalar or (role == "texts" and _is_list_of_text(kind))


def _parquet_cell(frame: DataFrame, name: str, kind: pa.DataType) -> Column:
    if _is_day_or_instant(_plain(kind)):
        return parquet_time(frame, name)
    column = F.col(_quoted(name))
    # A large double prints as 1.7E9, which a cast to decimal reads back.
    return F.to_json(column) if _is_list_of_text(kind) else column.cast("string")
