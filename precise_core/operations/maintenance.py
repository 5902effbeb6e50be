"""The steps of `maintain_tables`, and what it refuses."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from precise_core.artefacts import CATALOGS, CHECKPOINTS, FOLDERS, artefacts_in_use, checkpoint_manifest
from precise_core.consume.publications import Publication, publication_history, published_now
from precise_core.errors import ConfigError, ReaderError
from precise_core.run.job import Job
from precise_core.store import Place, above, below, name_of, store_at
from precise_core.store.local import LEFTOVERS
from precise_core.store.sums import SUMS_FILE
from precise_core.warehouse.care import (
    MIB,
    SmallFiles,
    compact,
    is_readable,
    old_log_entries,
    small_files,
    trim_log,
    vacuum,
)
from precise_core.warehouse.locks import leases, needed_since
from schemas import ITEM_EMBEDDINGS, RUNS, TRAINING_WINDOWS, USER_EMBEDDINGS, Table
from schemas import columns as c

# Training reads it row group by row group, in an order that a resumed training must find again; every night that
# changes it writes it as a whole.
_NEVER_COMPACTED = (TRAINING_WINDOWS,)
_PARENTS = ("parent", "previous", "universal", "anchor")  # of a checkpoint's manifest: what it was made from
_LEFTOVER_SECONDS = 86_400
_WEEK = timedelta(days=7)
# What makes a folder an artefact (`checkpoints/logs` is none); a checkpoint of format 2 has the second.
_SUMS = (SUMS_FILE, "sums.json")


def require_safe_retention(job: Job, hours: int) -> None:
    """Refuse to remove files that a living reader may still read."""
    least = job.settings.tables.min_retention_hours
    if hours < least:
        raise ConfigError(
            f"retention of {hours} h is below tables.min_retention_hours {least}; a job that began before it would "
            "lose the files it reads"
        )
    require_no_reader(job, hours)


def require_no_reader(job: Job, hours: int) -> None:
    """Refuse where a living reader started, or reads a version that was replaced, more than ``hours`` ago."""
    living, stale = leases(job.root)
    for lease in stale:
        job.say(f"reader {lease} ended without a word; its lease is void")
        if not getattr(job.arguments, "dry_run", False):
            store_at(job.root).delete(lease.place)
    for lease in living:
        age = (datetime.now(UTC) - needed_since(lease, job.root)).total_seconds() / 3600
        if age > hours:
            raise ReaderError(
                f"retention of {hours} h would remove files that a reader needs: {lease}; wait for it to end, or keep "
                f"at least {math.floor(age) + 1} h"
            )


def care_for(job: Job, table: Table, hours: int, dry_run: bool) -> bool:
    """Compact, vacuum and trim the log of one table; returns whether there was anything to do."""
    job.require_held()
    path, config = job.warehouse.path(table), job.settings.tables
    would = "would " if dry_run else ""
    done = []
    small = SmallFiles(0, 0) if table in _NEVER_COMPACTED else small_files(path, config)
    if small.files:
        done.append(f"{would}merge {small.files} small files ({small.size_bytes / MIB:.1f} MiB)")
        if not dry_run:
            compact(job.spark, path, config)
    removed = vacuum(path, hours, dry_run=dry_run, keep=_published_versions(job, table))
    if removed:
        done.append(f"{would}remove {len(removed)} files older than {hours} h that no version needs")
    entries = (
        len(old_log_entries(path, config.log_retention_days)) if dry_run else trim_log(path, config.log_retention_days)
    )
    if entries:
        done.append(f"{would}remove {entries} log entries older than {config.log_retention_days} days")
    if done:
        job.say(f"{table.name}: {', '.join(done)}")
    job.output_versions[table.name] = job.warehouse.version(table)
    job.metrics["files_merged"] = job.metrics.get("files_merged", 0.0) + small.files * (not dry_run)
    job.metrics["files_removed"] = job.metrics.get("files_removed", 0.0) + len(removed) * (not dry_run)
    return bool(done)


def _published_versions(job: Job, table: Table) -> set[int]:
    """Versions with published vectors, which readers need, however old, and one a week for the lists to learn from."""
    if table not in (ITEM_EMBEDDINGS, USER_EMBEDDINGS):
        return set()
    path, published = job.warehouse.path(table), published_now(job.root)
    wanted = {(row[c.MODEL_VERSION], row["table_versions"].get(table.name)) for row in published.values()}
    wanted |= {
        (was.model_version, was.first.get(table.name)) for task in published for was in _of_past_weeks(job, task)
    }
    return {
        version
        for model_version, version in wanted
        if version is not None and is_readable(path, version, f"{c.MODEL_VERSION}={model_version}/")
    }


def _of_past_weeks(job: Job, task: str) -> list[Publication]:
    """A publication a week, as far back as the lists learn from: their scores are those of the vectors of then."""
    history = publication_history(job.root, task)
    days = job.settings.recommendations.horizon_days or job.settings.evaluation.test_days
    oldest = history[-1].as_of - timedelta(days=days) - 2 * _WEEK
    by_week: dict[int, Publication] = {}
    for was in history:
        if was.as_of >= oldest:
            by_week.setdefault(was.as_of.toordinal() // _WEEK.days, was)
    return list(by_week.values())


def remove_old_artefacts(job: Job, dry_run: bool) -> None:
    """Remove checkpoints, indexes, ranking models and catalogs that nothing refers to."""
    keep = job.settings.tables.keep_artefacts
    runs = job.warehouse.read_arrow(RUNS, job.warehouse.version(RUNS), ["started_at", "status", "artefacts"])
    unused = unused_artefacts(job.root, runs.to_pylist(), keep)
    for folder in unused:
        name = f"{name_of(above(folder))}/{name_of(folder)}"
        job.say(f"{'would remove' if dry_run else 'remove'} {_size(folder) / MIB:.1f} MiB: {name}")
        if not dry_run:
            store_at(above(folder)).delete_folder(name_of(folder))
    job.say(f"artefacts: {len(unused)} not in use; the newest {keep} of each kind and task are kept")
    job.metrics["artefacts_removed"] = 0.0 if dry_run else float(len(unused))


def _size(folder: Place) -> int:
    return sum(entry.size_bytes for entry in store_at(folder).list())


def unused_artefacts(warehouse: Place, runs: Sequence[dict[str, Any]], keep: int) -> list[Place]:
    """Folders that may be removed.

    Kept are artefacts in use or published, those of the last ``keep`` successful runs of each kind and task, the
    checkpoints that these were made from, and the newest ``keep`` catalogs. Half-written folders of killed processes
    are unused after a day.
    """
    kept = _newest(runs, keep) | set(artefacts_in_use(warehouse).values())
    published = published_now(warehouse).values()
    kept |= {row[name] for row in published for name in (c.MODEL_VERSION, c.INDEX_VERSION)}
    kept |= {name for version in sorted(kept) for name in _made_from(warehouse, version)}
    store = store_at(warehouse)
    unused = [
        below(warehouse, place, name)
        for place in FOLDERS.values()
        for name in store.names(place)
        if name not in kept and any(store.get(f"{place}/{name}/{sums}") for sums in _SUMS)
    ]
    return [*unused, *_old_catalogs(store.scratch, keep), *_leftovers(store.scratch)]


def _newest(runs: Sequence[dict[str, Any]], keep: int) -> set[str]:
    made: dict[str, list[str]] = defaultdict(list)
    for run in sorted(runs, key=lambda row: row["started_at"], reverse=True):
        if run["status"] == "succeeded":
            for key, version in dict(run["artefacts"]).items():
                if version not in made[key]:
                    made[key].append(version)
    return {version for versions in made.values() for version in versions[:keep]}


def _made_from(warehouse: Place, version: str) -> list[str]:
    described = checkpoint_manifest(below(warehouse, CHECKPOINTS), version)
    return [described[name] for name in _PARENTS if described.get(name)]


def _old_catalogs(scratch: Path, keep: int) -> list[Path]:
    newest_first = sorted((scratch / CATALOGS).glob("v*"), key=lambda folder: folder.stat().st_mtime, reverse=True)
    return newest_first[keep:]


def _leftovers(scratch: Path) -> list[Path]:
    limit = time.time() - _LEFTOVER_SECONDS
    found = (folder for place in FOLDERS.values() for end in LEFTOVERS for folder in (scratch / place).glob(end))
    return sorted(folder for folder in found if folder.stat().st_mtime < limit)
