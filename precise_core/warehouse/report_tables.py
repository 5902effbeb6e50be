"""The warehouse as the report sees it: Delta tables read without Spark, each at the version found first."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from deltalake import DeltaTable

from precise_core.errors import MissingTableError
from precise_core.warehouse.reader import arrow_dataset
from schemas import Table

_PARTS_PER_MERGE = 64  # bounds the memory of a count over many batches


class Tables:
    """Read-only tables under ``<root>/tables``; every read of one table sees the same version of it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._open: dict[str, DeltaTable] = {}

    def path(self, table: Table) -> Path:
        return self.root / "tables" / table.name

    def exists(self, table: Table) -> bool:
        return table.name in self._open or DeltaTable.is_deltatable(str(self.path(table)))

    def snapshot(self, table: Table) -> DeltaTable:
        """The pinned snapshot.

        Raises:
            MissingTableError: The table is not there; the message names the job that writes it.
        """
        if not self.exists(table):
            raise MissingTableError(f"table {table.name} is not in the warehouse ({table.written_by} writes it)")
        if table.name not in self._open:
            self._open[table.name] = DeltaTable(str(self.path(table)))
        return self._open[table.name]

    def version(self, table: Table) -> int:
        return self.snapshot(table).version()

    def rows(self, table: Table) -> int:
        """Rows of the table, from the log where it has counts, otherwise from the files."""
        counts = self._actions(table, "num_records")
        return self.dataset(table).count_rows() if None in counts else sum(counts)

    def rows_if_any(self, table: Table) -> int:
        """Rows of the table; 0 where it does not exist."""
        return self.rows(table) if self.exists(table) else 0

    def size_bytes(self, table: Table) -> int:
        return sum(self._actions(table, "size_bytes"))

    def dataset(self, table: Table) -> ds.Dataset:
        return arrow_dataset(str(self.path(table)), table, self.snapshot(table))

    def frame(self, table: Table, columns: Sequence[str], where: pc.Expression | None = None) -> pd.DataFrame:
        """The rows of some columns; for tables, or slices of tables, that fit into this process."""
        return self.dataset(table).to_table(columns=list(columns), filter=where).to_pandas()

    def counts(self, table: Table, keys: Sequence[str], where: pc.Expression | None = None) -> pd.DataFrame:
        """``keys`` and ``rows``, most rows first, ties by key; the table streams, only the groups stay in memory."""
        parts: list[pa.Table] = []
        for batch in self.dataset(table).scanner(columns=list(keys), filter=where).to_batches():
            rows = pa.array([1] * batch.num_rows, pa.int64())
            parts.append(_sum_rows([pa.Table.from_batches([batch]).append_column("rows", rows)], keys))
            if len(parts) == _PARTS_PER_MERGE:
                parts = [_sum_rows(parts, keys)]
        if not parts:
            return pd.DataFrame({name: [] for name in (*keys, "rows")})
        frame = _sum_rows(parts, keys).to_pandas()
        return frame.sort_values(["rows", *keys], ascending=[False, *[True] * len(keys)], ignore_index=True)

    def _actions(self, table: Table, column: str) -> list[int]:
        actions = pa.table(self.snapshot(table).get_add_actions(flatten=True))
        return actions.column(column).to_pylist() if actions.num_rows else []


def _sum_rows(parts: list[pa.Table], keys: Sequence[str]) -> pa.Table:
    grouped = pa.concat_tables(parts).group_by(list(keys)).aggregate([("rows", "sum")])
    return grouped.select([*keys, "rows_sum"]).rename_columns([*keys, "rows"])
