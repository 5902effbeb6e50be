"""CSV and JSON Lines to cells. Nothing is inferred and no row is lost."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence, Set
from functools import reduce
from itertools import islice
from typing import Any

import pandas as pd
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
from precise_core.sources.config import FileInput
from precise_core.sources.csv_rows import ReadNumbered, csv_batches, csv_rows, header_of, line_batches, swallowed_line
from precise_core.sources.ids import JsonNumber, id_of_json, is_json_id
from precise_core.sources.objects import SourceFile
from precise_core.sources.raw import one_below_another, parts_of_row, row_as_json
from precise_core.sources.text_files import REPLACEMENT, lines_of, look
from schemas import columns as c

_CORRUPT = "_corrupt_record"
_SAMPLE_LINES = 1000
_JSON_TYPES = {bool: "boolean", int: "number", float: "number", str: "text", list: "list", dict: "object"}
_MOST_DIGITS = 4000  # of a whole number that Python reads
_PLAIN = json.JSONDecoder(parse_int=lambda text: int(text) if len(text) < _MOST_DIGITS else float(text))
_AS_WRITTEN = json.JSONDecoder(parse_int=JsonNumber, parse_float=JsonNumber, parse_constant=JsonNumber)
_SURROGATE = re.compile("[\ud800-\udfff]")  # half a character, which an escape can name and UTF-8 cannot hold
_BLANKS = " \t\r\n"


def csv_columns(file: SourceFile, source: FileInput) -> dict[str, str]:
    """The columns of a CSV file's header; all of them are text."""
    look(file, source, "csv")
    return dict.fromkeys(_distinct_names(header_of(file, source)), "text")


def jsonl_columns(file: SourceFile, source: FileInput) -> dict[str, str]:
    """The keys of the first thousand lines and what their values are; `any` where it differs or is null."""
    look(file, source, "jsonl")
    found: dict[str, set[str]] = defaultdict(set)
    for row in _sampled_rows(file, source):
        for name, value in row.items():
            found[name] |= {_JSON_TYPES[type(value)]} if value is not None else set()
    return {name: kinds.pop() if len(kinds) == 1 else "any" for name, kinds in found.items()}


def jsonl_keys(file: SourceFile, source: FileInput) -> set[str]:
    """The keys of all lines."""
    rows = map(_parsed, lines_of(file, source.encoding))
    return {name for row in rows if row is not None for name in row}


def csv_has_rows(file: SourceFile, source: FileInput) -> bool:
    """Whether anything but blank lines follows the header."""
    look(file, source, "csv")
    return next(islice(csv_rows(file, source), 1, None), None) is not None


def jsonl_has_rows(file: SourceFile, source: FileInput) -> bool:
    """Whether some line is not blank."""
    look(file, source, "jsonl")
    return any(line.strip() for line in lines_of(file, source.encoding))


def text_warnings(file: SourceFile, source: FileInput, kind: str) -> list[str]:
    """Problems of a file that is read nevertheless: its rows are rejected, or repaired, one by one."""
    found, notes = look(file, source, kind), []
    if found.undecodable_line is not None:
        notes.append(
            f"line {found.undecodable_line} is not {source.encoding}: ids of such lines are rejected (invalid_id), "
            "text is repaired; say which one it is with `encoding`, such as latin-1 or cp1252"
        )
    if found.has_escapes and source.escape == '"':
        notes.append('a backslash comes before a quote; if it escapes it, say so with `escape: "\\\\"`')
    if kind == "csv" and not found.is_plain and (number := swallowed_line(file, source)) is not None:
        notes.append(f"line {number} stands inside a quoted cell and would be a row by itself: is a quote not closed?")
    return [f"warning: {file}: {line}" for line in notes]


def read_csv(spark: SparkSession, files: Sequence[SourceFile], source: FileInput, needs: Sequence[Need]) -> DataFrame:
    # Spark takes the header of one file for all; files with another order of columns are read apart.
    groups: dict[tuple[tuple[str, ...], bool], list[SourceFile]] = defaultdict(list)
    for file in files:
        is_plain = look(file, source, "csv").is_plain
        header = header_of(file, source)
        require_columns(file, needs, header)
        groups[header, is_plain].append(file)
    parts = []
    for (header, is_plain), group in groups.items():
        schema = StructType([StructField(name, StringType()) for name in (*_distinct_names(header), _CORRUPT)])
        if is_plain:
            frame, path = _plain_csv(spark, group, source.delimiter, schema), path_of_row()
        else:
            real = [file.resolve() for file in group]  # a worker has a folder of its own
            frame = _read_by_python(spark, real, csv_batches(real, source, len(header)), schema)
            path = F.col(c.SOURCE_FILE)
        parts.append(_csv_cells(frame, header, needs, path))
    return one_below_another(parts)


def _plain_csv(spark: SparkSession, files: Sequence[SourceFile], delimiter: str, schema: StructType) -> DataFrame:
    return (
        spark.read.schema(schema)
        .options(
            header=True,
            sep=delimiter,
            quote='"',
            escape='"',  # RFC 4180: a quote inside a quoted cell is doubled
            mode="PERMISSIVE",
            columnNameOfCorruptRecord=_CORRUPT,
            columnPruning=False,  # with pruning, rows with too few or too many cells go unnoticed
        )
        .csv(spark_paths(files))
    )


def _read_by_python(
    spark: SparkSession, files: Sequence[SourceFile], read: ReadNumbered, schema: StructType
) -> DataFrame:
    """One task per file, which streams it."""
    numbers = spark.range(0, len(files), 1, numPartitions=len(files))
    return numbers.mapInArrow(read, StructType([*schema, StructField(c.SOURCE_FILE, StringType())]))


def _csv_cells(frame: DataFrame, header: Sequence[str], needs: Sequence[Need], path: Column) -> DataFrame:
    is_malformed = F.col(_CORRUPT).isNotNull()
    cells = [
        F.col(quoted(distinct)).alias(name) for distinct, name in zip(_distinct_names(header), header, strict=True)
    ]
    line = F.when(is_malformed, row_as_json(F.col(_CORRUPT).alias("line")))
    has_names = len({name.lower() for name in header}) == len(header)  # otherwise Spark cannot add up such structs
    return frame.select(
        *[cells[header.index(name)].alias(cell_name(name)) for name in names_of(needs)],
        problem_where(is_malformed),
        F.coalesce(line, row_as_json(*cells)).alias(c.RAW),
        path,
        *([parts_of_row(cells, line)] if has_names else []),
    )


def _distinct_names(header: Sequence[str]) -> list[str]:
    """Names that Spark can distinguish: it ignores case, and cannot refer to a column without a name."""
    lowered = Counter(name.lower() for name in (*header, "", _CORRUPT, c.SOURCE_FILE))
    return [name if lowered[name.lower()] == 1 else f"{name}#{position}" for position, name in enumerate(header)]


def read_jsonl(spark: SparkSession, files: Sequence[SourceFile], source: FileInput, needs: Sequence[Need]) -> DataFrame:
    plain = [file for file in files if look(file, source, "jsonl").is_plain]
    other = [file.resolve() for file in files if file not in set(plain)]  # a worker has a folder of its own
    parts = []
    if plain:
        parts.append(spark.read.text(spark_paths(plain)).select("value", path_of_row()))
    if other:
        schema = StructType([StructField("value", StringType())])
        parts.append(_read_by_python(spark, other, line_batches(other, source), schema))
    lines = reduce(DataFrame.unionByName, parts).where(F.trim("value", F.lit(_BLANKS)) != "")
    _require_keys(files[0], source, lines, needs)
    return json_cells(lines, needs, F.col("value"), F.col(c.SOURCE_FILE))


def json_cells(frame: DataFrame, needs: Sequence[Need], line: Column, source_file: Column) -> DataFrame:
    """Cells of a column that holds one JSON object per row."""
    names = names_of(needs)
    ids = {number for number, name in enumerate(names) if name in ids_of(needs)}
    rows = frame.select(F.make_valid_utf8(line).alias("line"), source_file.alias(c.SOURCE_FILE))
    rows = rows.select(_parser(names, ids)("line").alias("parsed"), "line", c.SOURCE_FILE)
    return rows.select(
        *[F.col("parsed")[_field(number)].alias(cell_name(name)) for number, name in enumerate(names)],
        problem_where(~F.col("parsed")["is_object"], [~F.col("parsed")["has_ids"]]),
        F.col("line").alias(c.RAW),
        c.SOURCE_FILE,
    )


def _parser(names: Sequence[str], ids: Set[int]) -> Callable[[str], Column]:
    """Lines to texts by name; ``ids`` are the places of names that hold ids.

    Spark's own JSON reads numbers as doubles, so that two long ids become one, and ignores what follows an object.
    """
    fields = [*map(_field, range(len(names))), "is_object", "has_ids"]

    def parse(lines: pd.Series) -> pd.DataFrame:
        return pd.DataFrame([_texts_of(line, names, ids) for line in lines], columns=fields, dtype=object)

    types = ", ".join(f"{field} string" for field in fields[:-2]) + ", is_object boolean, has_ids boolean"
    return F.pandas_udf(parse, types)  # type: ignore[call-overload]  # its types know no function to a frame


def _field(number: int) -> str:
    return f"text_{number}"


def _texts_of(line: str, names: Sequence[str], ids: Set[int]) -> list[str | bool | None]:
    """The texts, whether the line is an object, and whether its values for ids can be ids."""
    row = _parsed(line, _AS_WRITTEN)
    if row is None:
        return [*[None] * len(names), False, True]
    has_ids = all(is_json_id(row.get(names[place])) for place in ids)
    texts = [
        id_of_json(row.get(name)) if place in ids else _as_text(row.get(name), name, line)
        for place, name in enumerate(names)
    ]
    if "\\u" in line:
        texts = [text and _SURROGATE.sub(REPLACEMENT, text) for text in texts]
    return [*texts, True, has_ids]


def _as_text(value: Any, name: str, line: str) -> str | None:
    """Text as it is, a number as it is written, everything else as JSON."""
    if value is None or isinstance(value, str):
        return value and str(value)
    row = _parsed(line) or {}  # again, because numbers inside are numbers now
    return json.dumps(row.get(name), ensure_ascii=False, separators=(",", ":"))


def _parsed(line: str, decoder: json.JSONDecoder = _PLAIN) -> dict[str, Any] | None:
    try:
        row = decoder.decode(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def _require_keys(file: SourceFile, source: FileInput, lines: DataFrame, needs: Sequence[Need]) -> None:
    """JSON Lines has no header: a key counts as there when some line has it."""
    present = {name for row in _sampled_rows(file, source) for name in row}
    if not set(names_of(needs)) <= present:
        keys = lines.select(F.explode(F.json_object_keys("value")).alias("key")).distinct().collect()
        present = {row["key"] for row in keys}
    require_columns(file, needs, sorted(present))


def _sampled_rows(file: SourceFile, source: FileInput) -> Iterator[dict[str, Any]]:
    lines = islice(lines_of(file, source.encoding), _SAMPLE_LINES)
    return (row for row in map(_parsed, lines) if row is not None)
