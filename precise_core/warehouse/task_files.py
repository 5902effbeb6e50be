"""Files that tasks write into a table's folder themselves, past Spark's writer, and the one commit that lists them.

Until that commit nobody reads them: a job that dies, and a task that runs twice, leave files that no version consists
of, and `maintain_tables` removes them. pyarrow 14 writes no page checksums, so a file's name ends with the SHA-256 of
its content: that guards it as long as it lives, whatever becomes of older entries of the log.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq
from deltalake import CommitProperties, DeltaTable, Schema
from deltalake.transaction import AddAction, RemoveAction
from pyspark.sql import DataFrame, SparkSession

from precise_core.errors import DataError
from precise_core.store import is_remote
from precise_core.warehouse.places import file_of
from schemas import Table

_HASHING = 4  # threads
_NAMED_BY_SUM = re.compile(r"/part-[0-9a-f]{32}-([0-9a-f]{64})\.parquet$")


@dataclass(frozen=True)
class TaskFile:
    """A file that a task has written.

    Args:
        name: Below the table's folder.
        partition: Partition column -> value.
    """

    name: str
    size_bytes: int
    rows: int
    partition: Mapping[str, Any]


def write_file(
    folder: str, rows: pa.Table, partition: Mapping[str, Any], *, dictionaries: Sequence[str] = ()
) -> TaskFile:
    """Write one new file of the table in ``folder``; for tasks.

    Args:
        rows: Without the partition columns.
        partition: Values of letters, digits and `_` only.
        dictionaries: Columns, as Parquet names them, whose values repeat.
    """
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(
        sink, rows.schema, compression="snappy", use_dictionary=list(dictionaries), store_schema=False
    ) as writer:
        writer.write_table(rows)
    content = sink.getvalue()
    place = "/".join(f"{column}={value}" for column, value in partition.items())
    name = f"{place}/part-{uuid.uuid4().hex}-{hashlib.sha256(content).hexdigest()}.parquet"
    filesystem, path = _place(folder, name)
    if isinstance(filesystem, pyarrow.fs.LocalFileSystem):  # an object store has no folders
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    with filesystem.open_output_stream(path) as stream:
        stream.write(content)
    return TaskFile(name, content.size, rows.num_rows, dict(partition))


@dataclass
class TaskFiles:
    """New files in the folder of a table, which are removed at the end of a ``with`` where nobody was to commit them.

    Once a commit has begun they stay: it may have landed though it raised. What it does not list, `maintain_tables`
    removes.

    Args:
        path: The table's folder or URI.
    """

    path: str
    table: Table
    files: Sequence[TaskFile]
    is_committed: bool = field(default=False, init=False)

    @property
    def rows(self) -> int:
        return sum(file.rows for file in self.files)

    def frame(self, spark: SparkSession) -> DataFrame:
        schema = self.table.spark_schema()
        if not self.files:
            return spark.createDataFrame([], schema)
        names = [f"{self.path}/{file.name}" for file in self.files]
        return spark.read.schema(schema).option("basePath", self.path).parquet(*names).select(*schema.names)

    def commit(self, about: str) -> None:
        """Make them the content of the existing table, instead of all that it has; the caller holds the lock."""
        self.is_committed = True
        now = int(time.time() * 1000)
        actions: list[AddAction | RemoveAction] = [
            AddAction(
                file.name,
                file.size_bytes,
                {column: str(value) for column, value in file.partition.items()},
                now,
                True,
                json.dumps({"numRecords": file.rows}),
            )
            for file in self.files
        ]
        DeltaTable(self.path).create_write_transaction(
            actions,
            "overwrite",
            Schema.from_json(self.table.spark_schema().json()),
            list(self.table.partition_by),
            commit_properties=CommitProperties(custom_metadata={"userMetadata": about}),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for file in () if self.is_committed else self.files:
            filesystem, path = _place(self.path, file.name)
            filesystem.delete_file(path)


def _place(folder: str, name: str) -> tuple[pyarrow.fs.FileSystem, str]:
    return file_of(f"{folder}/{name}" if is_remote(folder) else f"file://{folder}/{name}")


def require_sums(files: Iterable[str]) -> None:
    """Compare the content of local files that are named by their SHA-256 with it, once while they stay as they are.

    Others are not looked at, nor those that are gone, which whoever reads them says.

    Raises:
        DataError: One is damaged or cut off; the message names it.
    """
    with ThreadPoolExecutor(_HASHING) as threads:  # hashing leaves Python's lock
        for path, is_sound in threads.map(_is_sound, files):
            if not is_sound:
                raise DataError(
                    f"{path}: cannot be read, it is damaged: its SHA-256 is not that of its name; "
                    "docs/operations.md says how to get a file back"
                )


def _is_sound(uri: str) -> tuple[Path, bool]:
    path = Path(uri.removeprefix("file://"))
    found = _NAMED_BY_SUM.search(uri)
    if not found or not path.is_file():
        return path, True
    status = path.stat()
    return path, _sum_of(path, status.st_size, status.st_mtime_ns) == found[1]


@cache
def _sum_of(path: Path, size: int, changed_ns: int) -> str:  # noqa: ARG001 - the arguments say which content it is
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
