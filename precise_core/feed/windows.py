"""Training windows as batches of tensors, read by Petastorm from a pinned Delta snapshot.

B batch, L positions, M targets of a validation window.

Petastorm delivers the rows; what it does not promise is decided here: which rows (the snapshot's files), how many
(counted every epoch), in which order (a seeded shuffle of ours; its own is the same every epoch, or not reproducible)
and that every rank takes the same number of steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import torch
from petastorm import make_batch_reader

from precise_core.errors import DataError, NothingToLearnError, RowCountError
from precise_core.feed.snapshot import DeltaSnapshot
from schemas import columns as c

Split = Literal["train", "validation", "test"]
Rows = dict[str, np.ndarray]

_COLUMNS = (c.ITEM_INDICES, c.EVENT_TS, c.LENGTH, c.TARGET_INDICES, c.TARGET_COUNT)
_FILES_PER_READER = 16  # opening a reader costs milliseconds; the order of groups of files is ours
_POOL_ROWS = 65_536  # rows that are shuffled together; about 100 MB at 100 positions
_BATCHES_PER_BUCKET = 16  # rows of so many batches are sorted by length, so that trimming pays


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
        return torch.arange(L) >= (L - self.lengths_B)[:, None]

    def __len__(self) -> int:
        return self.item_indices_BL.shape[0]


class WindowFeed:
    """Batches of one task and split of ``training_windows``.

    Args:
        snapshot: The table at a pinned version.
        task: Partition to read.
        split: `train`: shuffled anew each epoch; `validation`: in file order.
        batch_size: Windows of one optimizer step, all ranks together: adding ranks does not change what is learned.
        seed: The order of epoch n depends on (seed, n) and the files only.
        rank: Which share of each batch to deliver: rows ``rank::world_size``.
        world_size: Number of ranks; all of them see the same number of steps.

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
    ) -> None:
        partition = {c.TASK: task, c.SPLIT: split}
        self.num_rows = snapshot.row_count(partition)
        if self.num_rows < world_size:
            raise NothingToLearnError(
                f"table {snapshot.name}, version {snapshot.version}: task {task!r} has {self.num_rows} {split} windows "
                f"for {world_size} rank(s); tasks there: {snapshot.partition_values(c.TASK)}"
            )
        self.label = f"table {snapshot.name}, version {snapshot.version}, task {task!r}, {split}"
        self._files = snapshot.files(partition)
        self._split, self._batch_size, self._seed = split, batch_size, seed
        self._rank, self._world_size = rank, world_size

    @property
    def num_steps(self) -> int:
        """Batches of one epoch, the same for every rank."""
        return -(-self.num_rows // self._batch_size)

    def epoch(self, n: int) -> Iterator[SequenceBatch]:
        """All windows once, in the order of epoch ``n``.

        Raises:
            RowCountError: Petastorm delivered another number of rows than the snapshot has; raised after the last row.
            DataError: A file cannot be read.
        """
        rng = np.random.default_rng([self._seed, n])
        delivered = 0
        for pool in self._pools(rng):
            delivered += len(pool[c.LENGTH])
            for rows in self._batches(pool, rng):
                yield _to_batch({name: values[self._my_share(rows)] for name, values in pool.items()})
        if delivered != self.num_rows:
            raise RowCountError(f"{self.label}: Petastorm delivered {delivered} rows, the snapshot has {self.num_rows}")

    def _pools(self, rng: np.random.Generator) -> Iterator[Rows]:
        """Rows in portions that are shuffled as a whole; every portion but the last is a whole number of batches."""
        size = max(1, _POOL_ROWS // self._batch_size) * self._batch_size
        waiting: list[Rows] = []
        for chunk in _read(self._file_order(rng), self.label):
            waiting.append(chunk)
            if sum(len(rows[c.LENGTH]) for rows in waiting) >= size:
                merged = _concatenate(waiting)
                whole = len(merged[c.LENGTH]) // size * size
                for start in range(0, whole, size):
                    yield {name: values[start : start + size] for name, values in merged.items()}
                waiting = [{name: values[whole:] for name, values in merged.items()}]
        if waiting and len(waiting[0][c.LENGTH]):
            yield _concatenate(waiting)

    def _file_order(self, rng: np.random.Generator) -> list[str]:
        return [self._files[i] for i in rng.permutation(len(self._files))] if self._split == "train" else self._files

    def _batches(self, pool: Rows, rng: np.random.Generator) -> list[np.ndarray]:
        """Row numbers of each batch: shuffled, then windows of similar length together, then the batches shuffled."""
        size, rows = self._batch_size, np.arange(len(pool[c.LENGTH]))
        if self._split == "validation":
            return [rows[start : start + size] for start in range(0, len(rows), size)]
        rng.shuffle(rows)
        bucket = size * _BATCHES_PER_BUCKET
        for start in range(0, len(rows), bucket):
            part = rows[start : start + bucket]
            rows[start : start + bucket] = part[np.argsort(-pool[c.LENGTH][part], kind="stable")]
        batches = [rows[start : start + size] for start in range(0, len(rows), size)]
        return [batches[i] for i in rng.permutation(len(batches))]

    def _my_share(self, rows: np.ndarray) -> np.ndarray:
        share = rows[self._rank :: self._world_size]
        # A last batch may be smaller than the number of ranks: a row seen twice is harmless, a rank without one hangs.
        return share if len(share) else rows[:1]


def _read(files: list[str], label: str) -> Iterator[Rows]:
    """Row groups of the files; the dummy pool reads in this process, in order, with nothing to lose."""
    fields = [f"^{name}$" for name in _COLUMNS]  # the window_id strings and the partition columns stay on disk
    for start in range(0, len(files), _FILES_PER_READER):
        group = files[start : start + _FILES_PER_READER]
        try:
            with make_batch_reader(
                group, schema_fields=fields, reader_pool_type="dummy", shuffle_row_groups=False, num_epochs=1
            ) as reader:
                for chunk in reader:
                    yield {name: getattr(chunk, name) for name in _COLUMNS}
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{label}: cannot read {group}: {error}") from error


def _concatenate(chunks: list[Rows]) -> Rows:
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in _COLUMNS}


def _to_batch(rows: Rows) -> SequenceBatch:
    longest, most_targets = int(rows[c.LENGTH].max()), int(rows[c.TARGET_COUNT].max())
    first = rows[c.ITEM_INDICES].shape[1] - longest
    tensors = (
        rows[c.ITEM_INDICES][:, first:],
        rows[c.EVENT_TS][:, first:],
        rows[c.LENGTH],
        rows[c.TARGET_INDICES][:, :most_targets],
        rows[c.TARGET_COUNT],
    )
    return SequenceBatch(*(torch.from_numpy(values.astype(np.int64)) for values in tensors))
