"""Are the files of the source others than the last `ingest` saw? Exit code 0 = yes, 99 = no.

With `--night` also: has no night ended since the last `ingest`? What the hourly path has taken, or a night that failed,
is new to the next one. Run by the DAGs of precise_dags.py, with the project's own interpreter.
"""

from __future__ import annotations

import json
from typing import Any

from precise_core.command_line import command_parser, flag, overrides_of
from precise_core.config import load_config
from precise_core.errors import PreciseError
from precise_core.intake.night import read_manifest
from precise_core.intake.read import source_fingerprint
from precise_core.settings import Settings
from precise_core.warehouse.tables import Warehouse
from schemas import RUNS

NOTHING_NEW, FAILED = 99, 2
NIGHT = flag("--night", "something is new also where no night has ended since the last ingest", action="store_true")


def main() -> int:
    arguments = command_parser("new_files", __doc__, [NIGHT]).parse_args()
    try:
        settings = load_config(arguments.config, Settings, overrides_of(arguments))
        warehouse = Warehouse(settings.warehouse)
        succeeded = _last_successes(warehouse)
        is_new = source_fingerprint(settings.source, read_manifest(warehouse)) != _taken(succeeded)
        is_new = is_new or (arguments.night and not _has_night(succeeded))
    except PreciseError as error:
        print(error)
        return FAILED
    print("there is something new" if is_new else "nothing new: the last ingest has seen all of it")
    return 0 if is_new else NOTHING_NEW


def _last_successes(warehouse: Warehouse) -> dict[str, dict[str, Any]]:
    """The last run that succeeded, by job."""
    if not warehouse.exists(RUNS):
        return {}
    columns = ["job", "status", "started_at", "input_fingerprint"]
    runs = warehouse.read_arrow(RUNS, warehouse.version(RUNS), columns).sort_by("started_at").to_pylist()
    return {run["job"]: run for run in runs if run["status"] == "succeeded"}


def _taken(succeeded: dict[str, dict[str, Any]]) -> str | None:
    """What the last ingest saw."""
    return str(json.loads(succeeded["ingest"]["input_fingerprint"])["source"]) if "ingest" in succeeded else None


def _has_night(succeeded: dict[str, dict[str, Any]]) -> bool:
    """Whether a night has ended with what the last ingest saw."""
    if not {"ingest", "build_report"} <= succeeded.keys():
        return False
    return bool(succeeded["build_report"]["started_at"] > succeeded["ingest"]["started_at"])


if __name__ == "__main__":
    raise SystemExit(main())
