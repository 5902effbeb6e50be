"""Erasing users from a warehouse: rows removed, files searched afterwards, and models trained with them."""

from __future__ import annotations

import argparse
import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from delta.tables import DeltaTable
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from precise_core.artefacts import CHECKPOINTS, ERASURES, LIST_RANKERS, MANIFEST_FILE, RANKERS, REPORT
from precise_core.errors import ConfigError, DataError
from precise_core.operations.maintenance import require_no_reader
from precise_core.operations.traces import MESSAGE, WINDOW_USER, Traces, find_traces, values_in
from precise_core.run.job import Job
from precise_core.run.run_log import remove_logs
from precise_core.serving.prepare import remove_parts
from precise_core.store import above, store_at
from precise_core.warehouse.care import forget_history
from precise_core.warehouse.erasure_list import ErasureList, message_pattern, phrase_of, phrases, words_of
from precise_core.warehouse.reader import DeltaSnapshot
from precise_core.warehouse.tables import Warehouse
from schemas import (
    CANDIDATE_FEATURES,
    IMPRESSIONS,
    RANKING_FEATURES,
    RANKING_SCORES,
    RUNS,
    TABLES,
    TRAINING_WINDOWS,
    Table,
)
from schemas import columns as c

_YES, _NO, _UNKNOWN = "yes", "no", "unknown: the rows it was trained on are no longer there"
_MESSAGES, _PHRASES = "messages", "phrases"  # all of them in one row


@dataclass(frozen=True)
class Erased:
    """One table's rows before and after, and rows whose text was blanked."""

    rows_before: int
    rows_after: int
    blanked: int


def requested_users(arguments: argparse.Namespace) -> list[str]:
    """The ids of `--user-id` and of the file of `--ids`, one a line, taken literally."""
    ids = list(arguments.user_id or [])
    if arguments.ids:
        try:
            ids += Path(arguments.ids).read_text(encoding="utf-8").split("\n")
        except OSError as error:
            raise ConfigError(f"--ids {arguments.ids}: {error.strerror}") from error
    found = sorted({user_id for user_id in ids if user_id.strip()})
    if not found:
        raise ConfigError("no user to erase: give --user-id X, or --ids FILE with one id a line")
    return found


def require_no_versions(job: Job, *, is_purged: bool) -> None:
    """Say that a bucket keeps what is removed; refuse to promise that the users' rows are gone.

    Raises:
        ConfigError: All of it is to go now, and would not.
    """
    if not store_at(job.root).keeps_versions():
        return
    said = f"warehouse {job.root}: its bucket keeps older versions of objects, and with them the rows of erased users"
    if is_purged:
        raise ConfigError(
            f"{said}; suspend versioning and remove the older versions, or erase without --purge-history and let a "
            "lifecycle rule of the bucket remove noncurrent versions"
        )
    job.say(f"warning: {said}, until a lifecycle rule removes noncurrent versions")


def tables_with_users(job: Job) -> list[Table]:
    """Every existing table that may hold or quote a user; the one with impressions only comes first."""
    found = [table for table in TABLES if may_hold_users(table) and job.warehouse.exists(table)]
    return sorted(found, key=lambda table: table != RANKING_SCORES)


def erase_from_tables(job: Job, user_ids: Sequence[str]) -> dict[str, Erased]:
    """Remove the users from the newest version of every table."""
    users = job.spark.createDataFrame([(user_id,) for user_id in user_ids], f"{c.USER_ID} string").coalesce(1)
    impressions = impressions_of(job.warehouse, users)
    done = {}
    for table in tables_with_users(job):
        job.require_held()
        done[table.name] = erase(job.warehouse, table, users, impressions)
        job.output_versions[table.name] = job.warehouse.version(table)
    return done


def purge_history(job: Job) -> None:
    """Remove every older version of the tables that held users, unless a reader may need one."""
    require_no_reader(job, 0)
    for table in tables_with_users(job):
        job.require_held()
        removed = forget_history(job.warehouse.path(table))
        job.output_versions[table.name] = job.warehouse.version(table)
        job.say(f"{table.name}: history removed, {len(removed)} older files; older versions can no longer be read")


def look_for_traces(job: Job, user_ids: Sequence[str], done: dict[str, Erased]) -> dict[str, Traces]:
    """Search every file of every table with users, and log the result."""
    found = {}
    for table in tables_with_users(job):
        traces = found[table.name] = find_traces(job.warehouse.path(table), user_ids)
        rows = done[table.name]
        job.say(
            f"{table.name}: {rows.rows_before:,} rows before, {rows.rows_after:,} after"
            + (f", {rows.blanked} texts blanked" if rows.blanked else "")
            + f"; read {traces.live_files} live and {traces.older_files} older files, {traces.log_entries} log entries:"
            f" {traces.live_values} + {traces.older_values} + {traces.log_values} values name them"
        )
    return found


def trained_with(job: Job, user_ids: Sequence[str]) -> dict[str, str]:
    """Checkpoint or ranking model -> `yes`, `no`, or `unknown` where its training data was removed."""
    return dict([*_checkpoints(job, user_ids), *_rankers(job, user_ids), *_list_rankers(job, user_ids)])


def _checkpoints(job: Job, user_ids: Sequence[str]) -> Iterator[tuple[str, str]]:
    answers: dict[tuple[int, str], str] = {}
    for manifest in _manifests(job, CHECKPOINTS, MANIFEST_FILE):
        version, task = manifest["input_versions"].get(TRAINING_WINDOWS.name), manifest["task"]
        if version is None:
            continue
        if (version, task) not in answers:
            where = {c.TASK: task, c.SPLIT: c.TRAIN}
            answers[version, task] = _is_in(job, TRAINING_WINDOWS, version, where, user_ids)
        yield manifest["model_version"], answers[version, task]


def _rankers(job: Job, user_ids: Sequence[str]) -> Iterator[tuple[str, str]]:
    for manifest in _manifests(job, RANKERS, "ranker.json"):
        version = manifest["parent"].get(RANKING_FEATURES.name)
        yield manifest["ranker_version"], _is_in(job, RANKING_FEATURES, version, {}, user_ids)


def _list_rankers(job: Job, user_ids: Sequence[str]) -> Iterator[tuple[str, str]]:
    for manifest in _manifests(job, LIST_RANKERS, "list_ranker.json"):
        version = manifest["about"].get(CANDIDATE_FEATURES.name)
        yield manifest["ranker_version"], _is_in(job, CANDIDATE_FEATURES, version, {}, user_ids)


def _manifests(job: Job, folder: str, name: str) -> Iterator[dict[str, Any]]:
    store = store_at(job.root)
    for version in store.names(folder):
        if found := store.get(f"{folder}/{version}/{name}"):
            yield json.loads(found.text)


def _is_in(job: Job, table: Table, version: int | None, where: dict[str, str], user_ids: Sequence[str]) -> str:
    try:
        files = DeltaSnapshot(job.warehouse.path(table), version).files(where)
        counts = [values_in(file, user_ids)["theirs"] for file in files]
    except (DataError, OSError):
        return _UNKNOWN
    return _YES if sum(counts) else _NO


def remove_report(job: Job) -> None:
    """Remove the page beside the warehouse, which shows users as examples; `build_report` makes it again."""
    if store_at(above(job.root)).delete(REPORT):
        job.say("report.html: removed, it may show them as an example; run jobs/build_report.py")


def remove_served(job: Job) -> None:
    """Remove what a server has mapped; one that runs takes over the tables as they are now, and removes it as well."""
    if removed := remove_parts(job.root):
        job.say(f"serving: {removed} folders removed, they may hold them; a server makes what it needs again")


def remove_stacks(job: Job) -> None:
    """Remove the logs of failed runs: messages of Java and Spark may quote rows."""
    if removed := remove_logs(job.scratch):
        job.say(f"logs of failed runs: {removed} removed, they may quote them")


def write_report(
    job: Job, erased: ErasureList, user_ids: Sequence[str], done: dict[str, Erased], traces: dict[str, Traces],
    trained: dict[str, str], *, is_purged: bool,
) -> str:  # fmt: skip
    """Keep the proof beside the list; it names users by their salted hash only."""
    report = {
        "run_id": job.run_id,
        "at": datetime.now(UTC).isoformat(),
        "users": [erased.hash_of(user_id) for user_id in user_ids],
        "history_removed": is_purged,
        "tables": {name: asdict(rows) | asdict(traces[name]) for name, rows in done.items()},
        "indexes": "hold items only",
        "trained_with_them": trained,
        "values_left": sum(found.left for found in traces.values()),
    }
    store, name = store_at(job.root), f"{ERASURES}/{job.run_id}.json"
    store.put(name, json.dumps(report, indent=2) + "\n")
    return store.place(name)


def may_hold_users(table: Table) -> bool:
    """Whether rows of this table can belong to a user or quote one."""
    own = {c.USER_ID, c.RAW} & set(table.column_names)
    return bool(own) or table in (TRAINING_WINDOWS, RANKING_SCORES, RUNS)


def impressions_of(warehouse: Warehouse, spark_users: DataFrame) -> DataFrame:
    """impression_id of the users' impressions, for the tables without user ids."""
    spark, found = spark_users.sparkSession, None
    for table in (IMPRESSIONS, RANKING_FEATURES):
        if warehouse.exists(table):
            rows = warehouse.read(spark, table, warehouse.version(table))
            ids = rows.join(spark_users, on=c.USER_ID, how="left_semi").select(c.IMPRESSION_ID)
            found = ids if found is None else found.unionByName(ids)
    if found is None:
        return spark.createDataFrame([], f"{c.IMPRESSION_ID} string")
    return found.distinct()


def erase(warehouse: Warehouse, table: Table, users: DataFrame, impressions: DataFrame) -> Erased:
    """Remove the users from one table that ``may_hold_users``, in one commit; none where they are not in it.

    No condition names a user: the log of the table would keep it. ``users`` has the column user_id, ``impressions`` the
    column impression_id.
    """
    spark, version = users.sparkSession, warehouse.version(table)
    rows = warehouse.read(spark, table, version)
    text, source = _text_column(table), impressions if table == RANKING_SCORES else users
    sizes: set[int] = set()
    if text is not None:  # a row may quote several of them, and an update needs one match
        user_ids = [row[c.USER_ID] for row in users.collect()]
        named = [user_id for user_id in user_ids if words_of(user_id)]
        sizes = {len(words_of(user_id)) for user_id in named} or {1}
        row = ([message_pattern(user_id) for user_id in user_ids], [phrase_of(user_id) for user_id in named])
        source = spark.createDataFrame([row], f"{_MESSAGES} array<string>, {_PHRASES} array<string>")
    condition = _match(table, sizes)
    before = rows.count()
    found = rows.alias("t").join(F.broadcast(source.alias("s")), condition, "left_semi").count()
    if not found:
        return Erased(before, before, 0)
    merge = DeltaTable.forPath(spark, warehouse.path(table)).alias("t").merge(source.alias("s"), condition)
    if text is None:
        merge.whenMatchedDelete().execute()
        return Erased(before, before - found, 0)
    merge.whenMatchedUpdate(set={text: F.lit("")}).execute()
    return Erased(before, before, found)


def _match(table: Table, sizes: Collection[int]) -> Column:
    """Where a row `t` belongs to, or quotes, a user (or impression) `s`; phrases have one of ``sizes`` in words."""
    if table == RANKING_SCORES:
        return F.col(f"t.{c.IMPRESSION_ID}") == F.col(f"s.{c.IMPRESSION_ID}")
    if c.USER_ID in table.column_names:
        return F.col(f"t.{c.USER_ID}") == F.col(f"s.{c.USER_ID}")
    if table == TRAINING_WINDOWS:
        return F.regexp_extract(f"t.{c.WINDOW_ID}", WINDOW_USER, 1) == F.col(f"s.{c.USER_ID}")
    if c.RAW in table.column_names:
        return F.arrays_overlap(phrases(F.col(f"t.{c.RAW}"), sizes), F.col(f"s.{_PHRASES}"))
    # What is left is `runs`: earlier versions kept messages that name users and their windows.
    return F.exists(f"s.{_MESSAGES}", lambda pattern: F.regexp_like(f"t.{MESSAGE}", pattern))


def _text_column(table: Table) -> str | None:
    """The column that quotes users in a table whose rows are not theirs."""
    if table == RUNS:
        return MESSAGE
    return c.RAW if c.RAW in table.column_names else None
