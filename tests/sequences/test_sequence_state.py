"""What a night decides from what the table was made from, and how a commit keeps that; no Spark needed."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import CommitProperties, DeltaTable, write_deltalake

from precise_core.config.tasks import TaskConfig
from precise_core.sequences.config import SequencesConfig
from precise_core.sequences.plan import SequenceState, TableVersion, plan_sequences, task_states
from precise_core.warehouse.notes import commit_text, read_note

TASKS = {"share": TaskConfig(action="share"), "live": TaskConfig(scene="live")}
CONFIG = SequencesConfig(max_length=10, max_lengths={"live": 5})
LAST = SequenceState(
    as_of=datetime(2024, 3, 1, tzinfo=UTC),
    events=TableVersion(table_id="e", version=7),
    vocabulary=TableVersion(table_id="v", version=3),
    tasks=task_states(TASKS, CONFIG),
    buckets=4,
)


def now(**changes: Any) -> SequenceState:
    return LAST.model_copy(update=changes)


def test_a_state_survives_its_commit() -> None:
    assert SequenceState.model_validate(LAST.model_dump(mode="json")) == LAST


@pytest.mark.parametrize(
    ("state", "why"),
    [
        (now(as_of=LAST.as_of - timedelta(seconds=1)), "as_of .* is before the last one"),
        (now(buckets=5), "sequences.buckets was 4, now it is 5"),
        (now(events=TableVersion(table_id="x", version=9)), "table events is another one"),
        (now(vocabulary=TableVersion(table_id="v", version=2)), "table item_vocabulary is at version 2, .* at 3"),
        (now(format=99), "format"),
        (now(tasks=task_states(TASKS, SequencesConfig(max_length=20))), "no task is as it was"),
    ],
)
def test_what_needs_a_full_build(state: SequenceState, why: str) -> None:
    full = plan_sequences(LAST, state).full
    assert re.search(why, full)


def test_a_usual_night_keeps_every_task() -> None:
    later = now(as_of=LAST.as_of + timedelta(days=1), events=TableVersion(table_id="e", version=8))
    plan = plan_sequences(LAST, later)
    assert (plan.full, dict(plan.rebuilt), plan.kept) == ("", {}, ("all", "share", "live"))
    assert plan.trimmed == plan.dropped == ()


def test_only_what_changed_is_built_anew() -> None:
    tasks = {"share": TaskConfig(action="share", scene="live"), "news": TaskConfig(scene="news")}
    plan = plan_sequences(LAST, now(tasks=task_states(tasks, SequencesConfig(max_length=8))))
    assert not plan.full and dict(plan.rebuilt) == {"share": "its filter has changed", "news": "it is new"}
    assert (plan.kept, plan.trimmed, plan.dropped) == (("all",), ("all",), ("live",))
    grown = plan_sequences(LAST, now(tasks=task_states(TASKS, SequencesConfig(max_length=10))))
    assert dict(grown.rebuilt) == {"live": "its length was 5, now it is 10"} and grown.kept == ("all", "share")


@pytest.fixture
def table(tmp_path: Path) -> str:
    """Version 0 without a note, version 1 with one."""
    path = str(tmp_path / "table")
    append(path, 1, "a run")
    append(path, 2, commit_text("a run", {"n": 1}))
    return path


def append(path: str, value: int, about: str) -> None:
    properties = CommitProperties(custom_metadata={"userMetadata": about})
    write_deltalake(path, pa.table({"x": [value, value + 10]}), mode="append", commit_properties=properties)


def test_a_note_holds_for_the_same_rows_and_says_where_others_have_changed_them(table: str) -> None:
    delta = DeltaTable(table)
    assert read_note(table, 0) is None
    note = read_note(table, 1)
    assert note and (note.content, note.version, note.is_current) == ({"n": 1}, 1, True)
    delta.optimize.compact()
    compacted = read_note(table, delta.version())
    assert delta.version() == 2 and compacted and (compacted.version, compacted.is_current) == (1, True)
    delta.delete("x = 2")
    changed = read_note(table, delta.version())
    assert changed and (changed.content, changed.version, changed.is_current) == ({"n": 1}, 1, False)
    append(table, 5, commit_text("another run", {"n": 2}))
    newer = read_note(table, 4)
    assert newer and (newer.content, newer.is_current) == ({"n": 2}, True)
    DeltaTable(table).restore(2)
    back = read_note(table, DeltaTable(table).version())
    assert back and (back.content, back.version, back.is_current) == ({"n": 1}, 1, True)
