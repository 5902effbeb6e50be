"""Last-N sequences of all tasks from one pass over events that are clustered by user: Arrow in, Arrow out.

Spark sorts the rows of a partition by one 64-bit number, the hash of the user, which it does by radix and on disk where
memory is short. The rest is done here, vectorised over chunks of whole users: order in time, ties by event_id, the
cut to the last N of each task. A row crosses the process border once, however many tasks it belongs to. Memory is a
chunk and what one user may keep; of a user larger than that only the last N per task are held.

N rows of a chunk, K rows of one task, U users.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas import columns as c

USER_HASH = "user_hash"  # what the rows are clustered by; ascending
TASK_BITS = "task_bits"  # bit k: the row belongs to the k-th task

_CHUNK_ROWS = 1 << 18
_MICROS = pa.timestamp("us", tz="UTC")

_Batches = Iterable[pa.RecordBatch]


class SequencePass:
    """Rows clustered by `user_hash` to one row per user and task, oldest event first.

    Reads user_hash, user_id, event_ts (microseconds), event_id, item_index, scene and task_bits.

    Args:
        max_lengths: Task -> N, in the order of the bits.
    """

    def __init__(self, max_lengths: Mapping[str, int], chunk_rows: int = _CHUNK_ROWS) -> None:
        self._max_lengths = dict(max_lengths)
        self._chunk_rows = chunk_rows

    def sequences(self, batches: _Batches) -> Iterator[pa.RecordBatch]:
        """user_id, task, item_indices, scenes, event_ts, length and last_event_ts."""
        for rows in self._chunks(batches):
            yield from self._sequences(rows)

    def histories(self, batches: _Batches) -> Iterator[pa.RecordBatch]:
        """user_id, item_indices, event_ts (microseconds) and task_bits: the last N events of the one task there is."""
        (max_length,) = self._max_lengths.values()
        for rows in self._chunks(batches):
            if rows.num_rows:
                order_N, users_N = _in_order(rows)
                kept, offsets = _last(users_N, max_length)
                yield _history_rows(rows, order_N[kept], offsets)

    def _chunks(self, batches: _Batches) -> Iterator[pa.RecordBatch]:
        """Whole users, about as many rows at a time as a chunk has."""
        held: list[pa.RecordBatch] = []
        limit = self._chunk_rows
        for batch in batches:
            held.append(batch)
            if sum(part.num_rows for part in held) < limit:
                continue
            rows = _joined(held)
            start = _start_of_last_user(rows)
            yield rows.slice(0, start)
            rest = rows.slice(start)
            if rest.num_rows > self._chunk_rows // 2:
                rest = self._newest(rest)
            held, limit = [rest], self._chunk_rows + rest.num_rows
        if held:
            yield _joined(held)

    def newest(self, batches: _Batches) -> Iterator[pa.RecordBatch]:
        """The rows that can still be among the last N of a task; for few users with many rows, in any order."""
        held: list[pa.RecordBatch] = []
        limit = self._chunk_rows
        for batch in batches:
            held.append(batch)
            if sum(part.num_rows for part in held) >= limit:
                held = [self._newest(_joined(held))]
                limit = self._chunk_rows + held[0].num_rows
        if held:
            yield self._newest(_joined(held))

    def _newest(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        if not rows.num_rows:
            return rows
        order_N, users_N = _in_order(rows)
        bits_N = _numbers(rows, TASK_BITS)[order_N]
        is_kept_N = np.zeros(len(order_N), dtype=bool)
        for bit, max_length in enumerate(self._max_lengths.values()):
            of_task_K = np.flatnonzero(bits_N >> bit & 1)
            kept, _ = _last(users_N[of_task_K], max_length)
            is_kept_N[order_N[of_task_K[kept]]] = True
        return _taken(rows, np.flatnonzero(is_kept_N))

    def _sequences(self, rows: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        if not rows.num_rows:
            return
        order_N, users_N = _in_order(rows)
        bits_N = _numbers(rows, TASK_BITS)[order_N]
        for bit, (task, max_length) in enumerate(self._max_lengths.items()):
            of_task_K = np.flatnonzero(bits_N >> bit & 1)
            if len(of_task_K):
                kept, offsets = _last(users_N[of_task_K], max_length)
                yield _rows_of_task(task, rows, order_N[of_task_K[kept]], offsets)


def _rows_of_task(task: str, rows: pa.RecordBatch, places: np.ndarray, offsets: np.ndarray) -> pa.RecordBatch:
    users = len(offsets) - 1
    event_ts = _numbers(rows, c.EVENT_TS)[places]
    lists = pa.array(offsets, pa.int32())
    columns = {
        c.USER_ID: rows.column(c.USER_ID).take(pa.array(places[offsets[:-1]])),
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
    columns = {c.USER_ID: rows.column(c.USER_ID).take(pa.array(places[offsets[:-1]]))}
    for name, source in ((c.ITEM_INDICES, c.ITEM_INDEX), (c.EVENT_TS, c.EVENT_TS), (TASK_BITS, TASK_BITS)):
        columns[name] = pa.ListArray.from_arrays(lists, rows.column(source).take(taken))
    return pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))


def _in_order(rows: pa.RecordBatch) -> tuple[np.ndarray, np.ndarray]:
    """Places of the rows by (user, time, event_id), and the users, numbered, in that order; both [N]."""
    # Two users may share a hash: the id decides.
    users_N = rows.column(c.USER_ID).dictionary_encode().indices.to_numpy().astype(np.int64)
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


def _start_of_last_user(rows: pa.RecordBatch) -> int:
    hashes_N = _numbers(rows, USER_HASH)
    return int(np.searchsorted(hashes_N, hashes_N[-1], side="left"))


def _joined(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    (joined,) = pa.Table.from_batches(batches).combine_chunks().to_batches() or [batches[0]]
    return joined


def _taken(rows: pa.RecordBatch, places: np.ndarray) -> pa.RecordBatch:
    indices = pa.array(places)
    return pa.RecordBatch.from_arrays([column.take(indices) for column in rows.columns], schema=rows.schema)


def _numbers(rows: pa.RecordBatch, name: str) -> np.ndarray:
    return rows.column(name).to_numpy()
