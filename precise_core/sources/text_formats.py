"""CSV and JSON Lines to cells. Nothing is inferred and no row is lost."""

from __future__ import annotations

import csv
import gzip
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from functools import reduce
from itertools import islice
from pathlib import Path
from typing import IO, Any

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import StringType, StructField, StructType

from precise_core.sources.cells import (
    Need,
    cell_name,
    ids_of,
    names_of,
    path_of_row,
    problem_where,
    quoted,
    require_columns,
    spark_paths,
)
from precise_core.sources.ids import doubtful_ids, is_no_json_id, json_id
from precise_core.sources.raw import row_as_json
from schemas import columns as c

_CORRUPT = "_corrupt_record"
_SAMPLE_LINES = 1000
_JSON_TYPES = {bool: "boolean", int: "number", float: "number", str: "text", list: "list", dict: "object"}


def csv_columns(file: Path, delimiter: str) -> dict[str, str]:
    """The columns of a CSV file's header; all of them are text."""
    return dict.fromkeys(_distinct_names(_header(file, delimiter)), "text")


def jsonl_columns(file: Path) -> dict[str, str]:
    """The keys of the first thousand lines and what their values are; `any` where it differs or is null."""
    found: dict[str, set[str]] = defaultdict(set)
    for row in _sampled_rows(file):
        for name, value in row.items():
            found[name] |= {_JSON_TYPES[type(value)]} if value is not None else set()
    return {name: kinds.pop() if len(kinds) == 1 else "any" for name, kinds in found.items()}


def csv_has_rows(file: Path, delimiter: str) -> bool:
    """Whether anything but blank lines follows the header."""
    with _open_text(file) as stream:
        next(csv.reader(stream, delimiter=delimiter), None)
        return any(line.strip() for line in stream)


def jsonl_has_rows(file: Path) -> bool:
    """Whether some line is not blank."""
    with _open_text(file) as stream:
        return any(line.strip() for line in stream)


def _open_text(file: Path) -> IO[str]:
    if file.suffix == ".gz":
        return gzip.open(file, "rt", encoding="utf-8-sig", errors="replace", newline="")
    return file.open(encoding="utf-8-sig", errors="replace", newline="")


def read_csv(
    spark: SparkSession, files: Sequence[Path], delimiter: str, needs: Sequence[Need], multi_line: bool
) -> DataFrame:
    # Spark takes the header of one file for all; files with another order of columns are read apart.
    files_of_header: dict[tuple[str, ...], list[Path]] = defaultdict(list)
    for file in files:
        header = _header(file, delimiter)
        require_columns(file, needs, header)
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
        .csv(spark_paths(files))
    )
    is_malformed = F.col(_CORRUPT).isNotNull()
    cells = [F.col(quoted(distinct)).alias(name) for distinct, name in zip(names, header, strict=True)]
    return frame.select(
        *[cells[header.index(name)].alias(cell_name(name)) for name in names_of(needs)],
        problem_where(is_malformed),
        F.when(is_malformed, row_as_json(F.col(_CORRUPT).alias("line"))).otherwise(row_as_json(*cells)).alias(c.RAW),
        path_of_row(),
    )


def _distinct_names(header: Sequence[str]) -> list[str]:
    """Names that Spark tells apart: it ignores case, and cannot refer to a column without a name."""
    lowered = Counter(name.lower() for name in (*header, "", _CORRUPT))
    return [name if lowered[name.lower()] == 1 else f"{name}#{position}" for position, name in enumerate(header)]


def read_jsonl(spark: SparkSession, files: Sequence[Path], needs: Sequence[Need]) -> DataFrame:
    lines = spark.read.text(spark_paths(files)).where(F.trim("value") != "")
    _require_keys(files[0], lines, needs)
    return json_cells(lines, needs, F.col("value"), path_of_row())


def json_cells(frame: DataFrame, needs: Sequence[Need], line: Column, source_file: Column) -> DataFrame:
    """Cells of a column that holds one JSON object per row."""
    names = names_of(needs)
    schema = StructType([StructField(name, StringType()) for name in [*names, _CORRUPT]])
    parsed = F.from_json("line", schema, {"mode": "PERMISSIVE", "columnNameOfCorruptRecord": _CORRUPT})
    rows = frame.select(line.alias("line"), source_file.alias(c.SOURCE_FILE))
    is_object = F.ltrim("line").startswith("{")
    rows = rows.select(parsed.alias("parsed"), is_object.alias("is_object"), "line", c.SOURCE_FILE)
    values, ids, typed = F.col("parsed"), ids_of(needs), F.col("typed")
    if ids:
        rows = rows.withColumn("typed", doubtful_ids(F.col("line"), values, ids))
    cells = {name: values[name] for name in names} | {name: json_id(values[name], typed[name]) for name in ids}
    is_malformed = ~F.col("is_object") | values.isNull() | values[_CORRUPT].isNotNull()
    return rows.select(
        *[column.alias(cell_name(name)) for name, column in cells.items()],
        problem_where(is_malformed, [is_no_json_id(values[name], typed[name]) for name in ids]),
        F.col("line").alias(c.RAW),
        c.SOURCE_FILE,
    )


def _require_keys(file: Path, lines: DataFrame, needs: Sequence[Need]) -> None:
    """JSON Lines has no header: a key counts as there when some line has it."""
    present = _sampled_keys(file)
    if not set(names_of(needs)) <= present:
        keys = lines.select(F.explode(F.json_object_keys("value")).alias("key")).distinct().collect()
        present = {row["key"] for row in keys}
    require_columns(file, needs, sorted(present))


def _sampled_keys(file: Path) -> set[str]:
    return {name for row in _sampled_rows(file) for name in row}


def _sampled_rows(file: Path) -> Iterator[dict[str, Any]]:
    with _open_text(file) as stream:
        for line in islice(stream, _SAMPLE_LINES):
            try:
                row = json.loads(line)
            except ValueError:
                continue  # Spark reads the line again and marks it as malformed
            if isinstance(row, dict):
                yield row


def _header(file: Path, delimiter: str) -> tuple[str, ...]:
    with _open_text(file) as stream:
        return tuple(next(csv.reader(stream, delimiter=delimiter), ()))
