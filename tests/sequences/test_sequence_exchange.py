"""Events through pieces and parts to sequences equal a brute-force build, whatever the sizes on the way."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from precise_core.config.tasks import TaskConfig
from precise_core.sequences.chunks import SequencePass
from precise_core.sequences.exchange import CUT, EVENTS, PART, EventSplit, WholeParts
from schemas import columns as c

MAX_LENGTHS = {"all": 4, "click": 2, "live": 3}
TASKS = {"all": None, "click": TaskConfig(action="click"), "live": TaskConfig(scene="live", action="share")}
USERS = ("heavy", "ab", "ba", "c", "é", "a name of more than thirty-two bytes, é")
VOCABULARY = pa.table({c.ITEM_ID: ["i1", "i2", "é3"], c.ITEM_INDEX: pa.array([2, 3, 4], pa.int32())})


class Row(NamedTuple):
    event_ts: int
    event_id: str
    user_id: str
    item_id: str
    scene: str
    action: str


@st.composite
def logs(draw: st.DrawFn) -> list[Row]:
    """Many ties in time, ids of different lengths and alphabets, most events by one user, instants far apart."""
    users = st.sampled_from(["heavy"] * 6 + list(USERS))
    times = st.sampled_from([0, 1, 2, 3, -1, 2**61, -(2**61)])
    items, scenes, actions = (st.sampled_from(of) for of in (["i1", "é3", "new"], ["live", "page"], ["click", "share"]))
    rows = draw(st.lists(st.tuples(times, users, items, scenes, actions), max_size=60))
    ids = draw(st.permutations([f"{'é' * (n % 3)}e{n}" for n in range(len(rows))]))
    return [Row(ts, event_id, *rest) for (ts, *rest), event_id in zip(rows, ids, strict=True)]


def batches_of(rows: list[Row], size: int, *, is_encoded: bool) -> list[pa.RecordBatch]:
    """Strings as Spark sends them, or as dictionaries, as Parquet has them."""
    columns = {name: pa.array([getattr(row, name) for row in rows], pa.string()) for name in Row._fields[1:]}
    if is_encoded:
        columns = {n: values if n == c.EVENT_ID else values.dictionary_encode() for n, values in columns.items()}
    times = pa.array([row.event_ts for row in rows], pa.timestamp("us", tz="UTC"))
    return pa.table({c.EVENT_TS: times, **columns}).to_batches(max_chunksize=size)


def belongs(row: Row, of: TaskConfig | None) -> bool:
    return of is None or (of.scene in (None, row.scene) and of.action in (None, row.action))


def brute_force(rows: list[Row], tasks: Sequence[str] = tuple(TASKS)) -> dict[tuple[str, str], Any]:
    lines = defaultdict(list)
    for row in sorted(rows):
        for task in tasks:
            if belongs(row, TASKS[task]):
                lines[row.user_id, task].append(row)
    return {key: facts(line[-MAX_LENGTHS[key[1]] :]) for key, line in lines.items()}


def facts(line: list[Row]) -> Any:
    index = dict(zip(*VOCABULARY.to_pydict().values(), strict=True))
    items, times = [index.get(row.item_id, 1) for row in line], [row.event_ts for row in line]
    return items, [row.scene for row in line], times, len(items), times[-1]


def shuffled(pieces: list[pa.RecordBatch], seed: int) -> list[pa.RecordBatch]:
    """As Spark brings them: clustered by part, in any order."""
    rows = [batch.slice(at, 1) for batch in pieces for at in range(batch.num_rows)]
    random.Random(seed).shuffle(rows)
    return sorted(rows, key=lambda row: row[PART][0].as_py())


def built(
    chunks: SequencePass, pieces: list[pa.RecordBatch], parts: int, most: int = 1 << 20
) -> dict[tuple[str, str], Any]:
    result = {}
    for part in WholeParts(parts, most).of(pieces):
        for rows in part.portions:
            for batch in chunks.sequences(rows):
                # Not every number of microseconds is a date of Python's.
                names = (c.ITEM_INDICES, c.SCENES, c.EVENT_TS, c.LENGTH, c.LAST_EVENT_TS)
                numbers = [batch[name].cast(_as_numbers(batch[name].type)).to_pylist() for name in names]
                for user, task, *row in zip(
                    batch[c.USER_ID].to_pylist(), batch[c.TASK].to_pylist(), *numbers, strict=True
                ):
                    assert (user, task) not in result
                    result[user, task] = tuple(row)
    return result


def _as_numbers(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_list(kind) and pa.types.is_timestamp(kind.value_type):
        return pa.list_(pa.int64())
    return pa.int64() if pa.types.is_timestamp(kind) else kind


@settings(deadline=None, max_examples=80)
@given(
    rows=logs(),
    batch_rows=st.integers(1, 70),
    chunk_rows=st.integers(1, 70),
    parts=st.integers(1, 5),
    most=st.integers(1, 99),
    is_encoded=st.booleans(),
    tasks=st.sampled_from([("all", "click", "live"), ("click", "live"), ("live",)]),
)
def test_equals_a_brute_force_build(
    rows: list[Row],
    batch_rows: int,
    chunk_rows: int,
    parts: int,
    most: int,
    is_encoded: bool,
    tasks: tuple[str, ...],
) -> None:
    chunks = SequencePass({task: MAX_LENGTHS[task] for task in tasks})
    split = EventSplit(VOCABULARY, {task: TASKS[task] for task in tasks}, chunks, parts, chunk_rows)
    pieces = list(split.pieces(batches_of(rows, batch_rows, is_encoded=is_encoded)))
    assert built(chunks, shuffled(pieces, seed=len(rows)), parts, most) == brute_force(rows, tasks)
    events = sum(sum(piece[EVENTS].to_pylist()) for piece in pieces)
    assert events == sum(belongs(row, TASKS[task]) for row in rows for task in tasks)


def test_of_a_heavy_user_only_what_can_matter_is_sent() -> None:
    rows = [Row(n, f"e{n:03}", "heavy", "i1", "live", "share") for n in range(500)]
    rows += [Row(n, f"f{n:03}", "c", "i1", "live", "click") for n in range(5)]
    chunks = SequencePass(MAX_LENGTHS)
    (piece,) = EventSplit(VOCABULARY, TASKS, chunks, parts=1).pieces(batches_of(rows, 70, is_encoded=False))
    assert (piece[EVENTS].to_pylist(), piece[CUT].to_pylist()) == ([1010], [1000 - 4 - 4])
    assert built(chunks, [piece], parts=1) == brute_force(rows)


def test_a_user_with_many_events_none_of_which_belongs_to_a_task_has_no_piece() -> None:
    split = EventSplit(VOCABULARY, {"click": TASKS["click"]}, SequencePass({"click": 2}), parts=4)
    viewed = [Row(n, f"e{n}", "heavy", "i1", "page", "share") for n in range(300)]
    rows = [*viewed, Row(7, "e300", "c", "i2", "page", "click")]
    (pieces,) = split.pieces(batches_of(rows, 1000, is_encoded=True))
    assert pieces.column(EVENTS).to_pylist() == [1] and pieces.column(CUT).to_pylist() == [0]
