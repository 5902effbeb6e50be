"""Feed against trainer: `python -m benchmarks.feed [--rows N] [--length L] [--seed S]`.

Writes a Delta table of random windows to a temporary folder, reads one epoch of it with both readers, with and without
prefetching, several times in turn, and trains a small model on the same windows. The feed should be at least 20 times
as fast as the trainer that it feeds, without a model behind it.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow as pa
import torch
from deltalake import write_deltalake

from benchmarks.record import record
from precise_core.feed.config import FeedConfig
from precise_core.feed.windows import WindowFeed
from precise_core.models.catalog import ItemCatalog
from precise_core.models.config import ModelConfig
from precise_core.models.precise import Precise
from precise_core.training.config import UniversalConfig
from precise_core.training.setup import TrainingInputs, item_frequencies
from precise_core.training.universal import universal_loss
from precise_core.warehouse.reader import DeltaSnapshot
from schemas import TRAINING_WINDOWS
from schemas import columns as c

RESULTS = Path(__file__).parent / "results" / "feed.jsonl"
GOAL = 20  # times what the trainer consumes

_READERS = ("petastorm", "arrow")
_PREFETCH = (0, 2)
_REPETITIONS = 5
_BATCH = 128
_ITEMS = 12_000
_TARGETS = 50
_FILES = 8
_WARMUP_STEPS = 20
_STEPS = 200


@dataclass(frozen=True)
class Measured:
    """Rows per second of one epoch by (reader, prefetched batches), and sequences per second of the trainer."""

    feed: dict[tuple[str, int], float]
    trainer: float

    def ratio(self, reader: str) -> float:
        """How many times faster a reader alone is than the trainer, without prefetching."""
        return self.feed[reader, 0] / self.trainer


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000, help="train windows")
    parser.add_argument("--length", type=int, default=50, help="positions of a window")
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--results", type=Path, default=RESULTS, help="file to append the figures to")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / TRAINING_WINDOWS.name
        write_windows(table, arguments.rows, arguments.length, arguments.seed)
        windows = DeltaSnapshot(table)
        feed = measure_feed(windows, arguments.seed)
        measured = Measured(feed, measure_trainer(windows, arguments.length, arguments.seed))
    for (reader, ahead), speed in measured.feed.items():
        print(f"{reader:>10}, prefetch {ahead}: {speed:>12,.0f} rows/s")
    print(f"{'trainer':>22}: {measured.trainer:>12,.0f} sequences/s")
    for reader in _READERS:
        print(f"{reader:>10} / trainer: {measured.ratio(reader):.1f} (goal: at least {GOAL})")
    write_figures(measured, arguments.results, arguments.rows, arguments.length, arguments.seed)


def write_windows(folder: Path, rows: int, length: int, seed: int) -> None:
    """Train windows of 3 to ``length`` events, most of them short, over items of a long-tailed popularity."""
    rng = np.random.default_rng(seed)
    for part in np.array_split(np.arange(rows), _FILES):
        lengths_B = np.clip(3 + rng.geometric(6 / length, len(part)), 3, length)
        valid_BL = np.arange(length) >= length - lengths_B[:, None]
        items_BL = c.FIRST_ITEM_INDEX + (_ITEMS * rng.random((len(part), length)) ** 3).astype(np.int64)
        event_ts_BL = 1_700_000_000 + np.cumsum(rng.integers(1, 100_000, (len(part), length)), axis=1)
        columns = {
            c.WINDOW_ID: pa.array([f"all/train/u{number}/0" for number in part]),
            c.TASK: pa.array(["all"] * len(part)),
            c.SPLIT: pa.array(["train"] * len(part)),
            c.ITEM_INDICES: _lists(items_BL * valid_BL),
            c.EVENT_TS: _lists(event_ts_BL * valid_BL),
            c.LENGTH: pa.array(lengths_B),
            c.TARGET_INDICES: _lists(np.zeros((len(part), _TARGETS), np.int64)),
            c.TARGET_COUNT: pa.array(np.zeros(len(part), np.int64)),
        }
        table = pa.table(columns).cast(TRAINING_WINDOWS.arrow_schema())
        write_deltalake(str(folder), table, mode="append", partition_by=list(TRAINING_WINDOWS.partition_by))


def measure_feed(windows: DeltaSnapshot, seed: int) -> dict[tuple[str, int], float]:
    """Median rows per second of an epoch read from disk; the ways to read take turns and so see the same noise."""
    ways = list(itertools.product(_READERS, _PREFETCH))
    speeds: dict[tuple[str, int], list[float]] = {way: [] for way in ways}
    for repetition in range(1 + _REPETITIONS):
        for reader, ahead in ways:
            config = FeedConfig.model_validate({"reader": reader, "prefetch_batches": ahead})
            feed = WindowFeed(windows, "all", "train", _BATCH, seed, config=config)  # anew: nothing kept from before
            start = time.perf_counter()
            delivered = sum(len(batch) for batch in feed.epoch(repetition))
            speeds[reader, ahead].append(delivered / (time.perf_counter() - start))
    return {way: median(values[1:]) for way, values in speeds.items()}  # the first warms imports and the page cache


def measure_trainer(windows: DeltaSnapshot, length: int, seed: int) -> float:
    """Sequences per second of optimizer steps on batches that lie ready: what a trainer can consume at most."""
    torch.manual_seed(seed)
    tokens_VT = torch.zeros(c.FIRST_ITEM_INDEX + _ITEMS, 1, dtype=torch.int32)
    catalog = ItemCatalog(tokens_VT, torch.zeros(len(tokens_VT), dtype=torch.int32), "none")
    inputs = TrainingInputs(windows=windows, catalog=catalog, out=Path(), seed=seed, versions={})
    frequencies_V = item_frequencies(inputs, catalog.num_rows)
    model = Precise(sasrec(length), catalog.num_rows, catalog.known_token_ids, "universal", catalog.max_token_length)
    model.fusion.set_trained_items(frequencies_V)
    config = UniversalConfig.model_validate({"batch_size": _BATCH, "negatives": {"uniform": 256}})
    loss_of = universal_loss(model, catalog, config, frequencies_V)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    generator = torch.Generator().manual_seed(seed)
    feed = WindowFeed(windows, "all", "train", _BATCH, seed)
    batches = list(itertools.islice(itertools.cycle(feed.epoch(1)), _WARMUP_STEPS + _STEPS))
    for step, batch in enumerate(batches):
        if step == _WARMUP_STEPS:
            start = time.perf_counter()
        loss = loss_of(batch, generator)
        if loss is not None:
            optimizer.zero_grad(set_to_none=True)
            loss.mean.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), config.optimizer.clip_norm)
            optimizer.step()
    seconds = time.perf_counter() - start
    return sum(len(batch) for batch in batches[_WARMUP_STEPS:]) / seconds


def write_figures(measured: Measured, results: Path, rows: int, length: int, seed: int) -> None:
    """Append every figure to ``results``; the goal is judged for both readers, without prefetching."""
    data = f"{rows:,} random windows of up to {length} events"
    command = f"python -m benchmarks.feed --rows {rows} --length {length} --seed {seed}"
    for (reader, ahead), speed in measured.feed.items():
        name = f"feed alone: {reader}, " + (f"{ahead} batches prefetched" if ahead else "no prefetching")
        record(results, name, speed, "rows/s", None, None, data, seed, command)
    trainer = "trainer: SASRec-like, id only, width 64, 2 layers, batch 128"
    record(results, trainer, measured.trainer, "sequences/s", None, None, data, seed, command)
    for reader in _READERS:
        ratio = measured.ratio(reader)
        goal = f"at least {GOAL} x"
        record(results, f"feed over trainer: {reader}", ratio, "x", goal, ratio >= GOAL, data, seed, command)


def sasrec(length: int) -> ModelConfig:
    """A small model by id alone."""
    fusion = {"mode": "id", "id_width": 64}
    encoder = {"layers": 2, "heads": 2, "ffn_width": 64, "max_length": length}
    return ModelConfig.model_validate({"fusion": fusion, "encoder": encoder})


def _lists(values_BL: np.ndarray) -> pa.ListArray:
    offsets = np.arange(len(values_BL) + 1, dtype=np.int32) * values_BL.shape[1]
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values_BL.ravel()))


if __name__ == "__main__":
    main()
