"""Memory of a training against the number of users: `python -m benchmarks.training_memory [--windows N ...]`.

Writes tables of random windows of growing size and trains the same small model on each for the same number of steps, in
a process of its own, read with the arrow reader: first all windows once (item frequencies), then the steps. The peak of
each process is recorded. Windows are read in pools of about 100 MB, so that from the size of a pool on the peak should
stay where it is.
"""

from __future__ import annotations

import argparse
import itertools
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.feed import sasrec, write_windows
from benchmarks.record import record
from precise_core.feed.config import FeedConfig
from precise_core.models.catalog import ItemCatalog
from precise_core.training.config import UniversalConfig
from precise_core.training.optimizer import Optimizer, keep_freed_memory
from precise_core.training.setup import TrainingInputs, build_model, item_frequencies
from precise_core.training.universal_loss import universal_loss
from precise_core.warehouse.reader import DeltaSnapshot
from schemas import TRAINING_WINDOWS

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "training_memory.jsonl"
GOAL = 1.05  # the largest peak over that of the table before it

_WINDOWS = (50_000, 200_000, 800_000)
_LENGTH, _ITEMS, _BATCH = 50, 12_002, 128


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=int, nargs="+", default=list(_WINDOWS), help="sizes of the table")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--results", type=Path, default=RESULTS, help="file to append the figures to")
    parser.add_argument("--table", type=Path, help="train on this table, print the peak in MiB, record nothing")
    arguments = parser.parse_args(argv)
    if arguments.table:
        train(DeltaSnapshot(arguments.table), arguments.steps, arguments.seed)
        print(peak_mib())
        return
    sizes = sorted(arguments.windows)
    peaks = [measure(size, arguments.steps, arguments.seed) for size in sizes]
    command = f"python -m benchmarks.training_memory --windows {' '.join(map(str, sizes))} --steps {arguments.steps}"
    data = f"random windows of up to {_LENGTH} events, {arguments.steps} steps of {_BATCH}"
    for size, peak in zip(sizes, peaks, strict=True):
        print(f"{size:>12,} windows: {peak:,.0f} MiB")
        record(
            arguments.results, f"peak memory, {size:,} windows", peak, "MiB", None, None, data, arguments.seed, command
        )
    if len(peaks) > 1:
        growth, name = peaks[-1] / peaks[-2], f"peak memory, {sizes[-1]:,} over {sizes[-2]:,} windows"
        print(f"growth: {growth:.3f} x (goal: at most {GOAL})")
        goal, met = f"at most {GOAL} x", growth <= GOAL
        record(arguments.results, name, growth, "x", goal, met, data, arguments.seed, command)


def measure(windows: int, steps: int, seed: int) -> float:
    """Peak resident memory in MiB of a process that trains on so many windows."""
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / TRAINING_WINDOWS.name
        write_windows(table, windows, _LENGTH, seed)
        command = [sys.executable, "-m", "benchmarks.training_memory", "--table", str(table)]
        command += ["--steps", str(steps), "--seed", str(seed)]
        return float(subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout)


def train(windows: DeltaSnapshot, steps: int, seed: int) -> None:
    """A few steps of Universal Training, with the parts that the loop is made of."""
    keep_freed_memory()
    catalog = ItemCatalog(torch.zeros(_ITEMS, 1, dtype=torch.int32), torch.zeros(_ITEMS, dtype=torch.int32), "none")
    config = UniversalConfig.model_validate({"batch_size": _BATCH, "negatives": {"uniform": 256}})
    arrow = FeedConfig(reader="arrow")
    inputs = TrainingInputs(windows=windows, catalog=catalog, out=Path(), seed=seed, versions={}, feed_config=arrow)
    frequencies_V = item_frequencies(inputs, catalog.num_rows)
    model = build_model(sasrec(_LENGTH), catalog, None, frequencies_V, seed)
    loss_of, optimizer = universal_loss(model, catalog, config, frequencies_V), Optimizer(model, config.optimizer)
    feed = inputs.window_feed("train", _BATCH)
    batches = itertools.chain.from_iterable(feed.epoch(n) for n in itertools.count())
    for step, batch in enumerate(itertools.islice(batches, steps)):
        loss = loss_of(batch, torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        if loss is not None:
            loss.mean.backward()
            optimizer.step(config.optimizer.learning_rate)


def peak_mib() -> float:
    """Of this process alone: what getrusage says begins with the memory of the process that started it."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    raise OSError("/proc/self/status has no VmHWM: this benchmark needs Linux")


if __name__ == "__main__":
    main()
