"""Maintenance of one Delta table: small files are merged, files and log entries that are no longer needed removed.

None of it changes a row, so ``content_changed`` does not count it.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from urllib.parse import unquote

from delta.tables import DeltaTable as SparkDeltaTable
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError
from pyspark.sql import SparkSession

from precise_core.store import Entry, is_remote, store_at
from precise_core.warehouse.config import TablesConfig
from precise_core.warehouse.layout import remove_unfinished
from precise_core.warehouse.notes import SAME_ROWS
from precise_core.warehouse.places import sizes_of
from precise_core.warehouse.session import require_s3, session_settings
from precise_core.warehouse.task_files import require_sums

MIB = 1024 * 1024

_LOG_RETENTION = "delta.logRetentionDuration"
# A row group is what a reader decodes, shuffles and shards by.
_ROW_GROUP_MIB = 16


@dataclass(frozen=True)
class SmallFiles:
    """Live files below `tables.small_file_mib`, in partitions with at least `tables.compact_from_files` of them."""

    files: int
    size_bytes: int


def content_changed(path: str, since: int) -> bool:
    """Whether rows of the table may have changed after version ``since``; True where its log is too short to know."""
    table = DeltaTable(path)
    newest = table.version()
    if newest <= since:
        return newest < since
    later = [commit for commit in table.history(newest - since) if commit["version"] > since]
    return len(later) < newest - since or any(commit.get("operation") not in SAME_ROWS for commit in later)


def live_files(path: str, version: int | None = None) -> dict[str, int]:
    """Path inside the table's folder -> bytes, of every file that a version (the newest by default) consists of."""
    actions = DeltaTable(path, version=version).get_add_actions(flatten=True)
    return dict(zip(actions.column("path").to_pylist(), actions.column("size_bytes").to_pylist(), strict=True))


def is_readable(path: str, version: int, partition: str = "") -> bool:
    """Whether a version is in the table's log and its files are there; of one ``partition`` (`name=value/`) only."""
    try:
        names = {unquote(name) for name in live_files(path, version)}
    except (DeltaError, OSError):
        return False
    chosen = {name for name in names if name.startswith(partition)}
    return chosen == _there(path, chosen)


def _there(path: str, names: Collection[str]) -> set[str]:
    """Those files of a table's folder that exist."""
    ordered = sorted(names)
    return {name for name, size in zip(ordered, sizes_of(path, ordered), strict=True) if size is not None}


def small_files(path: str, config: TablesConfig) -> SmallFiles:
    """What compaction would merge."""
    by_partition: dict[str, list[int]] = defaultdict(list)
    for name, size in live_files(path).items():
        if size < config.small_file_mib * MIB:
            by_partition[name.rpartition("/")[0]].append(size)
    chosen = [sizes for sizes in by_partition.values() if len(sizes) >= config.compact_from_files]
    return SmallFiles(sum(map(len, chosen)), sum(map(sum, chosen)))


def compact(spark: SparkSession, path: str, config: TablesConfig) -> int:
    """Merge small files within their partitions, in one commit that changes no row; returns the new version.

    Raises:
        DataError: A file is damaged: the new one would have its damage, and checksums that hold.
    """
    require_s3(spark, path)
    if not is_remote(path):  # an object store compares sums itself
        require_sums(f"{path}/{unquote(name)}" for name in live_files(path))
    settings = {
        "spark.databricks.delta.optimize.minFileSize": str(config.small_file_mib * MIB),
        "spark.databricks.delta.optimize.maxFileSize": str(config.target_file_mib * MIB),
        "parquet.block.size": str(_ROW_GROUP_MIB * MIB),
    }
    with session_settings(spark, settings):
        SparkDeltaTable.forPath(spark, path).optimize().executeCompaction()
    return int(DeltaTable(path).version())


def vacuum(path: str, retention_hours: int, *, dry_run: bool, keep: Collection[int] = ()) -> list[str]:
    """Remove files that no version younger than ``retention_hours`` consists of, those of killed writers included.

    The versions ``keep`` stay readable however old they are. The caller has made sure that no reader needs the others.
    Returns the files, or with ``dry_run`` what it would remove.
    """
    table = DeltaTable(path)
    remove = partial(table.vacuum, retention_hours, enforce_retention_duration=False, full=True)
    remove = partial(remove, keep_versions=sorted(keep) or None)
    # Removed files stay in the log for a while: those already deleted are named again every time.
    there = sorted(_there(path, remove(dry_run=True)))
    if there and not dry_run:
        remove(dry_run=False)
    return there


def old_log_entries(path: str, days: int) -> list[str]:
    """Entries of the log older than ``days``, the newest version's left out."""
    newest = DeltaTable(path).version()
    limit = datetime.now(UTC) - timedelta(days=days)
    return [entry.name for version, entry in _log_files(path) if version < newest and entry.modified < limit]


def trim_log(path: str, days: int) -> int:
    """Remove log entries older than ``days``, which a checkpoint replaces; returns how many files were removed."""
    table, needed = DeltaTable(path), f"interval {days} days"
    if table.metadata().configuration.get(_LOG_RETENTION) != needed:
        table.alter.set_table_properties({_LOG_RETENTION: needed})
    if not old_log_entries(path, days):
        return 0
    before = len(_log_files(path))
    table = DeltaTable(path)
    table.create_checkpoint()
    table.cleanup_metadata()
    return before - len(_log_files(path))


def forget_history(path: str) -> list[str]:
    """Leave nothing but the rows of this moment: no older file, and no log entry that names one, since an entry keeps
    the smallest and largest values of a file's columns. No older version can be read afterwards.

    Returns the data files that were removed.
    """
    remove_unfinished(path)
    removed = vacuum(path, 0, dry_run=False)
    # A commit of its own, so that the one entry that stays names no file.
    DeltaTable(path).alter.set_table_properties(
        {"precise.historySince": datetime.now(UTC).isoformat()}, raise_if_not_exists=False
    )
    table = DeltaTable(path)
    table.create_checkpoint()
    store = store_at(path)
    for version, entry in _log_files(path):
        if version < table.version():
            store.delete(entry.name)
    store.delete_folder("_change_data")  # rows deleted by the commits just removed
    return removed


def _log_files(path: str) -> list[tuple[int, Entry]]:
    entries = ((re.match(r"_delta_log/(\d{20})", entry.name), entry) for entry in store_at(path).list("_delta_log"))
    return [(int(match[1]), entry) for match, entry in entries if match]
