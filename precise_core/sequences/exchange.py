"""Events on their way to the task that has all of their users: a few large rows instead of one each.

Spark's own shuffle moves them, with its scheduling and retries, but sees only the number of a part and bytes. What a
row costs in the JVM (a copy, a hash, a sort, a conversion to Arrow) is paid per piece, not per event.

    events -> EventSplit: pieces -> shuffle by part -> WholeParts: all events of some users -> SequencePass

A piece is an Arrow stream of the rows of one part that came together.
N rows, U users.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

import numpy as np
import pandas as pd
import pyarrow as pa

from precise_core.config.tasks import TaskConfig
from precise_core.sequences.chunks import TASK_BITS, SequencePass
from precise_core.warehouse.spark_hash import xxhash64
from schemas import columns as c

PART, PIECE, EVENTS, CUT = "part", "piece", "events", "cut"
PIECE_COLUMNS = f"{PART} int, {PIECE} binary, {EVENTS} bigint, {CUT} bigint"

_CHUNK_ROWS = 1 << 19  # split at once
_PART_EVENTS = 1 << 21  # pairs of event and task that are made into sequences at once
_FEW_TASKS = 8
_MICROS = pa.timestamp("us", tz="UTC")
_PIECES = pa.schema({PART: pa.int32(), PIECE: pa.binary(), EVENTS: pa.int64(), CUT: pa.int64()})
_LZ4 = pa.ipc.IpcWriteOptions(compression="lz4")

_Batches = Iterable[pa.RecordBatch]


class EventSplit:
    """Rows of events to pieces, by the hash of the user.

    Args:
        vocabulary: item_id and item_index; an item it lacks gets the unknown row. None where rows have item_index.
        tasks: Name -> filter, None for every event, in the order of the bits; at most 63.
        chunks: Says which events of a user with many can still matter; the others go no further.
        parts: How many, at most 65,536. A user's part is their xxhash64 modulo this number.
    """

    def __init__(
        self,
        vocabulary: pa.Table | None,
        tasks: Mapping[str, TaskConfig | None],
        chunks: SequencePass,
        parts: int,
        chunk_rows: int = _CHUNK_ROWS,
    ) -> None:
        self._vocabulary = None if vocabulary is None else vocabulary.select([c.ITEM_ID, c.ITEM_INDEX]).combine_chunks()
        self._tasks, self._chunks, self._parts, self._chunk_rows = dict(tasks), chunks, parts, chunk_rows

    def pieces(self, batches: _Batches) -> Iterator[pa.RecordBatch]:
        """`part`, `piece`, and in pairs of an event and a task it belongs to: all `events`, and those `cut`.

        Args:
            batches: event_id, user_id, item_id or item_index, scene, action and event_ts.
        """
        for rows in _chunks(batches, self._chunk_rows):
            yield self._split(rows)

    def _split(self, rows: pa.Table) -> pa.RecordBatch:
        users, scenes = _encoded(rows[c.USER_ID]), _encoded(rows[c.SCENE])
        bits_N, pairs_N = self._bits(scenes, _encoded(rows[c.ACTION]))
        parts_U = (xxhash64(users.dictionary) % self._parts).astype(np.uint16)  # which NumPy sorts by radix
        codes_N = users.indices.to_numpy()
        events = self._sums(parts_U[codes_N], pairs_N)
        columns = {
            c.USER_ID: users,
            c.EVENT_TS: rows[c.EVENT_TS].combine_chunks().cast(_MICROS).view(pa.int64()),
            c.EVENT_ID: rows[c.EVENT_ID].combine_chunks().cast(pa.string()),
            c.ITEM_INDEX: self._item_indices(rows),
            c.SCENE: scenes,
            TASK_BITS: pa.array(bits_N),
        }
        batch = pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))
        kept = self._that_matter(batch, np.flatnonzero(bits_N))
        parts_K = parts_U[codes_N[kept]]
        cut = events - self._sums(parts_K, pairs_N[kept])
        found = [
            (part, _stream(piece), events[part], cut[part])
            for part, piece in _by_part(batch, kept, parts_K, users.dictionary, parts_U)
        ]
        columns_of_pieces = list(zip(*found, strict=True)) or [()] * len(_PIECES)
        arrays = [pa.array(values, kind) for values, kind in zip(columns_of_pieces, _PIECES.types, strict=True)]
        return pa.RecordBatch.from_arrays(arrays, schema=_PIECES)

    def _bits(self, scenes: pa.DictionaryArray, actions: pa.DictionaryArray) -> tuple[np.ndarray, np.ndarray]:
        """Bits of the tasks of each row, and how many these are; both [N]."""
        scene_names, action_names = scenes.dictionary.to_pylist(), actions.dictionary.to_pylist()
        bits = np.zeros((len(scene_names), len(action_names)), np.int64)
        counts = np.zeros(bits.shape, np.int64)
        for bit, task in enumerate(self._tasks.values()):
            of_scene = [task is None or task.scene in (None, name) for name in scene_names]
            of_action = [task is None or task.action in (None, name) for name in action_names]
            belongs = np.outer(of_scene, of_action)
            bits |= belongs.astype(np.int64) << bit
            counts += belongs
        if len(self._tasks) <= _FEW_TASKS:
            bits = bits.astype(np.uint8)
        kinds_N = scenes.indices.to_numpy().astype(np.int64) * len(action_names) + actions.indices.to_numpy()
        return bits.reshape(-1)[kinds_N], counts.reshape(-1)[kinds_N]

    def _item_indices(self, rows: pa.Table) -> pa.Array:
        if self._vocabulary is None:
            return rows[c.ITEM_INDEX].combine_chunks()
        items = _encoded(rows[c.ITEM_ID])
        item_ids, indices_V = self._lookup
        indices_I = indices_V[item_ids.get_indexer(items.dictionary.to_pandas())]
        return pa.array(indices_I[items.indices.to_numpy()])

    @cached_property
    def _lookup(self) -> tuple[pd.Index, np.ndarray]:
        """Item ids, and their indices, the unknown one last; made once a task."""
        assert self._vocabulary is not None
        item_ids, item_indices = (self._vocabulary[name].combine_chunks() for name in (c.ITEM_ID, c.ITEM_INDEX))
        return pd.Index(item_ids.to_pandas()), np.append(item_indices.to_numpy(), c.UNKNOWN_INDEX).astype(np.int32)

    def _that_matter(self, rows: pa.RecordBatch, wanted: np.ndarray) -> np.ndarray:
        """Places of the rows of ``wanted`` without those of users with many events that are beyond every N."""
        codes_N = rows.column(c.USER_ID).indices.to_numpy()
        is_heavy_U = np.bincount(codes_N[wanted], minlength=1) > 2 * self._chunks.most
        if not is_heavy_U.any():
            return wanted
        is_heavy = is_heavy_U[codes_N[wanted]]
        heavy = wanted[is_heavy]
        is_kept = ~is_heavy
        is_kept[is_heavy] = self._chunks.newest(_taken(rows, heavy))
        return wanted[is_kept]

    def _sums(self, parts: np.ndarray, counts: np.ndarray) -> np.ndarray:
        return np.bincount(parts, weights=counts, minlength=self._parts).astype(np.int64)


@dataclass(frozen=True)
class WholePart:
    """Events of all users of a part: the rows that ``SequencePass`` reads, in portions of whole users, and in pairs of
    an event and a task it belongs to: all ``events``, and those that were ``cut`` on the way."""

    part: int
    portions: Iterable[pa.RecordBatch]
    events: int
    cut: int


class WholeParts:
    """Pieces, clustered by their part, to the parts.

    Args:
        parts: How many ``EventSplit`` makes.
        most: Pairs of event and task at once. Of a part with more, its pieces are read several times.
    """

    def __init__(self, parts: int, most: int = _PART_EVENTS) -> None:
        self._parts, self._most = parts, most

    def of(self, batches: _Batches) -> Iterator[WholePart]:
        for part, found in groupby(_piece_rows(batches), key=lambda row: row[0]):
            _, pieces, events, cut = zip(*found, strict=True)
            count = max(1, -(-(sum(events) - sum(cut)) // self._most))
            portions = (_joined(self._some(piece, at, count) for piece in pieces) for at in range(count))
            yield WholePart(part, portions, sum(events), sum(cut))

    def _some(self, piece: pa.Buffer, at: int, count: int) -> pa.Table:
        """The rows of one in ``count`` groups of users."""
        rows = pa.ipc.open_stream(piece).read_all()
        if count == 1:
            return rows
        users = rows[c.USER_ID].combine_chunks()
        is_chosen_U = xxhash64(users.dictionary) // self._parts % count == at
        return rows.filter(pa.array(is_chosen_U[users.indices.to_numpy()]))


def clustered(pieces: _Batches) -> _Batches:
    """The pieces of one task by part: what the shuffle does with those of many."""
    return pa.Table.from_batches(list(pieces), _PIECES).sort_by(PART).to_batches()


def pairs_of(rows: pa.RecordBatch) -> int:
    """Pairs of an event and a task it belongs to."""
    bits, counts = np.unique(rows.column(TASK_BITS).to_numpy(), return_counts=True)
    return sum(int(number).bit_count() * int(count) for number, count in zip(bits, counts, strict=True))


def _piece_rows(batches: _Batches) -> Iterator[tuple[int, pa.Buffer, int, int]]:
    for batch in batches:
        numbers = zip(*(batch.column(name).to_pylist() for name in (PART, EVENTS, CUT)), strict=True)
        for (part, events, cut), piece in zip(numbers, batch.column(PIECE), strict=True):
            yield part, piece.as_buffer(), events, cut


def _chunks(batches: _Batches, least: int) -> Iterator[pa.Table]:
    """At least so many rows at a time, but for the last."""
    held: list[pa.RecordBatch] = []
    count = 0
    for batch in batches:
        held.append(batch)
        count += batch.num_rows
        if count >= least:
            yield pa.Table.from_batches(held)
            held, count = [], 0
    if count:
        yield pa.Table.from_batches(held)


def _encoded(column: pa.ChunkedArray) -> pa.DictionaryArray:
    """One array, with 32-bit places in one dictionary of strings."""
    if not pa.types.is_dictionary(column.type):
        column = column.cast(pa.string()).dictionary_encode()
    return column.unify_dictionaries().combine_chunks()


def _by_part(
    rows: pa.RecordBatch, kept: np.ndarray, parts_K: np.ndarray, users: pa.StringArray, parts_U: np.ndarray
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """The rows of each part that has any; their users numbered anew, in a dictionary of this part alone."""
    count = int(parts_U.max(initial=-1)) + 1
    users_by_part = np.argsort(parts_U, kind="stable")
    user_bounds = np.searchsorted(parts_U[users_by_part], np.arange(count + 1))
    numbers_U = np.empty(len(parts_U), np.int32)
    numbers_U[users_by_part] = np.arange(len(parts_U)) - user_bounds[parts_U[users_by_part]]
    by_part = np.argsort(parts_K, kind="stable")
    bounds = np.searchsorted(parts_K, np.arange(count + 1), sorter=by_part)
    ordered = _taken(rows, kept[by_part])
    codes = numbers_U[ordered.column(c.USER_ID).indices.to_numpy()]
    at = ordered.schema.get_field_index(c.USER_ID)
    for part in np.unique(parts_K).tolist():
        begin, end = bounds[part], bounds[part + 1]
        names = users.take(pa.array(users_by_part[user_bounds[part] : user_bounds[part + 1]]))
        columns = ordered.slice(begin, end - begin).columns
        columns[at] = pa.DictionaryArray.from_arrays(pa.array(codes[begin:end]), names)
        yield part, pa.RecordBatch.from_arrays(columns, names=ordered.schema.names)


def _stream(piece: pa.RecordBatch) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, piece.schema, options=_LZ4) as stream:
        stream.write_batch(piece)
    return bytes(sink.getvalue())


def _joined(tables: Iterable[pa.Table]) -> pa.RecordBatch:
    joined = pa.concat_tables(tables).unify_dictionaries().combine_chunks()
    return (joined.to_batches() or [pa.RecordBatch.from_pylist([], schema=joined.schema)])[0]


def _taken(rows: pa.RecordBatch, places: np.ndarray) -> pa.RecordBatch:
    indices = pa.array(places)
    return pa.RecordBatch.from_arrays([column.take(indices) for column in rows.columns], schema=rows.schema)
