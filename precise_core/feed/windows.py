"""Training windows as batches of tensors, read from a pinned Delta snapshot by Petastorm or by pyarrow alone.

B batch, L positions, M targets of a validation window.

A reader only delivers rows in file order. The rest is decided here, and so the same with either: which rows (the
snapshot's files), how many (counted every epoch), in which order (a seeded shuffle) and that every rank takes the same
number of steps.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Literal

import numpy as np
import torch

from precise_core.errors import DataError, NothingToLearnError, RowCountError
from precise_core.feed.config import DEFAULT_FEED, FeedConfig, Reader
from precise_core.feed.local_copies import LocalCopies
from precise_core.feed.prefetch import prefetched
from precise_core.feed.readers import RowReader, Rows, newest_since, pools, read_arrow_rows, row_count, without_first
from precise_core.warehouse.reader import DeltaSnapshot, values_per_row
from schemas import columns as c

Split = Literal["train", "validation", "test"]

# The window_id strings, the partition columns and, while training, the truth stay on disk.
_TRAIN_COLUMNS = [c.ITEM_INDICES, c.EVENT_TS, c.LENGTH]
_COLUMNS: dict[Split, list[str]] = {
    c.TRAIN: _TRAIN_COLUMNS,
    c.VALIDATION: [*_TRAIN_COLUMNS, c.TARGET_INDICES, c.TARGET_COUNT],
    c.TEST: [*_TRAIN_COLUMNS, c.TARGET_INDICES, c.TARGET_COUNT],
}
_POOL_BYTES = 100 * 2**20  # of rows that are shuffled together, as int64


@dataclass(frozen=True)
class SequenceBatch:
    """Windows of one step, left-padded to the longest of them.

    Attributes:
        item_indices_BL: int64, oldest first, 0 = padding.
        event_ts_BL: int64, seconds since the epoch, never decreasing, 0 at padding.
        lengths_B: int64, real positions.
        target_indices_BM: int64, the truth of a validation window, right-padded with 0; M = 0 while training.
        target_counts_B: int64, real entries of it.
    """

    item_indices_BL: torch.Tensor
    event_ts_BL: torch.Tensor
    lengths_B: torch.Tensor
    target_indices_BM: torch.Tensor
    target_counts_B: torch.Tensor

    @property
    def valid_mask_BL(self) -> torch.Tensor:
        """True = real position."""
        L = self.item_indices_BL.shape[1]
        return torch.arange(L, device=self.lengths_B.device) >= (L - self.lengths_B)[:, None]

    def __len__(self) -> int:
        return self.item_indices_BL.shape[0]

    @property
    def num_windows(self) -> int:
        """Rows that are a window: a rank that has no share of a small last batch gets a row without any event."""
        return int((self.lengths_B > 0).sum())

    def row(self, row: int) -> SequenceBatch:
        """A batch of one row."""
        return self._each(lambda part: part[row : row + 1])

    def on(self, device: torch.device) -> SequenceBatch:
        """The batch on a device; the copy of a pinned one goes on while the CPU continues."""
        return self if device.type == "cpu" else self._each(lambda part: part.to(device, non_blocking=True))

    def pinned(self) -> SequenceBatch:
        """The batch in memory that a GPU reads by itself."""
        return self._each(torch.Tensor.pin_memory)

    def _each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> SequenceBatch:
        parts = (self.item_indices_BL, self.event_ts_BL, self.lengths_B, self.target_indices_BM, self.target_counts_B)
        return SequenceBatch(*map(change, parts))


class WindowFeed:
    """Batches of one task and split of ``training_windows``.

    Rows are shuffled in pools of about 100 MB. A partition that fits one pool is read once and then kept in memory.

    Args:
        split: `train`: shuffled anew each epoch; `validation` and `test`: alike in every epoch.
        batch_size: Windows of one optimizer step, all ranks together: adding ranks does not change what is learned.
        seed: The order of epoch n depends on (seed, n), the files and ``config.bucket_batches`` only.
        rank: Which share of each batch to deliver: rows ``rank::world_size``.
        world_size: Number of ranks; all of them see the same number of steps.
        config: Who reads, how far ahead, and how many batches are sorted by length together.
        since: Epoch seconds; only windows whose newest event is at or after it. None = all.

    Raises:
        NothingToLearnError: The partition has no rows, or fewer than there are ranks.
    """

    def __init__(
        self,
        snapshot: DeltaSnapshot,
        task: str,
        split: Split,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        config: FeedConfig = DEFAULT_FEED,
        since: int | None = None,
    ) -> None:
        partition = {c.TASK: task, c.SPLIT: split}
        self.label = f"table {snapshot.name}, version {snapshot.version}, task {task!r}, {split}"
        in_time = "" if since is None else f" since {datetime.fromtimestamp(since, UTC):%Y-%m-%d %H:%M}"
        self.label += in_time
        self._copies = LocalCopies(snapshot.files(partition))  # there as long as the feed
        self.config, self.files, self._since = config, self._copies.uris, since
        self.num_rows = snapshot.row_count(partition) if since is None else count_windows(snapshot, task, since, split)
        if self.num_rows < world_size:
            raise NothingToLearnError(
                f"table {snapshot.name}, version {snapshot.version}: task {task!r} has {self.num_rows} {split} windows"
                f"{in_time} for {world_size} rank(s); tasks there: {snapshot.partition_values(c.TASK)}"
            )
        self._split, self._batch_size, self._seed = split, batch_size, seed
        self._rank, self._world_size = rank, world_size
        self._kept: Rows | None = None

    @property
    def num_steps(self) -> int:
        """Batches of one epoch, the same for every rank."""
        return -(-self.num_rows // self._batch_size)

    def epoch(self, n: int, first_step: int = 0, *, pinned: bool = False) -> Iterator[SequenceBatch]:
        """All windows once, in the order of epoch ``n``, without the batches before ``first_step``.

        With ``pinned`` they are put, by the thread that reads ahead, into memory that a GPU reads by itself. Where the
        reader delivered another number of rows than the snapshot has, a RowCountError follows the last row.
        """
        return prefetched(self._epoch(n, first_step, pinned), self.config.prefetch_batches)

    def _epoch(self, n: int, first_step: int, pinned: bool) -> Generator[SequenceBatch, None, None]:
        if first_step >= self.num_steps:
            return
        first_pool, skipped = divmod(first_step, self._pool_steps)
        counted = first_pool * self._pool_rows
        for number, pool in enumerate(self._pools(n, first_pool), start=first_pool):
            counted += row_count(pool)
            for rows in self._batches(pool[c.LENGTH], np.random.default_rng([self._seed, n, 1 + number]))[skipped:]:
                batch = self._my_share(pool, rows)
                yield batch.pinned() if pinned else batch
            skipped = 0
        if counted != self.num_rows:
            raise RowCountError(
                f"{self.label}: {self.config.reader} delivered {counted} rows, the snapshot has {self.num_rows}"
            )

    def _pools(self, n: int, first_pool: int) -> Iterator[Rows]:
        """Rows that are shuffled as a whole; every pool but the last is a whole number of batches."""
        if self._kept is not None:
            yield self._kept
            return
        portions = self._portions(self._file_order(n), first_pool * self._pool_rows)
        counts = []
        try:
            for pool in pools(portions, min(self._pool_rows, self.num_rows)):
                yield pool
                counts.append(row_count(pool))
        except DataError as error:
            raise DataError(f"{self.label}: {error}") from error
        if counts == [self.num_rows]:
            self._kept = pool

    def _portions(self, files: list[str], first_row: int) -> Iterator[Rows]:
        """The rows of the files from number ``first_row`` on, those older than ``since`` neither counted nor kept."""
        read, columns = _reader(self.config.reader), _COLUMNS[self._split]
        if self._since is None:
            return read(files, columns, first_row)
        # How many of a file's rows are new is in no footer: all files are read from their start.
        return without_first(newest_since(read(files, columns, 0), self._since), first_row)

    @cached_property
    def _pool_steps(self) -> int:
        """Batches of a full pool."""
        widths = (values_per_row(uri, _COLUMNS[self._split]) for uri in self.files)
        row_bytes = 8 * next((width for width in widths if width), 1)
        return max(1, _POOL_BYTES // row_bytes // self._batch_size)

    @property
    def _pool_rows(self) -> int:
        return self._pool_steps * self._batch_size

    @property
    def _is_one_pool(self) -> bool:
        return self.num_rows <= self._pool_rows

    def _file_order(self, n: int) -> list[str]:
        # One pool is shuffled as a whole anyway, and may be kept from an epoch to the next.
        if self._split != c.TRAIN or self._is_one_pool:
            return self.files
        return [self.files[i] for i in np.random.default_rng([self._seed, n]).permutation(len(self.files))]

    def _batches(self, lengths: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
        """Row numbers of each batch: shuffled, then windows of similar length together, then the batches shuffled.

        Other splits are not shuffled; with bucketing each of their pools is sorted by length.
        """
        size, rows = self._batch_size, np.arange(len(lengths))
        if self._split != c.TRAIN:
            if self.config.bucket_batches > 1:
                rows = np.argsort(-lengths, kind="stable")
            return [rows[start : start + size] for start in range(0, len(rows), size)]
        rng.shuffle(rows)
        if self.config.bucket_batches > 1:
            bucket = size * self.config.bucket_batches
            for start in range(0, len(rows), bucket):
                part = rows[start : start + bucket]
                rows[start : start + bucket] = part[np.argsort(-lengths[part], kind="stable")]
        batches = [rows[start : start + size] for start in range(0, len(rows), size)]
        return [batches[i] for i in rng.permutation(len(batches))]

    def _my_share(self, pool: Rows, rows: np.ndarray) -> SequenceBatch:
        share = rows[self._rank :: self._world_size]
        # A last batch may be smaller than the number of ranks: all of them take the step, one with nothing to learn.
        return _to_batch(pool, share) if len(share) else _NOTHING


def count_windows(snapshot: DeltaSnapshot, task: str, since: int, split: Split = c.TRAIN) -> int:
    """Windows whose newest event is at or after the epoch second ``since``.

    Always counted by pyarrow: what the configured reader delivers is checked against this count.

    Raises:
        RowCountError: The files hold another number of rows than the snapshot says.
    """
    partition = {c.TASK: task, c.SPLIT: split}
    rows = newer = 0
    for portion in read_arrow_rows(snapshot.files(partition), [c.EVENT_TS], first_row=0):
        rows += row_count(portion)
        newer += sum(map(row_count, newest_since([portion], since)))
    if rows != (expected := snapshot.row_count(partition)):
        raise RowCountError(f"{snapshot.name}, {task!r}, {split}: {rows} rows in the files, {expected} in the snapshot")
    return newer


def window_ids(feed: WindowFeed, batches: Iterable[SequenceBatch]) -> list[str]:
    """``window_id`` of every window of ``feed`` that equals a row of the batches, sorted.

    Batches have no ids, because only an error message needs them: the table is read for them here.
    """
    searched = {
        _content(*row)
        for batch in batches
        for row in zip(batch.item_indices_BL.numpy(), batch.event_ts_BL.numpy(), batch.lengths_B.numpy(), strict=True)
    }
    columns = [c.ITEM_INDICES, c.EVENT_TS, c.LENGTH, c.WINDOW_ID]
    return sorted(
        str(window_id)
        for rows in read_arrow_rows(feed.files, columns, first_row=0)
        for *row, window_id in zip(*(rows[name] for name in columns), strict=True)
        if _content(*row) in searched
    )


def _reader(name: Reader) -> RowReader:
    if name == "arrow":
        return read_arrow_rows
    # Imported on demand only, so that nothing else depends on Petastorm.
    from precise_core.feed import petastorm_rows

    return petastorm_rows.read_rows


def _to_batch(pool: Rows, rows: np.ndarray) -> SequenceBatch:
    """The rows of a pool, copied; numpy copies in the calling thread, where torch would start threads of its own."""
    lengths_B = pool[c.LENGTH][rows]
    first = pool[c.ITEM_INDICES].shape[1] - int(lengths_B.max())
    has_targets = c.TARGET_COUNT in pool
    counts_B = pool[c.TARGET_COUNT][rows] if has_targets else np.zeros(len(rows), np.int64)
    targets_BM = pool[c.TARGET_INDICES][rows, : counts_B.max()] if has_targets else np.zeros((len(rows), 0), np.int64)
    tensors = (pool[c.ITEM_INDICES][rows, first:], pool[c.EVENT_TS][rows, first:], lengths_B, targets_BM, counts_B)
    return SequenceBatch(*map(torch.from_numpy, tensors))


def _content(items_L: np.ndarray, seconds_L: np.ndarray, length: int) -> tuple[tuple[int, ...], ...]:
    """The real entries, whatever the padding."""
    start = len(items_L) - length
    return tuple(items_L[start:].tolist()), tuple(seconds_L[start:].tolist())


_NOTHING = SequenceBatch(*(torch.zeros(size).long() for size in ((1, 1), (1, 1), (1,), (1, 0), (1,))))  # no event
