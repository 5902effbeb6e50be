"""Parquet files by URI, local or not."""

from __future__ import annotations

from collections.abc import Collection

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq

from precise_core.errors import DataError


def open_parquet(uri: str) -> pq.ParquetFile:
    """An open file; use it in a ``with``.

    Args:
        uri: With a scheme; a local one holds the real characters, not percent-encoded ones.

    Raises:
        OSError, pyarrow.ArrowException: It is missing or damaged.
    """
    filesystem, path = _resolve(uri)
    return pq.ParquetFile(path, filesystem=filesystem)


def footer_rows(uri: str) -> int:
    """Rows of a file, without reading them.

    Raises:
        DataError: The file cannot be read.
    """
    return int(_footer(uri).num_rows)


def values_per_row(uri: str, columns: Collection[str]) -> int:
    """Mean number of values in a row of these columns, lists counted by their elements, rounded up; 0 without rows.

    Raises:
        DataError: The file cannot be read.
    """
    metadata = _footer(uri)
    values = sum(
        chunk.num_values
        for group in map(metadata.row_group, range(metadata.num_row_groups))
        for chunk in map(group.column, range(group.num_columns))
        if chunk.path_in_schema.split(".")[0] in columns
    )
    return -(-values // metadata.num_rows) if metadata.num_rows else 0


def _footer(uri: str) -> pq.FileMetaData:
    try:
        with open_parquet(uri) as file:
            return file.metadata
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"cannot read {uri}: {error}") from error


def _resolve(uri: str) -> tuple[pa.fs.FileSystem, str]:
    if uri.startswith("file://"):
        return pa.fs.LocalFileSystem(), uri.removeprefix("file://")
    filesystem, path = pa.fs.FileSystem.from_uri(uri)
    return filesystem, path
