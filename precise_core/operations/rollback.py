"""Back to the state after a named run: tables, vocabulary, checkpoints in use, ranking models and indexes together."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import unquote

from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from precise_core.artefacts import (
    FOLDERS,
    ROLLBACK_JOURNAL,
    artefact_folder,
    artefacts_in_use,
    has_rankers,
    put_rankers_in_use,
)
from precise_core.consume.publications import published_now, published_rows
from precise_core.errors import ConfigError, DataError, InterruptedRollbackError
from precise_core.run.job import Job
from precise_core.store import below, fetched, is_there, store_at
from precise_core.store.sums import verify_sums
from precise_core.training.checkpoint import Checkpoint, put_in_use, take_out_of_use
from precise_core.warehouse.care import live_files
from precise_core.warehouse.erasure_list import ErasureList
from precise_core.warehouse.places import sizes_of
from schemas import (
    ITEM_EMBEDDINGS,
    PUBLISHED_MODELS,
    RUNS,
    TABLES,
    USER_EMBEDDINGS,
    VALIDATION_RESULTS,
    Table,
)
from schemas import columns as c

NIGHT = "run_night"
# Records of what has happened: these are never restored.
_HISTORY = {RUNS.name, VALIDATION_RESULTS.name}


@dataclass
class State:
    """What a warehouse consisted of after the run ``to_run``.

    Attributes:
        tables: Table -> version; a table that is not here did not exist.
        table_ids: Table -> its id, where a run has recorded it.
        artefacts: `checkpoint:<task>`, `index:<task>`, `ranker:<system>` and `list_ranker:lists` -> version.
    """

    to_run: str
    tables: dict[str, int] = field(default_factory=dict)
    table_ids: dict[str, str] = field(default_factory=dict)
    artefacts: dict[str, str] = field(default_factory=dict)

    def add(self, run: Mapping[str, Any]) -> None:
        """Apply one run."""
        whole = run["job"] in (NIGHT, "rollback") and run["status"] == "succeeded"  # these record everything
        if whole:
            self.tables, self.table_ids, self.artefacts = {}, {}, {}
        # A version that it read existed, even where the run that wrote it was killed and has no row. Published vectors
        # may be read in an older version than the newest: a read never lowers a version.
        read = {name: max(version, self.tables.get(name, version)) for name, version in run["input_versions"]}
        seen = read | dict(run["output_versions"])
        self.tables |= {name: version for name, version in seen.items() if name not in _HISTORY}
        self.table_ids |= dict(run["table_ids"] or {})
        if run["job"] == "train_ranker" and run["status"] == "succeeded":  # its pointer is replaced as a whole
            self.artefacts = {key: value for key, value in self.artefacts.items() if not key.startswith("ranker:")}
        self.artefacts |= dict(run["artefacts"])
        self.artefacts = {key: value for key, value in self.artefacts.items() if value}


def state_after(job: Job, run_id: str) -> State:
    """The state after ``run_id`` by the rows of `runs`; refused where users were erased since."""
    rows = job.warehouse.read_arrow(RUNS, job.warehouse.version(RUNS)).to_pylist()
    rows.sort(key=_end)
    found = next((row for row in rows if row["run_id"] == run_id), None)
    if found is None or found["status"] != "succeeded":
        nights = [row["run_id"] for row in rows if row["job"] == NIGHT and row["status"] == "succeeded"]
        raise ConfigError(
            f"--to-run {run_id}: {'no such run' if found is None else 'that run failed'}; the last nights are "
            f"{', '.join(nights[-5:]) or '(none)'}; every run is in the table runs"
        )
    erased = ErasureList.of(job.root).newest
    if erased is not None and erased > _end(found):
        raise DataError(
            f"--to-run {run_id}: users were erased at {erased:%Y-%m-%d %H:%M} UTC, after that run; going back would "
            "bring them back"
        )
    state = State(run_id)
    for row in rows[: rows.index(found) + 1]:
        state.add(row)
    return state


def _end(run: Mapping[str, Any]) -> datetime:
    started: datetime = run["started_at"]
    return started + timedelta(seconds=run["seconds"])


def whole_state(job: Job) -> None:
    """Record every table's version and everything in use, so that a rollback to this run is possible."""
    job.output_versions = {table.name: job.warehouse.version(table) for table in _tables(job)}
    indexes = {f"index:{task}": row[c.INDEX_VERSION] for task, row in published_now(job.root).items()}
    job.artefacts = artefacts_in_use(job.root) | indexes


def verify(job: Job, state: State) -> list[str]:
    """Refuse an incomplete state before anything is changed; returns what was checked."""
    seen = []
    for table in TABLES:
        if table.name in state.tables:
            _require_same_table(job, state, table)
            files = _verify_table(job.warehouse.path(table), table.name, state.tables[table.name])
            seen.append(f"{table.name} version {state.tables[table.name]}: {files} files are there")
    for key, version in sorted(state.artefacts.items()):
        folder = artefact_folder(job.root, key, version)
        if key.startswith("index:") and not is_there(folder):
            seen.append(f"{key} {version}: removed since, it will be built again")
            continue
        Checkpoint.open(folder) if key.startswith("checkpoint:") else verify_sums(fetched(folder))
        seen.append(f"{key} {version}: SHA-256 as written")
    if PUBLISHED_MODELS.name in state.tables:
        for task, row in published_rows(job.root, state.tables[PUBLISHED_MODELS.name]).items():
            Checkpoint.open(below(job.checkpoints, row[c.MODEL_VERSION]))
            seen.append(f"published for {task}: {row[c.MODEL_VERSION]}: SHA-256 as written")
    return seen


def _require_same_table(job: Job, state: State, table: Table) -> None:
    version, known = state.tables[table.name], state.table_ids.get(table.name)
    found = job.warehouse.table_id(table) if job.warehouse.exists(table) else None
    if found is None or known not in (None, found):
        what = "is gone" if found is None else "was made anew since (its folder was removed)"
        raise DataError(
            f"table {table.name}: it {what}, so version {version}, which run {state.to_run} left, is nowhere; choose a "
            "later run, or restore the folder"
        )


def _verify_table(path: str, name: str, version: int) -> int:
    try:
        files = live_files(path, version)
    except (DeltaError, OSError) as error:
        raise DataError(
            f"table {name}: version {version} is no longer in its log; it cannot be gone back to"
        ) from error
    found = sizes_of(path, list(map(unquote, files)))
    for (file, size), there in zip(files.items(), found, strict=True):
        if there != size:
            problem = "is gone" if there is None else "has another size"
            raise DataError(
                f"table {name}: version {version} needs {unquote(file).rpartition('/')[2]}, which {problem}; no way "
                "back to it (maintain_tables removes files after tables.retention_hours)"
            )
    return len(files)


def begin(job: Job, state: State) -> None:
    """Write the journal: no other job works on the warehouse until the rollback is finished."""
    store_at(job.root).put_if_absent(ROLLBACK_JOURNAL, json.dumps(asdict(state), indent=2))


def interrupted(job: Job) -> State | None:
    """The target of an interrupted rollback, which must be finished before another one begins."""
    journal = store_at(job.root).get(ROLLBACK_JOURNAL)
    if journal is None:
        return None
    state = State(**json.loads(journal.text))
    if state.to_run != job.arguments.to_run:
        raise InterruptedRollbackError(
            f"--to-run {job.arguments.to_run}: a rollback to {state.to_run} was interrupted; finish that one first"
        )
    return state


def restore_pointers(job: Job, state: State) -> None:
    """Put checkpoints and ranking models back in use; first, since the vectors they made are still in the tables."""
    job.require_held()
    checkpoints = job.checkpoints
    needed = {key: version for key, version in state.artefacts.items() if not key.startswith("index:")}
    for key in sorted(artefacts_in_use(job.root).keys() - needed.keys()):
        if key.startswith("checkpoint:"):
            take_out_of_use(checkpoints, key.partition(":")[2])
            job.say(f"{key}: none in use, as then")
    for key, version in sorted(needed.items()):
        if key.startswith("checkpoint:"):
            put_in_use(checkpoints, key.partition(":")[2], Checkpoint.open(below(checkpoints, version)))
            job.say(f"{key}: {version}")
    for kind in ("ranker", "list_ranker"):
        versions = {key.partition(":")[2]: version for key, version in needed.items() if key.startswith(f"{kind}:")}
        if versions or has_rankers(job.root, FOLDERS[kind]):
            put_rankers_in_use(job.root, versions, FOLDERS[kind])


def restore_tables(job: Job, state: State) -> Sequence[str]:
    """Every table to its version, in one commit each, and none where it has the same files already.

    `published_models` is restored first where the vectors it will name exist already, else last, so that readers find
    published vectors at every moment. Returns the tables that changed.
    """
    changed, is_first = [], _may_move_first(job, state)
    for table in sorted(_tables(job), key=lambda table: (table == PUBLISHED_MODELS) != is_first):
        path, version = job.warehouse.path(table), state.tables.get(table.name)
        job.require_held()
        if version is None:
            _empty(path)
        elif live_files(path) != live_files(path, version):
            DeltaTable(path).restore(version)
        else:
            continue
        changed.append(table.name)
        job.say(f"{table.name}: {'emptied, it was not there then' if version is None else f'as in version {version}'}")
    return changed


def _may_move_first(job: Job, state: State) -> bool:
    """Whether the vectors that `published_models` will name exist now, by the partitions alone."""
    version = state.tables.get(PUBLISHED_MODELS.name)
    if version is None:
        return True
    named = {row[c.MODEL_VERSION] for row in published_rows(job.root, version).values()}
    tables = [table for table in (ITEM_EMBEDDINGS, USER_EMBEDDINGS) if table.name in state.tables]
    found = [DeltaTable(job.warehouse.path(table)).partitions() for table in tables]
    return all(named <= {partition[c.MODEL_VERSION] for partition in partitions} for partitions in found)


def _empty(path: str) -> None:
    if live_files(path):
        DeltaTable(path).delete()


def end(job: Job) -> None:
    """The rollback is complete: other jobs may work again."""
    store_at(job.root).delete(ROLLBACK_JOURNAL)


def _tables(job: Job) -> list[Table]:
    return [table for table in TABLES if table.name not in _HISTORY and job.warehouse.exists(table)]


def removed_indexes(job: Job, state: State) -> list[str]:
    """Tasks whose index was removed since."""
    indexes = {key.partition(":")[2]: name for key, name in state.artefacts.items() if key.startswith("index:")}
    return sorted(task for task, name in indexes.items() if not is_there(artefact_folder(job.root, "index", name)))
