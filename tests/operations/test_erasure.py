"""A user leaves: every table, every older version, the log, and does not come back with the same files."""

from __future__ import annotations

import json
import pickle
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import write_deltalake
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from precise_core.artefacts import SERVING
from precise_core.errors import NOT_KEPT, DataError, stored_text
from precise_core.intake.cleaning import ERASED, hide_erased
from precise_core.operations.erasure import erase, may_hold_users
from precise_core.operations.traces import find_traces
from precise_core.serving.plan import plan
from precise_core.serving.prepare import prepare
from precise_core.serving.served import Served
from precise_core.sources.raw import (
    RAW_EVENT_TYPES,
    RawTables,
    parts_of_row,
    raw_frame,
    row_as_json,
    text_of_parts,
)
from precise_core.warehouse.erasure_list import ErasureList
from precise_core.warehouse.locks import reader_lease
from precise_core.warehouse.tables import Warehouse
from schemas import EVENTS_REJECTED, RUNS, TABLES
from schemas import columns as c
from tests.night import copy_of, run, said
from tests.nights.test_night import read
from tests.validation.test_table_suites import RUN


def raw_events(spark: SparkSession, rows: list[tuple[str | None, str, str | None]]) -> RawTables:
    """(user, item, problem) as a source would hand them over."""
    frame = spark.createDataFrame(rows, f"{c.USER_ID} string, {c.ITEM_ID} string, bad string")
    columns = {c.USER_ID: F.col(c.USER_ID), c.ITEM_ID: F.col(c.ITEM_ID)}
    raw = row_as_json(F.col(c.USER_ID), F.col(c.ITEM_ID), F.col("bad"))
    events = raw_frame(
        frame,
        RAW_EVENT_TYPES,
        columns,
        raw=raw,
        source_file=F.lit("f"),
        problem=F.when(F.col("bad") != "", F.col("bad")),
    )
    return RawTables(events=events, items=frame)


def test_rows_of_erased_users_are_counted_but_not_kept(spark: SparkSession, tmp_path: Path) -> None:
    erased = ErasureList.of(tmp_path)
    erased.add(["u1", "ü 7"])
    rows = [
        ("u1", "i", ""),
        ("u10", "i", ""),
        ("ü 7", "i", ""),
        (None, "u1", ""),
        (None, "i", "u1"),
        (None, "u10", "x"),
    ]
    hidden = hide_erased(raw_events(spark, rows), ErasureList.of(tmp_path)).events.collect()
    assert [row["problem"] for row in hidden] == [ERASED, None, ERASED, ERASED, ERASED, "x"]
    assert [bool(row[c.RAW]) for row in hidden] == [False, True, False, False, False, True]


def test_a_row_is_hidden_whatever_its_columns_are_called(spark: SparkSession, tmp_path: Path) -> None:
    erased = ErasureList.of(tmp_path)
    erased.add(["u1"])
    frame = spark.createDataFrame([("u1", "i"), ("u2", "j")], "reader string, `recipe no: 7` string")
    columns = [F.col("reader"), F.col("`recipe no: 7`")]
    named = dict(zip((c.USER_ID, c.ITEM_ID), columns, strict=True))
    parts = parts_of_row(columns, F.lit(None).cast("string"))
    events = raw_frame(frame, RAW_EVENT_TYPES, named, raw=F.lit("x"), parts=parts, source_file=F.lit("f"))
    hidden = hide_erased(RawTables(events=events, items=frame), ErasureList.of(tmp_path)).events
    assert [row[0] for row in hidden.select(text_of_parts()).collect()] == ["", '{"reader":"u2","recipe no: 7":"j"}']


# Ids that hold what stands between the values of a row.
AWKWARD = ["auth0|42", "a b", 'x"y', "p\\q", "{c:d}", " e,f;g", "h'i[j]", "k/l"]


def quoted_by(user_id: str) -> list[str]:
    """Raw rows that could not be read: a JSON object, and a line of CSV inside one."""
    doubled = user_id.replace('"', '""')
    return [json.dumps({"what": user_id, "id": "1"}), json.dumps({"line": f'7,"{doubled}",click'})]


def test_ids_of_any_characters_are_hidden_blanked_and_found(spark: SparkSession, tmp_path: Path) -> None:
    erased = ErasureList.of(tmp_path)
    erased.add(AWKWARD)
    others = ["auth0", "42", "a", "b a", "x", "k"]
    rows = [(None, "i", text) for user_id in (*AWKWARD, *others) for text in quoted_by(user_id)]
    rows += [(user_id, "i", "") for user_id in (*AWKWARD, *others)]
    hidden = hide_erased(raw_events(spark, rows), ErasureList.of(tmp_path)).events.collect()
    theirs = [True] * 2 * len(AWKWARD) + [False] * 2 * len(others) + [True] * len(AWKWARD) + [False] * len(others)
    assert [row[c.RAW] == "" for row in hidden] == theirs

    house, kept = Warehouse(str(tmp_path)), [text for user_id in others for text in quoted_by(user_id)]
    raws = [*kept, *(text for user_id in AWKWARD for text in quoted_by(user_id))]
    now = datetime.now(UTC)
    records = [{c.RAW: raw, c.REASON: "r", c.SOURCE_FILE: "f", c.RUN_ID: "x", c.REJECTED_AT: now} for raw in raws]
    house.append_records(EVENTS_REJECTED, records)
    path = house.path(EVENTS_REJECTED)
    assert [find_traces(path, [user_id]).live_values for user_id in AWKWARD] == [2] * len(AWKWARD)
    users = spark.createDataFrame([(user_id,) for user_id in AWKWARD], f"{c.USER_ID} string").coalesce(1)
    assert erase(house, EVENTS_REJECTED, users, users).blanked == 2 * len(AWKWARD)
    stored = house.read_arrow(EVENTS_REJECTED, house.version(EVENTS_REJECTED))[c.RAW].to_pylist()
    assert sorted(stored) == sorted(["" for _ in AWKWARD for _ in range(2)] + kept)
    assert find_traces(path, AWKWARD).live_values == 0


def test_an_id_is_found_in_a_log_that_cuts_texts(tmp_path: Path) -> None:
    path, long = str(tmp_path / "t"), "auth0|" + "7" * 40
    columns = {c.USER_ID: [long], c.WINDOW_ID: [f"all/train/{long}/12"], c.RAW: ['{"a":"x","who":"auth0|42"}']}
    write_deltalake(path, pa.table(columns))
    write_deltalake(path, pa.table({name: [""] for name in columns}), mode="overwrite")
    assert find_traces(path, [long]).log_values >= 4  # smallest and largest of two columns
    assert find_traces(path, ["auth0|42"]).log_values >= 2
    for other in ("auth0|4", "auth0", "7" * 40, f"{long[:20]}8"):
        assert find_traces(path, [other]).log_values == (2 if other == "auth0" else 0)  # a word of the raw row


def test_messages_of_earlier_versions_that_name_a_user_are_found_and_blanked(
    spark: SparkSession, tmp_path: Path
) -> None:
    ids = [*AWKWARD, "u.1", "7"]
    quoted = {user_id: str([(user_id, "12")]) for user_id in ids} | {"k/l": "windows ['all/train/k/l/0']"}
    kept = ["none of 17 pairs", "u-1 is somebody else", "k", "auth0", "a-b"]
    house = Warehouse(str(tmp_path))
    house.append_records(RUNS, [RUN | {"error": message} for message in (*quoted.values(), *kept)])
    path = house.path(RUNS)
    assert [find_traces(path, [user_id]).live_values for user_id in ids] == [1] * len(ids)
    users = spark.createDataFrame([(user_id,) for user_id in ids], f"{c.USER_ID} string").coalesce(1)
    assert erase(house, RUNS, users, users).blanked == len(ids)
    stored = house.read_arrow(RUNS, house.version(RUNS))["error"].to_pylist()
    assert sorted(stored) == sorted(["" for _ in ids] + kept)
    assert find_traces(path, ids).live_values == 0


def test_what_is_kept_of_an_error_names_nobody() -> None:
    told = DataError("none of [('u1', '12')] is there: write them again", private="[('u1', '12')]")
    assert stored_text(told) == f"DataError: none of {NOT_KEPT} is there: write them again"
    assert "u1" in str(told) and stored_text(pickle.loads(pickle.dumps(told))) == stored_text(told)
    try:
        {}["u1"]  # what a library says is up to the library
    except KeyError as unexpected:
        assert "u1" not in stored_text(unexpected) and "test_erasure.py" not in stored_text(KeyError("u1"))
        assert stored_text(unexpected).startswith("KeyError in test_what_is_kept_of_an_error_names_nobody, line ")


def test_the_list_keeps_no_id_and_the_time_of_the_first_erasure(tmp_path: Path) -> None:
    erased = ErasureList.of(tmp_path)
    erased.add(["somebody"])
    first = dict(erased.users)
    again = ErasureList.of(tmp_path)
    again.add(["somebody", "another"])
    assert ErasureList.of(tmp_path).users == first | again.users and len(again.users) == 2
    file = tmp_path / "erasures" / "list.json"
    text = file.read_text()
    assert "somebody" not in text and file.stat().st_mode & 0o077 == 0
    other = ErasureList.of(tmp_path / "other")
    assert other.hash_of("somebody") not in text  # another salt, another hash


def test_traces_are_found_in_live_files_in_older_ones_and_in_the_log(tmp_path: Path) -> None:
    path = str(tmp_path / "t")
    for users in (["u1", "u2"], ["u3"]):
        write_deltalake(path, pa.table({c.USER_ID: users, c.ITEM_ID: ["u1"] * len(users)}), mode="append")
    found = find_traces(path, ["u1"])
    assert (found.live_values, found.older_values, found.elsewhere) == (1, 0, 3)  # items of that name are no users
    assert found.log_values >= 2  # u1 is the smallest value of its file
    write_deltalake(path, pa.table({c.USER_ID: ["u2", "u3"], c.ITEM_ID: ["i", "i"]}), mode="overwrite")
    found = find_traces(path, ["u1"])
    assert (found.live_values, found.older_values) == (0, 1) and found.log_values > 0


def test_every_table_that_can_hold_a_user_is_known() -> None:
    known = {table.name for table in TABLES if may_hold_users(table)}
    holding = {table.name for table in TABLES if {c.USER_ID, c.IMPRESSION_ID, c.RAW} & set(table.column_names)}
    assert known == holding | {"training_windows", "runs"}


def served_names(warehouse: Path, user: str) -> list[Path]:
    """Files that a server of the warehouse maps and that hold the user's id."""
    files = [file for file in (warehouse / SERVING).rglob("*.arrow")]
    return [file for file in files if user.encode() in file.read_bytes()]


@pytest.mark.faults
def test_a_user_leaves_every_table_and_history_and_does_not_come_back(
    night: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    warehouse = copy_of(night, tmp_path / "warehouse")
    events = read(warehouse, "events")
    user, other = events[c.USER_ID].value_counts().index[:2]
    theirs = int((events[c.USER_ID] == user).sum())
    impressions = set(read(warehouse, "impressions").set_index(c.USER_ID).loc[[user], c.IMPRESSION_ID])
    assert run("ingest", warehouse, "--set", "source.users=151") == 0  # older versions to be found in
    serve = Served(warehouse=str(warehouse))
    found = plan(serve)
    assert found is not None
    prepare(warehouse, found, set())
    assert served_names(warehouse, user)

    assert run("erase_user", warehouse, "--user-id", user) == 0
    assert not served_names(warehouse, user)
    found = plan(serve)
    assert found is not None
    prepare(warehouse, found, set())
    assert not served_names(warehouse, user)
    assert "values in older versions still name them" in said(capsys)
    (report,) = (warehouse / "erasures").glob("erase_user-*.json")
    first = json.loads(report.read_text())
    assert first["tables"]["events"]["rows_before"] - first["tables"]["events"]["rows_after"] == theirs
    assert first["values_left"] > 0 and user not in report.read_text()
    assert "yes" in first["trained_with_them"].values()
    assert not first["history_removed"]

    assert run("erase_user", warehouse, "--user-id", user, "--purge-history") == 0
    for table in TABLES:
        folder = warehouse / "tables" / table.name
        if folder.exists():
            assert find_traces(str(folder), [user]).left == 0, table.name
            assert not any(user.encode() in file.read_bytes() for file in (folder / "_delta_log").glob("*.json"))
    assert not impressions & set(read(warehouse, "ranking_scores")[c.IMPRESSION_ID])
    assert other in set(read(warehouse, "user_sequences")[c.USER_ID])
    assert not (warehouse.parent / "report.html").exists()
    assert run("recall", warehouse) == 0  # what is published is the version without them
    assert user not in set(read(warehouse, "recall_candidates")[c.USER_ID])

    assert run("ingest", warehouse, "--set", "source.users=151") == 0  # the same files again
    rejected = read(warehouse, "events_rejected")
    hidden = rejected[rejected[c.REASON] == ERASED]
    assert len(hidden) >= theirs and set(hidden[c.RAW]) == {""}
    for job in ("build_sequences", "build_windows"):
        assert run(job, warehouse) == 0
    for name in ("events", "user_sequences", "training_windows", "events_rejected"):
        assert find_traces(str(warehouse / "tables" / name), [user]).left == 0
    capsys.readouterr()
    runs = Warehouse(str(warehouse)).read_arrow(RUNS, Warehouse(str(warehouse)).version(RUNS)).to_pylist()
    earlier = min(runs, key=lambda row: row["started_at"])["run_id"]
    assert run("rollback", warehouse, "--to-run", earlier) == 2
    assert "would bring them back" in said(capsys)


def test_history_is_not_purged_under_a_reader(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with reader_lease(tmp_path, "export") as lease:
        text = (tmp_path / lease.place).read_text().replace(lease.host, "elsewhere")
    (tmp_path / "readers" / "other.json").write_text(text)
    assert run("erase_user", tmp_path, "--user-id", "x", "--purge-history") == 2
    assert "retention of 0 h would remove files that a reader needs" in said(capsys)
    assert not ErasureList.of(tmp_path).users  # refused before anything happened


def test_nobody_to_erase(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("erase_user", tmp_path) == 2
    assert "give --user-id X, or --ids FILE" in said(capsys)
    assert run("erase_user", tmp_path, "--ids", str(tmp_path / "none")) == 2
    assert "No such file" in said(capsys)
