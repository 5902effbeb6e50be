"""Entries of a Delta log that are ours to write: an empty table, and one whose rows lie in other files.

Spark makes a table in a second or two of CPU time, and a night makes several; its first entry is a few lines. Beside it
lies the checksum that Spark itself would write: without that, it would read the log by jobs of its own.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from deltalake import DeltaTable, Schema

from precise_core.store import is_remote
from precise_core.store.local import replace_file
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
        FileExistsError: The table is there.
        DeltaError: The same, in an object store.
    """
    now, configuration, folder = now_ms(), dict(properties), Path(path)
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
    (folder / "_delta_log").mkdir(parents=True, exist_ok=True)
    add_entry(folder, 0, [{"commitInfo": information}, {"metaData": metadata}, {"protocol": protocol}])
    checksum = {
        "tableSizeBytes": 0, "numFiles": 0, "numMetadata": 1, "numProtocol": 1, "setTransactions": [],
        "domainMetadata": [], "metadata": metadata, "protocol": protocol, "allFiles": [],
    }  # fmt: skip
    replace_file(folder / "_delta_log" / f"{0:020}.crc", json.dumps(checksum).encode())


def add_entry(folder: Path, version: int, actions: Iterable[Action]) -> None:
    """Add an entry to the log of the table in ``folder``.

    Raises:
        FileExistsError: Another writer has written this version.
    """
    log = folder / "_delta_log"
    draft = log / f".{version:020}.{uuid.uuid4().hex}.draft"
    with draft.open("w", encoding="utf-8") as stream:
        stream.writelines(json.dumps(action) + "\n" for action in actions)
        stream.flush()
        os.fsync(stream.fileno())
    try:
        os.link(draft, log / f"{version:020}.json")  # all of it or nothing, and never over another one
    finally:
        draft.unlink()


def now_ms() -> int:
    """Milliseconds since 1970, as Delta writes times."""
    return int(datetime.now(UTC).timestamp() * 1000)
