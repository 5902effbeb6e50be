"""Several jobs, one after another, under one lock; those whose output is still current are left out."""

from __future__ import annotations

import inspect
import json
import sys
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pyarrow.compute as pc

from precise_core.command import Flag, command_parser, overrides_of, report_error, warn_stale_lock
from precise_core.config import config_hash, load_config
from precise_core.errors import PreciseError
from precise_core.intake.night import read_manifest
from precise_core.intake.read import source_fingerprint
from precise_core.run.code import code_version
from precise_core.run.job import require_no_rollback
from precise_core.run.progress import console
from precise_core.settings import Settings
from precise_core.warehouse.care import content_changed
from precise_core.warehouse.locks import warehouse_lock
from precise_core.warehouse.tables import Warehouse
from schemas import RUNS, TABLES, Table

_TABLES = {table.name: table for table in TABLES}


class Link(NamedTuple):
    """A job of a chain, and the parts of the configuration (`source`, `text`) that decide what it writes; None: all."""

    job: ModuleType
    parts: tuple[str, ...] | None = None

    @property
    def name(self) -> str:
        return self.job.__name__.rsplit(".", 1)[-1]


class Stopped(NamedTuple):
    """The job that failed, and its exit code."""

    job: str
    code: int


def chain(
    settings: Settings,
    links: Sequence[Link],
    flags: Sequence[str],
    *,
    skip: bool = True,
    left_out: Mapping[str, str] | None = None,
) -> Stopped | None:
    """Run the jobs in order; the first that fails ends the chain.

    Args:
        settings: The configuration, the same as of ``flags``.
        links: The jobs.
        flags: The command line of every job.
        skip: Leave out a job whose output is still current.
        left_out: Jobs that do not run anyway: name and reason.
    """
    for number, link in enumerate(links, start=1):
        place = f"[{number}/{len(links)}] " if len(links) > 1 else ""
        console.print(f"{place}{link.name}", style="cyan", markup=False)
        if reason := (left_out or {}).get(link.name):
            console.print(f"  left out: {reason}\n", markup=False)
        elif skip and is_up_to_date(settings, link.name, link.parts):
            console.print("  up to date, left out\n")
        elif code := link.job.main(flags):
            return Stopped(link.name, code)
    return None


def chain_command(
    *flags: Flag, overrides: Callable[[Namespace], list[str]] = overrides_of
) -> Callable[[Callable[[Settings, Namespace, list[str]], int]], Callable[..., int]]:
    """Make a function of configuration, arguments and overrides the command of its file, under the warehouse's lock.

    Args:
        flags: Beside those of every command.
        overrides: What of the arguments overrides the configuration.
    """

    def of(body: Callable[[Settings, Namespace, list[str]], int]) -> Callable[..., int]:
        name = Path(inspect.getfile(body)).stem
        parser = command_parser(name, body.__globals__["__doc__"], flags)

        def main(argv: Sequence[str] | None = None) -> int:
            arguments = parser.parse_args(sys.argv[1:] if argv is None else argv)
            try:
                changed = overrides(arguments)
                settings = load_config(arguments.config, Settings, changed)
                with warehouse_lock(settings.warehouse) as stale:
                    warn_stale_lock(stale)
                    require_no_rollback(settings.warehouse)
                    return body(settings, arguments, changed)
            except Exception as error:
                return report_error(name, error, is_verbose=arguments.verbose)

        return main

    return of


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
