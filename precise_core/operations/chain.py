"""Is a job's last output still what it would write again?"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from precise_core.config import config_hash
from precise_core.errors import PreciseError
from precise_core.run.code import code_version
from precise_core.settings import Settings
from precise_core.sources.manifest import read_manifest
from precise_core.sources.read import source_fingerprint
from precise_core.warehouse.care import content_changed
from precise_core.warehouse.tables import Warehouse
from schemas import RUNS, TABLES, Table

_TABLES = {table.name: table for table in TABLES}


def is_up_to_date(settings: Settings, job: str, parts: Sequence[str] | None = None) -> bool:
    """True where the job's last run succeeded with this configuration and code, and nothing has moved since.

    Nothing has moved: every table it read or wrote still has the version it saw, the source files have the same
    content, and the checkpoints in use are the ones it used.

    Args:
        settings: The configuration of tonight.
        job: Name of the job.
        parts: The parts of the configuration (`source`, `text`) that decide what the job writes; all by default.
    """
    warehouse = Warehouse(settings.warehouse)
    last = _last_run(warehouse, job)
    if last is None or last["status"] != "succeeded":
        return False
    if not _is_configured_alike(last, settings, parts) or last["code_version"] != code_version():
        return False
    seen = {**dict(last["input_versions"]), **dict(last["output_versions"])}
    if not all(_artefact(settings, key, value).is_dir() for key, value in dict(last["artefacts"]).items() if value):
        return False
    fingerprints, ids = json.loads(last["input_fingerprint"] or "{}"), dict(last["table_ids"] or {})
    try:
        return all(_is_unmoved(warehouse, _TABLES[name], seen[name], ids.get(name)) for name in seen) and all(
            _current_fingerprint(settings, name) == value for name, value in fingerprints.items()
        )
    except PreciseError:  # a table or checkpoint is gone
        return False


def _is_unmoved(warehouse: Warehouse, table: Table, version: int, table_id: str | None) -> bool:
    """Compaction and the like are commits too, but no news; the same version of a table made anew is."""
    newest = warehouse.version(table)
    if table_id is not None and warehouse.table_id(table) != table_id:
        return False
    return newest == version or not content_changed(warehouse.path(table), version)


def _is_configured_alike(run: dict[str, Any], settings: Settings, parts: Sequence[str] | None) -> bool:
    if parts is None:
        return bool(run["config_hash"] == config_hash(settings))
    then, now = json.loads(run["configuration"]), json.loads(settings.model_dump_json())
    return all(then.get(part) == now[part] for part in parts)


def _last_run(warehouse: Warehouse, job: str) -> dict[str, Any] | None:
    if not warehouse.exists(RUNS):
        return None
    runs = warehouse.read_arrow(RUNS, warehouse.version(RUNS))
    of_job = runs.filter(pc.equal(runs["job"], job)).sort_by([("started_at", "descending")])
    return of_job.slice(0, 1).to_pylist()[0] if of_job.num_rows else None


def _artefact(settings: Settings, key: str, value: str) -> Path:
    """The folder of something a run made: `checkpoint:<task>`, `index:<task>` or `ranker:<system>`."""
    folder = {"checkpoint": "checkpoints", "index": "indexes", "ranker": "rankers"}[key.partition(":")[0]]
    return Path(settings.warehouse) / folder / value


def _current_fingerprint(settings: Settings, name: str) -> str:
    kind, _, key = name.partition(":")
    if kind == "source":
        return source_fingerprint(settings.source, read_manifest(Warehouse(settings.warehouse)))
    # The trainer's packages are heavy; jobs that only touch tables never get here.
    from precise_core.training.checkpoint import latest

    if kind != "checkpoint":
        return ""
    return latest(Path(settings.warehouse) / "checkpoints", key).model_version
