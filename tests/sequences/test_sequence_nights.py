"""Nights over a changing log: whatever happened to `events`, the table is what one full build gives, and no more of it
is rewritten than has changed."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from deltalake import DeltaTable
from pyspark.sql import SparkSession

from precise_core.config.tasks import TaskConfig
from precise_core.errors import DataError
from precise_core.sequences.config import SequencesConfig
from precise_core.sequences.increment import is_small
from precise_core.sequences.night import prepare_sequences
from precise_core.warehouse.changes import Changes, net_changes
from schemas import USER_SEQUENCES
from tests.sequence_world import DAY, TalkingJob, World, event, moved

BASE = [event(n, f"u{n % 7}", -100 + n, item=f"i{n % 6}", action=("click", "share")[n % 3 == 0]) for n in range(70)]


@pytest.fixture(scope="module")
def first_night(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> World:
    """Seven users with ten events each, built once."""
    world = World(spark, tmp_path_factory.mktemp("first-night") / "warehouse")
    world.put(*BASE)
    assert world.night().was_full
    return world


@pytest.fixture
def world(first_night: World, tmp_path: Path) -> World:
    return first_night.copy_to(tmp_path / "warehouse")


def test_a_usual_night_rewrites_the_buckets_it_touches_and_says_so_when_run_again(world: World) -> None:
    world.put(event(100, "u1", 3), event(101, "u1", 5, scene="live"), event(102, "u2", 30))
    world.as_of += DAY
    night = world.night(check=3)
    assert not night.was_full and "checked: buckets" in night.said
    assert {part.split("/")[1] for part in night.rewritten} == {f"bucket={world.bucket_of('u1')}"}
    assert {part.split("/")[0] for part in night.rewritten} == {"task=all", "task=click_videos", "task=live"}
    assert "events of the sequences touched" in night.said
    again = world.night()
    assert again.version == night.version and again.files == night.files
    assert "the table was made from what is there now" in again.said
    world.as_of += DAY  # u2's event was in the table already, a day ahead of its time
    assert world.night().version == night.version + 1


@pytest.mark.faults  # minutes
def test_late_corrected_deleted_and_erased(world: World) -> None:
    world.put(event(100, "u1", -45.5), event(101, "u2", -99.5), event(102, "new", -300))
    assert not world.night().was_full  # late: into the middle, too old for a full sequence, of a new user
    world.put(moved(BASE[60], item_id="i2"), moved(BASE[61], user_id="u0"))
    world.put(event(103, BASE[69].user_id, -31, item="i4"))  # at the very instant of e0069
    assert BASE[69].ts == world.events["e0103"].ts
    assert not world.night().was_full
    world.put(moved(BASE[65], ts=BASE[65].ts - timedelta(days=30)), moved(BASE[66], action="share", scene="live"))
    world.delete("e0068", "e0067", "e0103")
    world.erase("u3")
    night = world.night(check=1)
    assert not night.was_full and ("u3", "all") not in world.stored()


@pytest.mark.faults  # minutes
def test_an_item_that_gets_its_index_late(world: World) -> None:
    world.put(event(100, "u1", -1, item="new"), event(101, "u2", -1, item="i1"))
    world.night()
    assert world.stored()["u1", "all"][0][-1] == 1
    world.add_items(["never seen", "new"])
    night = world.night()
    assert not night.was_full and world.stored()["u1", "all"][0][-1] == world.vocabulary["new"]
    assert {part.split("/")[1] for part in night.rewritten} == {f"bucket={world.bucket_of('u1')}"}
    world.vocabulary["i1"] = 77
    world.add_items([])
    assert not world.night().was_full


def test_a_task_that_changed_is_built_alone(world: World) -> None:
    world.tasks["live"] = TaskConfig(scene="videos", action="share")
    world.tasks["sharing"] = world.tasks.pop("share")
    world.sequences = SequencesConfig(max_length=4, max_lengths={"click_videos": 3}, buckets=3)
    night = world.night()
    assert not night.was_full
    assert "task live is built anew: its filter has changed" in night.said
    assert "task sharing is built anew: it is new" in night.said
    assert {part.split("/")[0] for part in night.rewritten} == {"task=live", "task=sharing", "task=click_videos"}
    assert not any("task=share/" in file for file in night.files)  # a task that is gone leaves the table
    world.put(event(100, "u1", 3))
    world.as_of += DAY
    world.sequences = SequencesConfig(max_length=6, max_lengths={"click_videos": 2, "all": 3}, buckets=3)
    assert "task live is built anew: its length was 4, now it is 6" in world.night().said
    world.sequences = SequencesConfig(max_length=6, buckets=2)
    assert "full build: sequences.buckets was 3, now it is 2" in world.night().said


def test_a_clock_that_steps_back_skips_nothing(world: World) -> None:
    world.as_of += DAY
    world.put(event(100, "u1", 3), event(101, "u2", -3))
    world.night()
    world.as_of -= 2 * DAY
    night = world.night()
    assert "is before the last one" in night.said
    world.as_of += 2 * DAY
    assert not world.night().was_full


@pytest.mark.faults
def test_history_that_is_gone_means_a_full_build(world: World) -> None:
    old = set(DeltaTable(world.events_path).file_uris())
    world.put(event(100, "u1", -1), moved(BASE[3], item_id="i5"))
    for file in (Path(world.events_path) / "_change_data").rglob("*.parquet"):
        file.unlink()
    for file in old - set(DeltaTable(world.events_path).file_uris()):
        Path(file).unlink()
    assert "full build: table events: version 1 cannot be read any more" in world.night().said


def test_without_a_change_feed_the_files_are_compared(world: World) -> None:
    DeltaTable(world.events_path).alter.set_table_properties({"delta.enableChangeDataFeed": "false"})
    world.put(event(100, "u1", -1), moved(BASE[3], item_id="i5"), moved(BASE[69], item_id="i5"))
    world.delete("e0068")
    DeltaTable(world.events_path).optimize.compact()
    assert not world.night().was_full


@pytest.mark.faults
def test_rows_that_others_changed_are_put_right(world: World) -> None:
    version = world.warehouse.version(USER_SEQUENCES)
    DeltaTable(world.sequences_path).delete("user_id = 'u1' OR (user_id = 'u2' AND task = 'all')")
    DeltaTable(world.sequences_path).optimize.compact()
    night = world.night()
    assert not night.was_full and "changed by others" in night.said
    world.spark.sql(f"RESTORE delta.`{world.sequences_path}` TO VERSION AS OF {version}")
    world.put(event(100, "u1", -1))
    restored = world.night()
    assert not restored.was_full and "changed by others" not in restored.said


def test_no_events_never_wipe_the_table(world: World, spark: SparkSession, tmp_path: Path) -> None:
    before = world.warehouse.version(USER_SEQUENCES)
    world.as_of -= 1000 * DAY
    job = TalkingJob(world.settings())
    assert prepare_sequences(job, full=False) is None and prepare_sequences(job, full=True) is None
    assert "user_sequences is left as it is" in job.said[-1]
    assert world.warehouse.version(USER_SEQUENCES) == before
    empty = World(spark, tmp_path / "empty")
    assert empty.night().was_full and empty.stored() == {}  # the first night of a new platform
    empty.put(*BASE[:3])
    empty.night()


def test_a_wrong_table_does_not_pass_the_check(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.put(event(100, "u1", -1))
    module = "precise_core.sequences.night.net_changes"
    monkeypatch.setattr(module, lambda *args, **named: Changes(net_changes(*args, **named).frame.limit(0), False))
    with pytest.raises(DataError, match="2 rows of a full build are missing and 2 should not be there"):
        world.night(check=3)


def test_what_is_sent_to_every_executor_is_measured_by_events(spark: SparkSession) -> None:
    rows = spark.createDataFrame([("u1", 1_000_000), ("u2", 1_000_001)], "user_id string, length int")
    assert not is_small(rows)
    assert is_small(rows.where("user_id = 'u1'")) and is_small(rows.select("user_id")) and is_small(rows.limit(0))


def test_a_damaged_file_of_events_stops_a_full_build(world: World) -> None:
    version = world.warehouse.version(USER_SEQUENCES)
    (file,) = Path(world.events_path).glob("*.parquet")
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(DataError, match=rf"{file.name}: cannot be read, damaged, cut off or gone"):
        world.night(full=True)
    assert world.warehouse.version(USER_SEQUENCES) == version
