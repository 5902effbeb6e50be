"""Sparse against dense embedding tables: `python -m benchmarks.sparse_tables [--rows N ...] [--width D] [--batch N]`.

Times one optimizer step (look-up, backward, clipping, update) of a table alone, dense and sparse in turn, for tables of
growing size of which a batch holds the same number of distinct rows. `optimizer.sparse_above_rows` should be near the
size from which the sparse step is the faster one.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from benchmarks.record import record
from precise_core.training.config import OptimizerConfig
from precise_core.training.optimizer import Optimizer

RESULTS = Path(__file__).parent / "results" / "sparse_tables.jsonl"

_ROWS = (5_000, 12_500, 25_000, 50_000, 100_000, 200_000, 400_000)
_ROUNDS = 12


@dataclass(frozen=True)
class Measured:
    """Seconds of one step of a table of ``rows`` rows."""

    rows: int
    dense: float
    sparse: float


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=list(_ROWS), help="sizes of the table")
    parser.add_argument("--width", type=int, default=64, help="of a row")
    parser.add_argument("--batch", type=int, default=3_000, help="distinct rows of a batch")
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--results", type=Path, default=RESULTS, help="file to append the figures to")
    arguments = parser.parse_args(argv)
    width, batch, seed = arguments.width, arguments.batch, arguments.seed
    measured = [measure(rows, width, batch, seed) for rows in sorted(arguments.rows)]
    data = f"table of width {width}, {batch:,} distinct rows a batch"
    command = f"python -m benchmarks.sparse_tables --width {width} --batch {batch} --seed {seed}"
    for one in measured:
        print(f"{one.rows:>10,} rows: dense {one.dense * 1e3:8.2f} ms, sparse {one.sparse * 1e3:8.2f} ms")
        name = f"speed of a sparse step over a dense one, {one.rows:,} rows"
        record(arguments.results, name, one.dense / one.sparse, "x", None, None, data, seed, command)
    threshold = break_even(measured)
    if threshold is None:
        print("the sparse step was never the faster one")
        return
    print(f"sparse is faster from {threshold:,} rows on")
    record(arguments.results, "sparse faster from", threshold, "rows", None, None, data, seed, command)


def measure(rows: int, width: int, batch: int, seed: int) -> Measured:
    """The fastest of some steps, for which both kinds take turns: noise only ever adds to a time."""
    tables = {is_sparse: _Table(rows, width, batch, seed, is_sparse) for is_sparse in (False, True)}
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(1 + _ROUNDS):
        for is_sparse, table in tables.items():
            seconds[is_sparse].append(table.time_step())
    # The first round allocates the moments.
    return Measured(rows, min(seconds[False][1:]), min(seconds[True][1:]))


def break_even(measured: Sequence[Measured]) -> int | None:
    """The smallest size from which on every larger one is faster sparse; None where there is none."""
    faster = None
    for one in reversed(measured):
        if one.sparse >= one.dense:
            break
        faster = one.rows
    return faster


class _Table:
    """A table of its own, with the optimizer that a training would give it."""

    def __init__(self, rows: int, width: int, batch: int, seed: int, is_sparse: bool) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self._rows, self._batch = rows, min(batch, rows)
        self._model = nn.Sequential(nn.Embedding(rows, width), nn.Linear(width, 1))
        config = OptimizerConfig(sparse_above_rows=0 if is_sparse else rows)
        self._optimizer = Optimizer(self._model, config)

    def time_step(self) -> float:
        """Seconds of one step with rows drawn anew."""
        rows_N = torch.randperm(self._rows, generator=self._generator)[: self._batch]
        start = time.perf_counter()
        self._optimizer.zero_grad()
        self._model(rows_N).square().mean().backward()
        self._optimizer.step(1e-3)
        return time.perf_counter() - start


if __name__ == "__main__":
    main()
