"""The pass over clustered events equals a brute-force build, whatever the sizes of batches and chunks."""

from __future__ import annotations

from collections import defaultdict
from typing import Any, NamedTuple

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from precise_core.sequences.chunks import TASK_BITS, USER_HASH, SequencePass
from schemas import columns as c

MAX_LENGTHS = {"all": 4, "click": 2, "share": 9}
# "ab" and "ba" share a hash, as two users of a billion may.
HASHES = {"ab": -5, "ba": -5, "c": 0, "heavy": 7, "é": 9}


class Row(NamedTuple):
    event_ts: int
    event_id: str
    user_id: str
    item_index: int
    task_bits: int


@st.composite
def logs(draw: st.DrawFn) -> list[Row]:
    """Many ties in time, ids of different lengths and alphabets, most events by one user, instants far apart."""
    users = st.sampled_from(["heavy", "heavy", "heavy", *HASHES])
    times = st.sampled_from([0, 1, 2, 3, -1, 2**61, -(2**61)])
    row = st.tuples(times, users, st.integers(1, 9), st.sampled_from([1, 3, 5, 7, 2, 4]))
    rows = draw(st.lists(row, max_size=60))
    ids = draw(st.permutations([f"{'é' * (n % 3)}e{n}" for n in range(len(rows))]))
    return [Row(ts, event_id, *rest) for (ts, *rest), event_id in zip(rows, ids, strict=True)]


def batches_of(rows: list[Row], size: int) -> list[pa.RecordBatch]:
    table = pa.table(
        {
            USER_HASH: pa.array([HASHES[row.user_id] for row in rows], pa.int64()),
            c.USER_ID: pa.array([row.user_id for row in rows], pa.string()),
            c.EVENT_TS: pa.array([row.event_ts for row in rows], pa.int64()),
            c.EVENT_ID: pa.array([row.event_id for row in rows], pa.string()),
            c.ITEM_INDEX: pa.array([row.item_index for row in rows], pa.int32()),
            c.SCENE: pa.array([f"scene {row.item_index}" for row in rows], pa.string()),
            TASK_BITS: pa.array([row.task_bits for row in rows], pa.int64()),
        }
    )
    return table.to_batches(max_chunksize=size)


def brute_force(rows: list[Row]) -> dict[tuple[str, str], Any]:
    lines = defaultdict(list)
    for row in sorted(rows):
        for bit, task in enumerate(MAX_LENGTHS):
            if row.task_bits >> bit & 1:
                lines[row.user_id, task].append(row)
    return {key: facts(line[-MAX_LENGTHS[key[1]] :]) for key, line in lines.items()}


def facts(line: list[Row]) -> Any:
    items, times = [row.item_index for row in line], [row.event_ts for row in line]
    return items, [f"scene {item}" for item in items], times, len(items), times[-1]


def built(batches: list[pa.RecordBatch], chunk_rows: int) -> dict[tuple[str, str], Any]:
    result = {}
    for batch in SequencePass(MAX_LENGTHS, chunk_rows).sequences(batches):
        names = (c.ITEM_INDICES, c.SCENES, c.EVENT_TS, c.LENGTH, c.LAST_EVENT_TS)
        # Not every number of microseconds is a date of Python's.
        numbers = [column.cast(_as_numbers(column.type)) for column in batch.columns]
        batch = pa.RecordBatch.from_arrays(numbers, names=batch.schema.names)
        for row in batch.to_pylist():
            assert (row[c.USER_ID], row[c.TASK]) not in result
            result[row[c.USER_ID], row[c.TASK]] = tuple(row[name] for name in names)
    return result


def _as_numbers(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_list(kind) and pa.types.is_timestamp(kind.value_type):
        return pa.list_(pa.int64())
    return pa.int64() if pa.types.is_timestamp(kind) else kind


@settings(deadline=None, max_examples=60)
@given(rows=logs(), batch_rows=st.integers(1, 70), chunk_rows=st.integers(1, 70))
def test_equals_a_brute_force_build(rows: list[Row], batch_rows: int, chunk_rows: int) -> None:
    clustered = sorted(rows, key=lambda row: HASHES[row.user_id])
    assert built(batches_of(clustered, batch_rows), chunk_rows) == brute_force(rows)


@settings(deadline=None, max_examples=60)
@given(rows=logs(), batch_rows=st.integers(1, 70), chunk_rows=st.integers(1, 70))
def test_rows_dropped_beforehand_change_nothing(rows: list[Row], batch_rows: int, chunk_rows: int) -> None:
    kept = list(SequencePass(MAX_LENGTHS, chunk_rows).newest(batches_of(rows, batch_rows)))
    left = [Row(**{name: row[name] for name in Row._fields}) for batch in kept for row in batch.to_pylist()]
    assert len(left) <= len(HASHES) * sum(MAX_LENGTHS.values())
    clustered = sorted(left, key=lambda row: HASHES[row.user_id])
    assert built(batches_of(clustered, batch_rows), chunk_rows) == brute_force(rows)
