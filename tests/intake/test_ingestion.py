"""Files are taken once, night after night: what is new is added, what was corrected is replaced, nothing else moves."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from deltalake import DeltaTable
from pyspark.sql import SparkSession

from precise_core.errors import HistoryGoneError
from precise_core.warehouse.erasure_list import ErasureList
from precise_core.warehouse.tables import Warehouse
from schemas import EVENTS
from tests.ingest_world import COLUMNS, Shop, told
from tests.night import job_of_its_own, wait_until

pytestmark = pytest.mark.usefixtures("spark")

ONE = ("1", "ann", "a", "2024-03-01T08:00:00Z", "click")
TWO = ("2", "bob", "b", "2024-03-01T09:00:00Z", "click")
THREE = ("3", "ann", "b", "2024-03-02T10:00:00Z", "click")
FOUR = ("4", "cat", "c", "2024-03-03T11:00:00Z", "click")
TWO_CORRECTED = ("2", "bob", "c", "2024-03-02T09:00:00Z", "click")


def test_nights_add_up_to_one_full_reading(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shop = Shop(tmp_path)
    first = shop.day("1", ONE, TWO, ONE)
    assert shop.run("ingest") == 0
    assert set(shop.events()) == {"1", "2"} and shop.reasons() == {"duplicate_event": 1}
    taken = shop.rows("source_files").set_index("path")
    assert taken.loc[str(first), "rows"] == 3 and len(taken.loc[str(first), "checksum"]) == 64

    versions = {name: shop.version(name) for name in ("events", "items", "events_rejected", "source_files")}
    assert shop.run("ingest") == 0
    assert {name: shop.version(name) for name in versions} == versions
    assert told(capsys, "events: 0 to read, 1 taken before")

    # A second night: one file of the log is archived, one is new. Only the new one is read.
    archived = first.read_bytes()
    first.unlink()
    old_files = shop.files("events")
    shop.day("2", THREE, ONE, ("9", "ann", "a", "2999-01-01T00:00:00Z", "click"), ("8", "ann", "zzz", ONE[3], "click"))
    assert shop.run("ingest") == 0
    assert set(shop.events()) == {"1", "2", "3"}
    assert shop.version("events") == versions["events"] + 1
    assert old_files < shop.files("events")  # appended; nothing that was there is rewritten
    assert shop.reasons() == {"duplicate_event": 1, "future_time": 1, "unknown_item": 1}
    metrics, run = shop.metrics(), shop.last_run()
    assert (metrics["events/new"], metrics["events/corrected"], metrics["events/already_stored"]) == (1, 0, 1)
    assert (run["rows_in"], run["rows_out"], run["rows_rejected"]) == (4, 2, 2)

    # A third: a correction moves an event to another day; the days that nobody speaks of keep their files.
    old_files = shop.files("events")
    shop.day("3", FOUR)
    assert shop.run("ingest") == 0
    third_of_march = shop.files("events") - old_files
    before = shop.version("events")
    shop.day("4", TWO_CORRECTED)
    assert shop.run("ingest") == 0
    assert shop.events()["2"] == ("bob", "c", "02 09:00")
    assert shop.version("events") == before + 1 and third_of_march < shop.files("events")
    assert shop.metrics()["events/corrected"] == 1

    # All files back: one full reading in the order of taking gives the same table, so nothing is written.
    first.write_bytes(archived)
    before = shop.version("events")
    assert shop.run("ingest", "--full") == 0
    assert shop.version("events") == before
    assert shop.rows("source_files")["sequence"].tolist().count(1) == 2  # the log's first file and the catalog


def test_a_changed_file_is_refused_or_read_again_on_request(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shop = Shop(tmp_path)
    shop.day("1", ONE)
    assert shop.run("ingest") == 0
    shop.day("1", ONE, TWO)
    assert shop.run("ingest") == 2
    assert told(capsys, "1.csv: has changed since run ingest-")
    assert set(shop.events()) == {"1"}
    assert shop.run("ingest", "--reread") == 0
    assert set(shop.events()) == {"1", "2"}


def test_files_whose_table_is_gone_are_read_again_and_an_empty_one_holds_nobody_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shop = Shop(tmp_path)
    first, second = shop.day("1", ONE, TWO), shop.day("2", TWO_CORRECTED)
    assert shop.run("ingest") == 0
    events, table = shop.events(), shop.warehouse / "tables" / "events"
    shutil.rmtree(table)
    (shop.folder / "log" / "3.csv").touch()
    assert shop.run("ingest") == 0
    said = "events: the table is gone or was made anew: 2 files that were taken into it are read again"
    empty = f"warning: {shop.folder / 'log' / '3.csv'}: the file is empty; it is left out tonight"
    out = capsys.readouterr().out
    assert all("".join(line.split()) in "".join(out.split()) for line in (said, empty))
    assert shop.events() == events and events["2"][1] == "c"  # in the order of taking: the correction stays
    assert len(shop.rows("source_files")) == 3  # the empty file is not among them

    shutil.rmtree(table)
    first.unlink()
    assert shop.run("ingest") == 2
    assert told(capsys, f"are not in the source any more (or are empty): {first}; put them back")
    assert not table.exists()
    assert shop.run("ingest", "--full") == 0
    assert set(shop.events()) == {"2"}
    assert str(first) not in set(shop.rows("source_files")["path"])  # put back, it is read
    second.write_bytes(b"")
    assert shop.run("ingest", "--full") == 2
    assert told(capsys, "2.csv: empty now, and was not when it was taken")


def test_a_column_that_nobody_names_may_come_and_go_and_one_that_is_named_must_stay(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shop = Shop(tmp_path)
    shop.day("1", ONE)
    assert shop.run("ingest") == 0
    shop.day("2", (*TWO, "web"), columns=[*COLUMNS, "channel"])
    assert shop.run("ingest") == 0
    assert told(capsys, "warning: 2.csv: column 'channel' is new; the configuration does not name it")
    assert set(shop.events()) == {"1", "2"}
    shop.day("3", ("3", "ann", "b", "click"), columns=["id", "who", "what", "did"])  # a column that is needed
    assert shop.run("ingest", "--evolve") == 2
    assert told(capsys, "3.csv: no column 'at'")


def test_json_lines_are_taken_from_one_file_or_several(tmp_path: Path) -> None:
    shop = Shop(tmp_path, path=str(tmp_path / "log" / "*.jsonl"))
    row = {"who": "ann", "what": "a", "at": "2024-03-01T08:00:00Z", "did": "click"}
    for night in (("1",), ("2", "3")):
        for name in night:
            (tmp_path / "log" / f"{name}.jsonl").write_text(json.dumps({"id": name, **row}), encoding="utf-8")
        assert shop.run("ingest") == 0
    assert set(shop.events()) == {"1", "2", "3"}
    assert sorted(shop.rows("events")["file_sequence"]) == [1, 2, 3]


@pytest.mark.faults
def test_a_column_of_another_type_is_refused_or_accepted_on_request(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shop = Shop(tmp_path, path=str(tmp_path / "log" / "*.jsonl"))

    def day(name: str, *events: dict[str, object]) -> None:
        file = tmp_path / "log" / f"{name}.jsonl"
        file.write_text("\n".join(map(json.dumps, events)), encoding="utf-8")

    row = {"who": "ann", "what": "a", "at": "2024-03-01T08:00:00Z", "did": "click"}
    day("1", {"id": 1, **row})
    assert shop.run("ingest") == 0
    day("2", {"id": "1", **row, "what": "b"}, {"id": "2", **row})
    assert shop.run("ingest") == 2
    assert told(capsys, "2.jsonl: its columns differ from those taken before: column 'id' was number and is text")
    assert shop.events() == {"1": ("ann", "a", "01 08:00")}
    assert shop.run("ingest", "--evolve") == 0
    assert {key: found[1] for key, found in shop.events().items()} == {"1": "b", "2": "a"}  # the same ids as before
    assert shop.run("ingest", "--full") == 0  # what was accepted once is no drift when it is read again
    assert {key: found[1] for key, found in shop.events().items()} == {"1": "b", "2": "a"}


@pytest.mark.faults
def test_an_empty_reading_never_wipes_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shop = Shop(tmp_path)
    shop.day("1", ONE)
    assert shop.run("ingest") == 0
    shop.day("1")
    assert shop.run("ingest", "--full") == 2
    assert told(capsys, "empty now, and was not when it was taken")
    shop.day("1", ("2", "ann", "nowhere", ONE[3], "click"))
    assert shop.run("ingest", "--full", "--set", "gates.largest_rejected_share=1") == 2
    assert told(capsys, "no acceptable row")
    assert set(shop.events()) == {"1"}


@pytest.mark.faults  # minutes
def test_rejected_rows_move_once_their_cause_is_gone(tmp_path: Path, spark: SparkSession) -> None:
    shop = Shop(tmp_path)
    late = ("5", "ann", "new", "2024-03-01T08:30:00.123456Z", "click")
    leaver = ("8", "bob|8", "newer", ONE[3], "click")
    shop.day("1", ONE, late, late, ("6", "ann", "newer", ONE[3], "click"), ("7", "", "new", ONE[3], "click"), leaver)
    assert shop.run("ingest") == 0
    assert shop.reasons() == {"unknown_item": 4, "missing_user_id": 1}
    assert shop.run("replay_rejected") == 0
    assert shop.reasons() == {"unknown_item": 4, "missing_user_id": 1}

    shop.catalog(("a", "Apple", ""), ("b", "Bread", ""), ("c", "Cheese", ""), ("new", "New", ""))
    assert shop.run("ingest") == 0
    before = shop.version("events"), shop.version("events_rejected")
    assert shop.run("replay_rejected") == 0
    assert shop.events()["5"] == ("ann", "new", "01 08:30")
    assert shop.rows("events")["event_ts"].dt.microsecond.max() == 123456
    assert shop.reasons() == {"unknown_item": 2, "missing_user_id": 1, "duplicate_event": 1}
    assert (shop.version("events"), shop.version("events_rejected")) == (before[0] + 1, before[1] + 1)
    run = shop.last_run()
    assert (run["rows_in"], run["rows_out"], run["rows_rejected"]) == (5, 1, 4)

    # Killed between the two commits: the quarantine is the old one, the table has the row already.
    path = str(shop.warehouse / "tables" / "events_rejected")
    spark.sql(f"RESTORE TABLE delta.`{path}` TO VERSION AS OF {before[1]}")
    assert shop.run("replay_rejected") == 0
    assert shop.reasons() == {"unknown_item": 2, "missing_user_id": 1, "duplicate_event": 1}
    assert sorted(shop.events()) == ["1", "5"] and shop.version("events") == before[0] + 1

    # Of two versions the one of the later file stays, wherever it has waited: 6 is stored, 1 is corrected.
    shop.day("2", ("6", "ann", "a", ONE[3], "click"), ("1", "ann", "newer", ONE[3], "click"))
    assert shop.run("ingest") == 0
    shop.catalog(("newer", "Newer", ""))
    assert shop.run("ingest") == 0
    ErasureList.of(shop.warehouse).add(["bob|8"])  # and nobody who was erased comes back this way
    assert shop.run("replay_rejected") == 0
    assert shop.events()["6"][1] == "a" and "8" not in shop.events()
    assert shop.events()["1"][1] == "newer" and shop.metrics()["events/corrected"] == 1
    assert shop.reasons() == {"missing_user_id": 1, "duplicate_event": 2, "erased": 1}

    # A night after a replay: nothing comes again, and nothing that has moved is refused a second time.
    before = shop.version("events"), shop.version("events_rejected")
    assert shop.run("ingest") == 0
    assert (shop.version("events"), shop.version("events_rejected")) == before


@pytest.mark.faults
def test_a_replay_goes_by_the_order_of_files_where_no_older_version_of_the_table_can_be_read(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    shop.day("1", ONE, TWO, ("6", "ann", "newer", ONE[3], "click"))
    shop.day("2", ("1", "ann", "newer", ONE[3], "click"), ("6", "ann", "a", ONE[3], "click"))
    assert shop.run("ingest") == 0
    assert sorted(shop.rows("events")["file_sequence"]) == [1, 1, 2] and shop.reasons() == {"unknown_item": 2}
    shop.catalog(("newer", "Newer", ""))
    assert shop.run("ingest") == 0

    DeltaTable(str(shop.warehouse / "tables" / "events")).create_checkpoint()
    log, newest = shop.warehouse / "tables" / "events" / "_delta_log", shop.version("events")
    for version in range(newest):
        (log / f"{version:020}.json").unlink()
    with pytest.raises(HistoryGoneError):
        Warehouse(str(shop.warehouse)).read_arrow(EVENTS, newest - 1)
    assert shop.run("replay_rejected") == 0
    assert {key: item for key, (_, item, _) in shop.events().items()} == {"1": "newer", "2": "b", "6": "a"}
    assert shop.rows("events").set_index("event_id")["file_sequence"].to_dict() == {"1": 2, "2": 1, "6": 2}
    assert shop.reasons() == {"duplicate_event": 1}


@pytest.mark.faults
def test_a_run_killed_before_it_wrote_down_what_it_took_takes_it_again_without_harm(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    shop.day("1", ONE, TWO)
    assert shop.run("ingest") == 0
    before = shop.version("events")
    shop.day("2", THREE, ONE, TWO_CORRECTED, ("7", "", "a", ONE[3], "click"))
    commit = shop.warehouse / "tables" / "events" / "_delta_log" / f"{before + 1:020}.json"
    with job_of_its_own("ingest", shop.warehouse, config=tmp_path / "shop.yaml") as process:
        wait_until(process, commit.is_file)
    assert shop.version("events") == before + 1
    assert len(shop.rows("source_files")) == 2  # the catalog and the first day: the second is not written down
    events = shop.events()
    assert shop.run("ingest") == 0
    assert shop.events() == events and shop.version("events") == before + 1
    assert shop.metrics()["events/already_stored"] == 3
    assert len(shop.rows("source_files")) == 3 and shop.reasons() == {"missing_user_id": 1}
