"""What is kept in mind of the files that were taken: the rows of `source_files`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from precise_core.errors import DataError
from precise_core.sources.listing import sha256_of
from precise_core.warehouse.tables import Warehouse
from schemas import SOURCE_FILES

Record = Mapping[str, Any]  # a row of `source_files`

NO_TIME = datetime(1970, 1, 1, tzinfo=UTC)
_NAMED = 10  # files that a message names; of more it gives the number


def read_manifest(warehouse: Warehouse, version: int | None = None) -> list[dict[str, Any]]:
    """The rows of one version, the newest by default; none where nothing was ever taken."""
    if not warehouse.exists(SOURCE_FILES):
        return []
    version = warehouse.version(SOURCE_FILES) if version is None else version
    records = warehouse.read_arrow(SOURCE_FILES, version).to_pylist()
    return [{**record, "columns": dict(record["columns"])} for record in records]


def _look(file: Path) -> tuple[int, datetime]:
    return file.stat().st_size, modified_at(file)


def modified_at(file: Path) -> datetime:
    return NO_TIME + timedelta(microseconds=file.stat().st_mtime_ns // 1000)


def checksum_of(file: Path, record: Record | None) -> str:
    """SHA-256 of a file; a file of the size and time that ``record`` knows is trusted, and not read for it."""
    if record is not None and _look(file) == (record["size_bytes"], record["modified_at"]):
        return str(record["checksum"])
    return sha256_of(file)


def lost_files(own: Mapping[str, Record], table_id: str | None) -> set[str]:
    """Paths whose rows went with the table they were taken into.

    Args:
        own: The records of one table, by path.
        table_id: The identity of the table that is there now; None where there is none.
    """
    if table_id is None:
        return set(own)
    return {path for path, record in own.items() if record["table_id"] not in (None, table_id)}


def require_lost_files(table_name: str, lost: Iterable[str], read_again: Iterable[str]) -> None:
    """Refuse to go on without the rows of files that can no longer be read.

    Raises:
        DataError: A lost file is not among those read again; the message names it, and says what to do.
    """
    missing: Sequence[str] = sorted(set(lost) - set(read_again))
    if missing:
        more = f", and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
        raise DataError(
            f"table {table_name}: it is gone or was made anew since these files were taken, and they are not in the "
            f"source any more (or are empty): {', '.join(missing[:_NAMED])}{more}; put them back, or accept that their "
            "rows are lost: --full makes the tables what the files there say"
        )
