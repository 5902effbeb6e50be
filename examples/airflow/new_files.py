"""Are the files of the source others than the last `ingest` saw? Exit code 0 = yes, 99 = no.

Run by the sensor of precise_dags.py, with the project's own interpreter.
"""

from __future__ import annotations

import json

from precise_core.command_line import command_parser, overrides_of
from precise_core.config import load_config
from precise_core.errors import PreciseError
from precise_core.intake.night import read_manifest
from precise_core.intake.read import source_fingerprint
from precise_core.settings import Settings
from precise_core.warehouse.tables import Warehouse
from schemas import RUNS

NOTHING_NEW, FAILED = 99, 2


def main() -> int:
    arguments = command_parser("new_files", __doc__).parse_args()
    try:
        settings = load_config(arguments.config, Settings, overrides_of(arguments))
        warehouse = Warehouse(settings.warehouse)
        is_new = source_fingerprint(settings.source, read_manifest(warehouse)) != _taken(warehouse)
    except PreciseError as error:
        print(error)
        return FAILED
    print("there is something new" if is_new else "nothing new: the last ingest has seen all of it")
    return 0 if is_new else NOTHING_NEW


def _taken(warehouse: Warehouse) -> str | None:
    """What the last ingest that succeeded saw."""
    if not warehouse.exists(RUNS):
        return None
    columns = ["job", "status", "started_at", "input_fingerprint"]
    runs = warehouse.read_arrow(RUNS, warehouse.version(RUNS), columns).sort_by("started_at").to_pylist()
    seen = [run["input_fingerprint"] for run in runs if (run["job"], run["status"]) == ("ingest", "succeeded")]
    return str(json.loads(seen[-1])["source"]) if seen else None


if __name__ == "__main__":
    raise SystemExit(main())
