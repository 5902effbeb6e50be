"""Entries of a Delta log that are ours to write: an empty table, and one whose rows lie in other files.

Spark makes a table in a second or two of CPU time, and a night makes several; its first entry is a few lines. Beside it
lies the checksum that Spark itself would write: without that, it would read the log by jobs of its own.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from deltalake import DeltaTable, Schema

from precise_core.store import is_remote, store_at
from schemas import Table

Action = Mapping[str, Any]

_FEED = "delta.enableChangeDataFeed"
_PROTOCOL = {"minReaderVersion": 1, "minWriterVersion": 2}
_PROTOCOL_WITH_FEED = {
    "minReaderVersion": 1,
    "minWriterVersion": 7,
    "writerFeatures": ["invariants", "changeDataFeed", "appendOnly"],
}


def create_table(path: str, table: Table, properties: Mapping[str, str]) -> None:
    """Version 0 of ``table``: its schema and no rows, as Spark would make it.

    Raises:
        ConflictError: The table is there.
        DeltaError: The same, in an object store.
    """
    now, configuration = now_ms(), dict(properties)
    if table.has_change_feed:
        configuration = {_FEED: "true"} | configuration
    if is_remote(path):
        schema = Schema.from_json(table.spark_schema().json())
        by = list(table.partition_by)
        DeltaTable.create(path, schema, description=table.doc, partition_by=by, configuration=configuration)
        return
    metadata = {
        "id": str(uuid.uuid4()),
        "description": table.doc,
        "format": {"provider": "parquet", "options": {}},
        "schemaString": table.spark_schema().json(),
        "partitionColumns": list(table.partition_by),
        "configuration": configuration,
        "createdTime": now,
    }
    protocol = _PROTOCOL_WITH_FEED if table.has_change_feed else _PROTOCOL
    information = {"timestamp": now, "operation": "CREATE TABLE", "operationParameters": {}, "isBlindAppend": True}
    add_entry(path, 0, [{"commitInfo": information}, {"metaData": metadata}, {"protocol": protocol}])
    checksum = {
        "tableSizeBytes": 0, "numFiles": 0, "numMetadata": 1, "numProtocol": 1, "setTransactions": [],
        "domainMetadata": [], "metadata": metadata, "protocol": protocol, "allFiles": [],
    }  # fmt: skip
    store_at(path).put(f"_delta_log/{0:020}.crc", json.dumps(checksum))


def add_entry(path: str, version: int, actions: Iterable[Action]) -> None:
    """Add an entry to the log of the table at ``path``.

    Raises:
        ConflictError: Another writer has written this version.
    """
    entry = "".join(json.dumps(action) + "\n" for action in actions)
    store_at(path).put_if_absent(f"_delta_log/{version:020}.json", entry)


def now_ms() -> int:
    """Milliseconds since 1970, as Delta writes times."""
    return int(datetime.now(UTC).timestamp() * 1000)
