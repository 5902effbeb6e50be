"""Own data: files, Delta or a database with any column names (docs/your_data.md)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import StringType, TimestampType

from precise_core.errors import ConfigError, DataError
from precise_core.sources.cells import Batch, Need, Role, cell, cell_name, quoted
from precise_core.sources.config import (
    ColumnOrConstant,
    EventsInput,
    FileInput,
    FilesSource,
    ImpressionsInput,
    ItemsInput,
    TableInput,
    TimeReading,
)
from precise_core.sources.formats import read_cells, whole
from precise_core.sources.listing import list_files
from precise_core.sources.objects import SourceFile, folder_of
from precise_core.sources.raw import (
    INVALID_FLAG,
    INVALID_TIME,
    INVALID_VALUE,
    PROBLEM,
    RAW_EVENT_TYPES,
    RAW_IMPRESSION_TYPES,
    RAW_ITEM_TYPES,
    RAW_PARTS,
    RawTables,
    one_below_another,
    raw_frame,
)
from precise_core.sources.typed_formats import delta_version, jdbc_label
from precise_core.store import name_of
from schemas import columns as c

_MICROS_PER_UNIT = {"seconds": 1_000_000, "milliseconds": 1_000, "microseconds": 1}
# Spark's own cast also accepts "2024", "12:30" (today!) and "170412"; a time without a full date is not a time.
_FULL_DATE = r"^\d{4}-\d{2}-\d{2}([ T].*)?$"
# Years 1 to 9999: beyond them Python cannot hold what Spark can.
_FIRST_MICROS = -62_135_596_800_000_000
_LAST_MICROS = 253_402_300_799_999_999

_TRUE = ("true", "1", "yes", "t", "y", "1.0")
_FALSE = ("false", "0", "no", "f", "n", "0.0")


# The cells of some needs, wherever they come from: files, or rows that were rejected once.
ReadCells = Callable[[Sequence[Need]], DataFrame]


def inputs_of(source: FilesSource) -> dict[str, TableInput]:
    """What the configuration names, by the table it goes into."""
    named = {"events": source.events, "items": source.items, "impressions": source.impressions}
    return {name: spec for name, spec in named.items() if spec is not None}


def input_files(source: FilesSource) -> list[SourceFile]:
    """The files that exist; files that were ingested may be archived since, which is checked where they are read."""
    specs = inputs_of(source).values()
    paths = [spec.path for spec in specs if spec.path is not None and spec.format_in_use != "delta"]
    return [file for path in paths for file in _files_there(path)]


def _files_there(path: str) -> list[SourceFile]:
    try:
        return list_files(path)
    except DataError:
        return []


def state_of_tables(source: FilesSource) -> str:
    """A text that changes with the content of the Delta and database tables."""
    return "".join(map(_state_of_table, inputs_of(source).values()))


def _state_of_table(spec: FileInput) -> str:
    if spec.jdbc is not None:
        return datetime.now(UTC).isoformat()  # what a database holds is only known by a query: never up to date
    is_delta = spec.path is not None and spec.format_in_use == "delta"
    return f"{spec.path} version {delta_version(folder_of(str(spec.path)))}" if is_delta else ""


def has_impressions(source: FilesSource) -> bool:
    return source.impressions is not None


def describe(source: FilesSource) -> str:
    names = [jdbc_label(s.jdbc) if s.jdbc else name_of(str(s.path)) for s in inputs_of(source).values()]
    return f"Own data from {', '.join(names)}."


def read(spark: SparkSession, source: FilesSource, batches: Mapping[str, Sequence[Batch]] | None = None) -> RawTables:
    """The rows of ``source`` in the raw shape.

    Args:
        batches: Only these, by table name; a table without any has no rows. Everything by default.
    """
    frames: dict[str, DataFrame | None] = dict.fromkeys(inputs_of(source))
    for name, spec in inputs_of(source).items():
        parts = [
            read_mapped(spark, spec, partial(read_cells, spark, spec, batch))
            for batch in (whole(spec) if batches is None else batches.get(name, ()))
        ]
        frames[name] = one_below_another(parts) if parts else None
    return RawTables(
        events=frames.get("events"),
        items=frames.get("items"),
        impressions=frames.get("impressions"),
        has_catalog=source.items is not None,
    )


def needs_of(spec: TableInput) -> list[Need]:
    """Every column that the configuration names, and what for."""
    if isinstance(spec, EventsInput):
        return [
            *_needs("id", spec.user, spec.item, spec.event_id, spec.scene.column, spec.action.column),
            *_needs("time", spec.time),
            *_needs("number", spec.value),
        ]
    if isinstance(spec, ItemsInput):
        return [
            *_needs("id", spec.item),
            *_needs("text", spec.title, spec.description, *spec.attributes, spec.deleted),
            *_needs("texts", *spec.categories),
            *_needs("time", spec.published, spec.updated),
        ]
    return [
        *_needs("id", spec.user, spec.item, spec.impression_id),
        *_needs("time", spec.time),
        *_needs("number", spec.label),
        *_needs("text", *spec.context),
    ]


def read_mapped(spark: SparkSession, spec: TableInput, read: ReadCells) -> DataFrame:
    """Cells in the raw shape of the table that ``spec`` describes."""
    check_time_reading(spark, spec.time_reading)
    cells = _without_missing(read(needs_of(spec)), spec)
    if isinstance(spec, EventsInput):
        return _map_events(spec, cells)
    return _map_items(spec, cells) if isinstance(spec, ItemsInput) else _map_impressions(spec, cells)


def _without_missing(cells: DataFrame, spec: FileInput) -> DataFrame:
    """The cells, null where their text is one of ``spec.null_values``."""
    if not spec.null_values:
        return cells
    names = [field.name for field in cells.schema if field.dataType == StringType()]
    texts = {name: F.col(quoted(name)) for name in names if name.startswith(cell_name(""))}
    return cells.withColumns(
        {name: F.when(~F.trim(text).isin(*spec.null_values), text) for name, text in texts.items()}
    )


def _map_events(spec: EventsInput, cells: DataFrame) -> DataFrame:
    value = None if spec.value is None else _number(spec.value)
    columns = {
        c.EVENT_ID: _optional(spec.event_id),
        c.USER_ID: cell(spec.user),
        c.ITEM_ID: cell(spec.item),
        c.SCENE: _cell_or_constant(spec.scene),
        c.ACTION: _cell_or_constant(spec.action),
        c.EVENT_TS: _time(cells, spec.time, spec),
        c.VALUE: F.lit(None) if value is None else value,
    }
    problems = [] if value is None or spec.value is None else [_unreadable(spec.value, value, INVALID_VALUE)]
    return _to_raw(cells, RAW_EVENT_TYPES, columns, problems)


def _map_items(spec: ItemsInput, cells: DataFrame) -> DataFrame:
    times = {name: _time(cells, name, spec) for name in (spec.published, spec.updated) if name is not None}
    deleted = None if spec.deleted is None else _flag(spec.deleted)
    columns = {
        c.ITEM_ID: cell(spec.item),
        c.TITLE: _optional(spec.title),
        c.DESCRIPTION: _optional(spec.description),
        c.CATEGORIES: _list(spec.categories),
        c.ATTRIBUTES: _map(spec.attributes),
        c.PUBLISHED_TS: times.get(spec.published or "", F.lit(None)),
        c.UPDATED_TS: times.get(spec.updated or "", F.lit(None)),
        c.IS_DELETED: F.lit(None) if deleted is None else deleted,
    }
    problems = [_unreadable(name, time, INVALID_TIME) for name, time in times.items()]
    if deleted is not None and spec.deleted is not None:
        problems.append(_unreadable(spec.deleted, deleted, INVALID_FLAG))
    return _to_raw(cells, RAW_ITEM_TYPES, columns, problems)


def _map_impressions(spec: ImpressionsInput, cells: DataFrame) -> DataFrame:
    columns = {
        c.IMPRESSION_ID: _optional(spec.impression_id),
        c.USER_ID: cell(spec.user),
        c.ITEM_ID: cell(spec.item),
        c.IMPRESSION_TS: _time(cells, spec.time, spec),
        c.LABEL: _flag(spec.label).cast("int"),
        c.CONTEXT: _map(spec.context),
    }
    return _to_raw(cells, RAW_IMPRESSION_TYPES, columns, [])


def _to_raw(
    cells: DataFrame, types: Mapping[str, str], columns: dict[str, Column], problems: Sequence[Column]
) -> DataFrame:
    problem, parts = F.coalesce(F.col(PROBLEM), *problems), F.col(RAW_PARTS) if RAW_PARTS in cells.columns else None
    raw, source_file = F.col(c.RAW), F.col(c.SOURCE_FILE)
    return raw_frame(cells, types, columns, raw=raw, parts=parts, source_file=source_file, problem=problem)


def _needs(role: Role, *names: str | None) -> list[Need]:
    return [(name, role) for name in names if name is not None]


def _optional(name: str | None) -> Column:
    return F.lit(None) if name is None else cell(name)


def _cell_or_constant(spec: ColumnOrConstant) -> Column:
    return F.lit(spec.constant) if spec.column is None else cell(spec.column)


def _time(cells: DataFrame, name: str, spec: TableInput) -> Column:
    if isinstance(cells.select(cell(name)).schema[0].dataType, TimestampType):
        return cell(name)
    text = read_time(cell(name), spec.time_reading)
    # A rejected row holds the time of a typed column in ISO 8601, whatever ``time_reading`` is.
    return F.coalesce(text, read_time(cell(name), TimeReading())) if spec.has_types else text


def _number(name: str) -> Column:
    text = F.lower(F.trim(cell(name)))
    return F.when(text == "true", F.lit(1.0)).when(text == "false", F.lit(0.0)).otherwise(text.try_cast("double"))


def _flag(name: str) -> Column:
    text = F.lower(F.trim(cell(name)))
    return F.when(text.isin(*_TRUE), F.lit(True)).when(text.isin(*_FALSE), F.lit(False))


def _unreadable(name: str, value: Column, reason: str) -> Column:
    has_text = F.trim(cell(name).cast("string")) != ""
    return F.when(has_text & value.isNull(), F.lit(reason))


def _list(names: Sequence[str]) -> Column:
    """All cells as one list; a cell that holds a JSON list contributes its elements."""
    if not names:
        return F.lit(None)
    lists = [_texts(cell(name).cast("string")) for name in names]
    return F.concat(*[F.coalesce(texts, F.array().cast("array<string>")) for texts in lists])


def _texts(text: Column) -> Column:
    parsed = F.when(F.trim(text).startswith("["), F.from_json(text, "array<string>"))
    return F.coalesce(parsed, F.when(text.isNotNull(), F.array(text)))


def _map(names: Sequence[str]) -> Column:
    if not names:
        return F.lit(None)
    entries = [
        F.struct(F.lit(name).alias("key"), cell(name).cast("string").alias("value")) for name in dict.fromkeys(names)
    ]
    return F.map_from_entries(F.array(*entries))


def read_time(text: Column, reading: TimeReading) -> Column:
    """A timestamp, null if unreadable, from a number in ``reading.unit``, text in ``reading.format``, or ISO 8601."""
    trimmed = F.trim(text)
    if reading.unit is not None:
        number = trimmed.try_cast("decimal(24,6)") * F.lit(_MICROS_PER_UNIT[reading.unit]).cast("decimal(7,0)")
        micros = number.try_cast("bigint")
        return F.when(micros.between(_FIRST_MICROS, _LAST_MICROS), F.timestamp_micros(micros))
    if reading.format is not None:
        return F.try_to_timestamp(trimmed, F.lit(reading.format))
    return F.when(trimmed.rlike(_FULL_DATE), trimmed.try_cast("timestamp"))


def check_time_reading(spark: SparkSession, reading: TimeReading) -> None:
    """Refuse a time format that is no Spark datetime pattern before any data is read."""
    if reading.format is None:
        return
    try:
        spark.range(1).select(F.date_format(F.timestamp_micros(F.col("id")), reading.format)).collect()
    except (PySparkException, Py4JJavaError) as error:
        raise ConfigError(
            f"time_reading.format {reading.format!r}: not a Spark datetime pattern such as 'yyyy-MM-dd HH:mm:ss'"
        ) from error
