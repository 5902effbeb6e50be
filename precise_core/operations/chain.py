"""Several jobs, one after another, under one lock; those whose output is still current are left out."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import pyarrow.compute as pc

from precise_core.artefacts import CHECKPOINTS, artefact_folder
from precise_core.command import CommandLine, Flag, file_of, overrides_of, tell_monitor, warn_stale_lock
from precise_core.config import config_hash, load_config
from precise_core.errors import PreciseError
from precise_core.intake.chosen_sizes import awaits_sizes, sized
from precise_core.intake.night import read_manifest
from precise_core.intake.read import source_fingerprint
from precise_core.run.code import code_version
from precise_core.run.job import require_no_rollback
from precise_core.run.progress import console
from precise_core.settings import Settings
from precise_core.store import below, is_there
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
        settings: As written; every job adds the sizes of the warehouse.
        flags: The command line of every job.
        skip: Leave out a job whose output is still current.
        left_out: Jobs that do not run anyway: name and reason.
    """
    for number, link in enumerate(links, start=1):
        place = f"[{number}/{len(links)}] " if len(links) > 1 else ""
        console.print(f"{place}{link.name}", style="cyan", markup=False)
        if reason := (left_out or {}).get(link.name):
            console.print(f"  {link.name}: left out, {reason}\n", markup=False)
        elif skip and is_up_to_date(sized(settings), link.name, link.parts):  # ingest may just have chosen sizes
            console.print(f"  {link.name}: up to date, left out\n", markup=False)
        elif code := link.job.main(flags):
            return Stopped(link.name, code)
    return None


class ChainCommand(CommandLine):
    """A command that runs several jobs under one lock of the warehouse.

    Args:
        body: Gets configuration, arguments and overrides, and gives the exit code.
        overrides: The overrides of the configuration among the arguments.
        check: Refuses a configuration before anything is locked or written.
    """

    def __init__(
        self,
        name: str,
        doc: str | None,
        flags: Sequence[Flag],
        body: Callable[[Settings, Namespace, list[str]], int],
        overrides: Callable[[Namespace], list[str]],
        check: Callable[[Settings, Namespace], None],
    ) -> None:
        super().__init__(name, doc, flags)
        self._body, self._overrides, self._check = body, overrides, check

    def _run(self, arguments: Namespace) -> int:
        overrides = self._overrides(arguments)
        settings = load_config(arguments.config, Settings, overrides)
        self._check(settings, arguments)
        with warehouse_lock(settings.warehouse) as stale:
            warn_stale_lock(stale)
            require_no_rollback(settings.warehouse)
            code = self._body(settings, arguments, overrides)
            tell_monitor(settings)
            return code


def chain_command(
    *flags: Flag,
    overrides: Callable[[Namespace], list[str]] = overrides_of,
    check: Callable[[Settings, Namespace], None] = lambda *_: None,
) -> Callable[[Callable[[Settings, Namespace, list[str]], int]], ChainCommand]:
    """Make a function of configuration, arguments and overrides the command of its file."""
    return lambda body: ChainCommand(*file_of(body), flags, body, overrides, check)


def is_up_to_date(settings: Settings, job: str, parts: Sequence[str] | None = None) -> bool:
    """True where the job's last run succeeded with this configuration and code, and its inputs are unchanged.

    Every table it read or wrote still has the same version, the source files have the same content, and the checkpoints
    in use are the same. ``parts`` of the configuration (`source`, `text`) decide what the job writes; all by default.
    """
    if job == "ingest" and awaits_sizes(settings):
        return False
    warehouse = Warehouse(settings.warehouse)
    last = _last_run(warehouse, job)
    if last is None or last["status"] != "succeeded":
        return False
    if not _is_configured_alike(last, settings, parts) or last["code_version"] != code_version():
        return False
    seen = {**dict(last["input_versions"]), **dict(last["output_versions"])}
    made = [artefact_folder(settings.warehouse, *item) for item in dict(last["artefacts"]).items() if item[1]]
    if not all(map(is_there, made)):
        return False
    fingerprints, ids = json.loads(last["input_fingerprint"] or "{}"), dict(last["table_ids"] or {})
    try:
        return all(_is_unmoved(warehouse, _TABLES[name], seen[name], ids.get(name)) for name in seen) and all(
            _current_fingerprint(settings, name) == value for name, value in fingerprints.items()
        )
    except PreciseError:  # a table or checkpoint is missing
        return False


def _is_unmoved(warehouse: Warehouse, table: Table, version: int, table_id: str | None) -> bool:
    """Whether no row has changed: compaction does not count, but the same version of a table made anew does."""
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


def _current_fingerprint(settings: Settings, name: str) -> str:
    kind, _, key = name.partition(":")
    if kind == "source":
        return source_fingerprint(settings.source, read_manifest(Warehouse(settings.warehouse)))
    # The trainer's packages are heavy; jobs that only touch tables never get here.
    from precise_core.training.checkpoint import latest

    if kind != "checkpoint":
        return ""
    return latest(below(settings.warehouse, CHECKPOINTS), key).model_version
