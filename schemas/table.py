"""Table declarations, and the Spark and Arrow schemas derived from them."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Literal

from schemas import columns as c

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql.types import DataType, StructType

ColumnType = Literal[
    "string",
    "boolean",
    "int",
    "bigint",
    "float",
    "double",
    "date",
    "timestamp",
    "array<int>",
    "array<bigint>",
    "array<float>",
    "array<string>",
    "array<timestamp>",
    "map<string,string>",
    "map<string,bigint>",
    "map<string,double>",
]


@dataclass(frozen=True)
class Column:
    """One column: its name, its type in Spark SQL's spelling, and a sentence for the people who read the table.

    ``volatile`` marks bookkeeping that differs between two runs over the same input (a wall-clock time, a run id); it
    is ignored when a job checks whether its output has changed.
    """

    name: str
    type: ColumnType
    doc: str
    _: KW_ONLY
    nullable: bool = False
    volatile: bool = False


@dataclass(frozen=True, kw_only=True)
class Table:
    """A Delta table under the warehouse root, declared once.

    Args:
        name: Folder name under ``<warehouse>/tables``.
        doc: One sentence: what a row is.
        key: Columns that identify a row; empty where rows have no identity (quarantine).
        columns: All columns in order, key columns included.
        partition_by: Columns that become folders; they are not inside the Parquet files.
        range_by: A time along which files are told apart, by their smallest and largest values: a reader of some days
            opens few of them, and a night adds few.
        written_by: The job that writes the table.
        has_change_feed: Delta keeps which rows each version changed, so that a reader need not compare versions.
    """

    name: str
    doc: str
    key: tuple[str, ...]
    columns: tuple[Column, ...]
    written_by: str
    partition_by: tuple[str, ...] = ()
    range_by: str | None = None
    has_change_feed: bool = False

    def __post_init__(self) -> None:
        names = [column.name for column in self.columns]
        if len(set(names)) != len(names):
            raise ValueError(f"table {self.name}: a column is declared twice in {names}")
        for column in (*self.key, *self.partition_by, *([self.range_by] if self.range_by else [])):
            if column not in names:
                raise ValueError(f"table {self.name}: key, partition or range column {column!r} is not among {names}")

    @property
    def column_names(self) -> list[str]:
        return [column.name for column in self.columns]

    @property
    def stable_columns(self) -> list[str]:
        """Columns without run bookkeeping."""
        return [column.name for column in self.columns if not column.volatile]

    def column(self, name: str) -> Column:
        for column in self.columns:
            if column.name == name:
                return column
        raise KeyError(f"table {self.name} has no column {name!r}; it has {self.column_names}")

    def ddl(self, *names: str) -> str:
        """Some columns in Spark SQL's spelling, for a function that makes part of a row."""
        return ", ".join(f"{name} {self.column(name).type}" for name in names)

    def spark_schema(self) -> StructType:
        """The schema with nullability and column comments, for ``createDataFrame`` and Delta."""
        from pyspark.sql.types import StructField, StructType

        return StructType(
            [
                StructField(column.name, _spark_type(column.type), column.nullable, {"comment": column.doc})
                for column in self.columns
            ]
        )

    def arrow_schema(self) -> pa.Schema:
        """The schema as pyarrow sees the same rows (timestamps in microseconds, UTC)."""
        import pyarrow as pa

        return pa.schema(
            [pa.field(column.name, _arrow_type(column.type), nullable=column.nullable) for column in self.columns]
        )


# Columns that several tables have.
EVENT_TASK = Column(c.TASK, "string", "`all` for every event, otherwise a task of the configuration.")
MODEL_TASK = Column(c.TASK, "string", "`all` (Universal Training) or the targeted task.")
MODEL_VERSION = Column(c.MODEL_VERSION, "string", "Checkpoint the numbers come from; never mix two.")
AS_OF = Column(c.AS_OF, "timestamp", "The instant the row knows the world up to (exclusive), UTC.")


def _spark_type(name: str) -> DataType:
    from pyspark.sql import types as t

    scalars: dict[str, DataType] = {
        "string": t.StringType(),
        "boolean": t.BooleanType(),
        "int": t.IntegerType(),
        "bigint": t.LongType(),
        "float": t.FloatType(),
        "double": t.DoubleType(),
        "date": t.DateType(),
        "timestamp": t.TimestampType(),
    }
    # Elements are declared nullable although a write refuses a null in them: Delta does not enforce the inner
    # constraint, and Spark reads a null that is declared impossible as a NullPointerException.
    if name.startswith("array<"):
        return t.ArrayType(scalars[name[6:-1]], containsNull=True)
    if name.startswith("map<"):
        key, value = name[4:-1].split(",")
        return t.MapType(scalars[key], scalars[value], valueContainsNull=True)
    return scalars[name]


def _arrow_type(name: str) -> pa.DataType:
    import pyarrow as pa

    scalars = {
        "string": pa.string(),
        "boolean": pa.bool_(),
        "int": pa.int32(),
        "bigint": pa.int64(),
        "float": pa.float32(),
        "double": pa.float64(),
        "date": pa.date32(),
        "timestamp": pa.timestamp("us", tz="UTC"),
    }
    if name.startswith("array<"):
        return pa.list_(pa.field("element", _arrow_type(name[6:-1])))
    if name.startswith("map<"):
        key, value = name[4:-1].split(",")
        return pa.map_(scalars[key], pa.field("value", scalars[value]))
    return scalars[name]
