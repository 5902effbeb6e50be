"""Last-N sequences of all tasks from one pass over the events of whole users: Arrow in, Arrow out.

Vectorised: order in time, ties by event_id, the cut to the last N of each task. No row becomes a Python object.

N rows of events, K rows of one task, U users.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas import columns as c

TASK_BITS = "task_bits"  # bit k: the row belongs to the k-th task

_MICROS = pa.timestamp("us", tz="UTC")


class SequencePass:
    """Events of whole users, in any order, to one row per user and task, oldest event first.

    Reads user_id and scene (dictionaries, a value once), event_ts (microseconds), event_id, item_index and task_bits.

    Args:
        max_lengths: Task -> N, in the order of the bits.
    """

    def __init__(self, max_lengths: Mapping[str, int]) -> None:
        self._max_lengths = dict(max_lengths)

    @property
    def most(self) -> int:
        """The most rows of one user that can belong to a last N."""
        return sum(self._max_lengths.values())

    def sequences(self, rows: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        """user_id, task, item_indices, scenes, event_ts, length and last_event_ts; a batch per task."""
        if not rows.num_rows:
            return
        order_N, users_N = _in_order(rows)
        bits_N = _numbers(rows, TASK_BITS)[order_N]
        for bit, (task, max_length) in enumerate(self._max_lengths.items()):
            of_task_K = np.flatnonzero(bits_N >> bit & 1)
            if len(of_task_K):
                kept, offsets = _last(users_N[of_task_K], max_length)
                yield _rows_of_task(task, rows, order_N[of_task_K[kept]], offsets)

    def histories(self, rows: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        """user_id, item_indices, event_ts (microseconds) and task_bits: the last N events of the one task there is."""
        (max_length,) = self._max_lengths.values()
        if rows.num_rows:
            order_N, users_N = _in_order(rows)
            kept, offsets = _last(users_N, max_length)
            yield _history_rows(rows, order_N[kept], offsets)

    def newest(self, rows: pa.RecordBatch) -> np.ndarray:
        """Which rows can still be among the last N of a task, whatever others come: a mask [N]."""
        order_N, users_N = _in_order(rows)
        bits_N = _numbers(rows, TASK_BITS)[order_N]
        is_kept_N = np.zeros(len(order_N), dtype=bool)
        for bit, max_length in enumerate(self._max_lengths.values()):
            of_task_K = np.flatnonzero(bits_N >> bit & 1)
            if len(of_task_K):
                kept, _ = _last(users_N[of_task_K], max_length)
                is_kept_N[order_N[of_task_K[kept]]] = True
        return is_kept_N


def _rows_of_task(task: str, rows: pa.RecordBatch, places: np.ndarray, offsets: np.ndarray) -> pa.RecordBatch:
    users = len(offsets) - 1
    event_ts = _numbers(rows, c.EVENT_TS)[places]
    lists = pa.array(offsets, pa.int32())
    columns = {
        c.USER_ID: _users(rows, places, offsets),
        c.TASK: pa.DictionaryArray.from_arrays(np.zeros(users, np.int32), [task]).dictionary_decode(),
        c.ITEM_INDICES: pa.ListArray.from_arrays(lists, pa.array(_numbers(rows, c.ITEM_INDEX)[places])),
        c.SCENES: pa.ListArray.from_arrays(lists, rows.column(c.SCENE).take(pa.array(places))),
        c.EVENT_TS: pa.ListArray.from_arrays(lists, pa.array(event_ts).view(_MICROS)),
        c.LENGTH: pa.array(np.diff(offsets), pa.int32()),
        c.LAST_EVENT_TS: pa.array(event_ts[offsets[1:] - 1]).view(_MICROS),
    }
    return pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))


def _history_rows(rows: pa.RecordBatch, places: np.ndarray, offsets: np.ndarray) -> pa.RecordBatch:
    lists, taken = pa.array(offsets, pa.int32()), pa.array(places)
    columns = {c.USER_ID: _users(rows, places, offsets)}
    for name, source in ((c.ITEM_INDICES, c.ITEM_INDEX), (c.EVENT_TS, c.EVENT_TS)):
        columns[name] = pa.ListArray.from_arrays(lists, rows.column(source).take(taken))
    bits = rows.column(TASK_BITS).take(taken).cast(pa.int64())
    columns[TASK_BITS] = pa.ListArray.from_arrays(lists, bits)
    return pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))


def _users(rows: pa.RecordBatch, places: np.ndarray, offsets: np.ndarray) -> pa.StringArray:
    return rows.column(c.USER_ID).take(pa.array(places[offsets[:-1]])).dictionary_decode()


def _in_order(rows: pa.RecordBatch) -> tuple[np.ndarray, np.ndarray]:
    """Places of the rows by (user, time, event_id), and the users, numbered, in that order; both [N]."""
    users_N = rows.column(c.USER_ID).indices.to_numpy().astype(np.int64)
    event_ts_N = _numbers(rows, c.EVENT_TS)
    order_N = _by_user_and_time(users_N, event_ts_N)
    users_N, event_ts_N = users_N[order_N], event_ts_N[order_N]
    is_tied_N = (users_N[1:] == users_N[:-1]) & (event_ts_N[1:] == event_ts_N[:-1])
    if is_tied_N.any():
        _break_ties(order_N, is_tied_N, rows.column(c.EVENT_ID))
    return order_N, users_N


def _by_user_and_time(users_N: np.ndarray, event_ts_N: np.ndarray) -> np.ndarray:
    first = event_ts_N.min()
    span = int(event_ts_N.max()) - int(first) + 1
    if (int(users_N.max()) + 1) * span < 1 << 63:
        return np.argsort(users_N * span + (event_ts_N - first), kind="stable")  # one key: a seventh of the time
    return np.lexsort((event_ts_N, users_N))


def _break_ties(order_N: np.ndarray, is_tied_N: np.ndarray, event_ids: pa.StringArray) -> None:
    """Reorder the runs of rows tied with their predecessor by event_id, in place; ids are compared in the runs only."""
    instants_N = np.concatenate([[0], np.cumsum(~is_tied_N)])
    in_run_N = np.concatenate([[False], is_tied_N]) | np.concatenate([is_tied_N, [False]])
    places_K = np.flatnonzero(in_run_N)
    rows_K = order_N[places_K]
    rank_K = np.empty(len(rows_K), dtype=np.int64)
    rank_K[pc.sort_indices(event_ids.take(pa.array(rows_K))).to_numpy()] = np.arange(len(rows_K))
    order_N[places_K] = rows_K[np.lexsort((rank_K, instants_N[places_K]))]


def _last(users_K: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Places of the last ``count`` rows of each run of equal users, and where each user's begin among them [U + 1]."""
    borders = np.flatnonzero(np.diff(users_K)) + 1
    ends_U = np.append(borders, len(users_K))
    sizes_U = np.minimum(np.diff(ends_U, prepend=0), count)
    offsets = np.concatenate([[0], np.cumsum(sizes_U)])
    return np.arange(offsets[-1]) + np.repeat(ends_U - offsets[1:], sizes_U), offsets


def _numbers(rows: pa.RecordBatch, name: str) -> np.ndarray:
    return rows.column(name).to_numpy()
