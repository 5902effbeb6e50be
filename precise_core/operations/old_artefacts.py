"""Checkpoints, indexes, ranking models and catalogs that nothing refers to any more."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from precise_core.consume.publications import published_now
from schemas import columns as c

# What a run calls its products in `runs.artefacts`, and the folder they lie in.
FOLDERS = {"checkpoint": "checkpoints", "index": "indexes", "ranker": "rankers"}
_PARENTS = ("parent", "previous", "universal")  # of a checkpoint's manifest: what it was made from
_LEFTOVERS = ("checkpoints/.writing-*", "indexes/.*.tmp", "indexes/.*.old", "rankers/.*.tmp", "rankers/.*.old")
_LEFTOVER_SECONDS = 86_400
_SUMS = ("sums.json", "SHA256SUMS")  # what makes a folder an artefact: `checkpoints/logs` is none


def unused_artefacts(warehouse: Path, runs: Sequence[dict[str, Any]], keep: int) -> list[Path]:
    """Folders that may be removed.

    Kept are what a pointer names, what is published, what the last ``keep`` successful runs that made something of the
    same kind and task made, the checkpoints that these were made from, and the newest ``keep`` catalogs. What a killed
    process left half-written is unused after a day.

    Args:
        warehouse: Its root.
        runs: Rows of the table `runs`.
        keep: How many of each kind and task.
    """
    kept = _newest(runs, keep) | set(pointers(warehouse).values())
    published = published_now(warehouse).values()
    kept |= {row[name] for row in published for name in (c.MODEL_VERSION, c.INDEX_VERSION)}
    kept |= {name for version in sorted(kept) for name in _made_from(warehouse, version)}
    unused = [
        folder
        for place in FOLDERS.values()
        for folder in sorted((warehouse / place).glob("[!.]*"))
        if folder.name not in kept and any((folder / sums).is_file() for sums in _SUMS)
    ]
    return [*unused, *_old_catalogs(warehouse, keep), *_leftovers(warehouse)]


def pointers(warehouse: Path) -> dict[str, str]:
    """What is in use: `checkpoint:<task>` and `ranker:<system>` -> version."""
    found = {}
    for file in sorted((warehouse / FOLDERS["checkpoint"]).glob("latest-*.json")):
        found[f"checkpoint:{file.stem.removeprefix('latest-')}"] = json.loads(file.read_text("utf-8"))["model_version"]
    rankers = warehouse / FOLDERS["ranker"] / "latest.json"
    if rankers.is_file():
        found |= {f"ranker:{system}": name for system, name in json.loads(rankers.read_text("utf-8")).items()}
    return found


def _newest(runs: Sequence[dict[str, Any]], keep: int) -> set[str]:
    made: dict[str, list[str]] = defaultdict(list)
    for run in sorted(runs, key=lambda row: row["started_at"], reverse=True):
        if run["status"] == "succeeded":
            for key, version in dict(run["artefacts"]).items():
                if version not in made[key]:
                    made[key].append(version)
    return {version for versions in made.values() for version in versions[:keep]}


def _made_from(warehouse: Path, version: str) -> Iterator[str]:
    manifest = warehouse / FOLDERS["checkpoint"] / version / "manifest.json"
    if manifest.is_file():
        described = json.loads(manifest.read_text(encoding="utf-8"))
        yield from (described[name] for name in _PARENTS if described.get(name))


def _old_catalogs(warehouse: Path, keep: int) -> list[Path]:
    newest_first = sorted((warehouse / "catalogs").glob("v*"), key=lambda folder: folder.stat().st_mtime, reverse=True)
    return newest_first[keep:]


def _leftovers(warehouse: Path) -> list[Path]:
    limit = time.time() - _LEFTOVER_SECONDS
    found = (folder for pattern in _LEFTOVERS for folder in warehouse.glob(pattern))
    return sorted(folder for folder in found if folder.stat().st_mtime < limit)
