"""A Delta table pinned at one version: the list of its live files and the rows they hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
from deltalake import DeltaTable
from deltalake.exceptions import TableNotFoundError

from precise_core.errors import DataError, MissingTableError
from precise_core.warehouse.parquet import footer_rows, open_parquet
from schemas import TABLES


class DeltaSnapshot:
    """The files of a Delta table at one version, for readers that know nothing of Delta.

    A Delta folder also holds files that a later version dropped; whoever lists the folder reads them too. This is the
    list that the transaction log vouches for.

    Args:
        path: The table's folder, or a URI that ``deltalake`` understands.
        version: The version to read; None pins the newest one of this moment.

    Raises:
        MissingTableError: There is no table; the message names the job that writes it.
        DataError: The version does not exist, or the table uses deletion vectors or column mapping, which a plain
            Parquet reader would not honour.
    """

    def __init__(self, path: str | Path, version: int | None = None) -> None:
        self.path = str(path)
        self.name = self.path.rstrip("/").rsplit("/", 1)[-1]
        try:
            self._table = DeltaTable(self.path)
        except TableNotFoundError as error:
            raise MissingTableError(f"table {self.name}: not at {self.path}{_advice(self.name)}") from error
        if version is not None:
            self._pin(version)
        self._refuse_unreadable()

    @property
    def version(self) -> int:
        return int(self._table.version())

    def files(self, partition: Mapping[str, str] | None = None) -> list[str]:
        """URIs of the live files whose partition columns have these values, sorted by name."""
        live = dict(zip(self._log_column("path"), self._table.file_uris(), strict=True))
        return sorted(_plain_uri(live[path]) for path in self._paths(partition))

    def row_count(self, partition: Mapping[str, str] | None = None) -> int:
        """Rows in those files, from the log's statistics, or from the Parquet footers where it has none."""
        recorded = dict(zip(self._log_column("path"), self._log_column("num_records"), strict=True))
        counts = [recorded[path] for path in self._paths(partition)]
        if all(count is not None for count in counts):
            return sum(counts)
        return sum(footer_rows(uri) for uri in self.files(partition))

    def partition_values(self, column: str) -> list[str]:
        """The distinct values of a partition column, sorted."""
        return sorted(set(self._log_column(f"partition.{column}")))

    def read(self, columns: list[str]) -> pa.Table:
        """Some columns of the whole table in memory.

        Raises:
            DataError: The table has no rows, or a file is damaged; the message names it.
        """
        tables = list(self.tables(columns))
        if not sum(table.num_rows for table in tables):
            raise DataError(f"table {self.name}, version {self.version}: no rows")
        return pa.concat_tables(tables)

    def tables(self, columns: list[str], partition: Mapping[str, str] | None = None) -> Iterator[pa.Table]:
        """Some columns of the live files whose partition columns have these values, one file at a time.

        Raises:
            DataError: A file is damaged; the message names it.
        """
        for uri in self.files(partition):
            yield _read_file(uri, columns)

    def _pin(self, version: int) -> None:
        newest = self.version
        if not 0 <= version <= newest:
            raise DataError(f"table {self.name}: version {version} does not exist; versions are 0 to {newest}")
        self._table.load_as_version(version)

    def _refuse_unreadable(self) -> None:
        configuration = self._table.metadata().configuration
        if configuration.get("delta.columnMapping.mode", "none") != "none":
            raise DataError(f"table {self.name}: column mapping is on; the feed reads plain columns only")
        if configuration.get("delta.enableDeletionVectors") == "true" or self._has_deletion_vectors():
            raise DataError(f"table {self.name}: deletion vectors are on; set delta.enableDeletionVectors to false")

    def _has_deletion_vectors(self) -> bool:
        if "deletionVectors" not in (self._table.protocol().reader_features or []):
            return False
        return any(batch.num_rows for batch in self._table.deletion_vectors())

    def _log_column(self, name: str) -> list[Any]:
        actions = self._table.get_add_actions(flatten=True)
        return list(actions.column(name).to_pylist()) if name in actions.column_names else [None] * actions.num_rows

    def _paths(self, partition: Mapping[str, str] | None) -> list[str]:
        wanted = dict(partition or {})
        columns = {name: self._log_column(f"partition.{name}") for name in wanted}
        rows = enumerate(self._log_column("path"))
        return [path for row, path in rows if all(columns[name][row] == value for name, value in wanted.items())]


def _advice(name: str) -> str:
    jobs = {table.name: table.written_by for table in TABLES}
    return f"; run jobs/{jobs[name]}.py first" if name in jobs else ""


def _plain_uri(uri: str) -> str:
    """A local path comes percent-encoded and without a scheme; Petastorm wants the scheme and the real characters."""
    if "://" in uri and not uri.startswith("file://"):
        return uri
    return "file://" + unquote(uri.removeprefix("file://"))


def _read_file(uri: str, columns: list[str]) -> pa.Table:
    try:
        with open_parquet(uri) as file:
            return file.read(columns)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{uri}: cannot be read: {error}") from error
