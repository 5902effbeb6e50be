"""A tiny world for the torch wing: Delta tables written without Spark, and configurations that train in seconds.

Users alternate between the items of one of two groups, so that the last items say what comes next.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from deltalake import write_deltalake

from precise_core.feed.config import FeedConfig
from precise_core.models.catalog import ItemCatalog, TextStates
from precise_core.models.config import KINDS_WITHOUT_FFN, ModelConfig
from precise_core.models.times import Times
from precise_core.training.checkpoint import Checkpoint
from precise_core.training.config import TargetedConfig, UniversalConfig
from precise_core.training.setup import TrainingInputs
from precise_core.training.universal import train_universal
from precise_core.training.watching import NullProgress, Progress
from precise_core.warehouse.reader import DeltaSnapshot
from schemas import TRAINING_WINDOWS
from schemas import columns as c

NUM_ITEMS = 20
LENGTH = 8
MAX_TARGETS = 4
STATE_WIDTH = 12  # of hidden states

ARROW = FeedConfig(reader="arrow")
EXPLOSIVE = {"learning_rate": 1e30, "warmup_steps": 0, "clip_norm": 1e30}  # breaks a training in a step

Window = tuple[Sequence[int], Sequence[int], Sequence[int]]  # items, event_ts, targets


def write_windows(
    folder: Path, windows: Sequence[Window], task: str = "all", split: str = "train", files: int = 1
) -> None:
    """Append windows to a table like ``training_windows``, in so many files."""
    for part in np.array_split(np.arange(len(windows)), files):
        rows = [_row(windows[i], int(i), task, split) for i in part]
        table = pa.Table.from_pylist(rows, schema=TRAINING_WINDOWS.arrow_schema())
        write_deltalake(str(folder), table, mode="append", partition_by=[c.TASK, c.SPLIT])


def _row(window: Window, number: int, task: str, split: str) -> dict[str, Any]:
    items, times, targets = window
    gap = [0] * (LENGTH - len(items))
    return {
        c.WINDOW_ID: f"{task}/{split}/u/{number}",
        c.TASK: task,
        c.SPLIT: split,
        c.ITEM_INDICES: [*gap, *items],
        c.EVENT_TS: [*gap, *times],
        c.LENGTH: len(items),
        c.TARGET_INDICES: [*targets, *[0] * (MAX_TARGETS - len(targets))],
        c.TARGET_COUNT: len(targets),
    }


def grouped_windows(count: int, seed: int, with_targets: bool = False) -> list[Window]:
    """Users who walk along a circle of the even or of the odd items, starting anywhere."""
    rng = np.random.default_rng(seed)
    windows: list[Window] = []
    for _ in range(count):
        length, start = int(rng.integers(3, LENGTH + 1)), int(rng.integers(NUM_ITEMS))
        walk = [2 + (start + 2 * step) % NUM_ITEMS for step in range(length + 2)]
        targets = walk[length:] if with_targets else []
        windows.append((walk[:length], list(range(100, 100 + length)), targets))
    return windows


def world_snapshot(folder: Path, tasks: Sequence[str] = ("all",), train: int = 300) -> DeltaSnapshot:
    for number, task in enumerate(tasks):
        write_windows(folder, grouped_windows(train, seed=number), task, "train", files=3)
        write_windows(folder, grouped_windows(40, seed=100 + number, with_targets=True), task, "validation")
    return DeltaSnapshot(folder)


def world_catalog(num_items: int = NUM_ITEMS) -> ItemCatalog:
    """Item i has the tokens (10 + i % 2, 20 + i); item 2 has none."""
    rows = torch.arange(num_items + 2)
    token_ids = torch.stack([10 + rows % 2, 20 + rows, torch.zeros_like(rows)], dim=1).int()
    counts = torch.where(rows > 2, 2, 0).int()
    return ItemCatalog(token_ids * (counts > 0)[:, None], counts, "toy-tokenizer")


def states_catalog(num_items: int = NUM_ITEMS, language_model: str = "lm@1", width: int = STATE_WIDTH) -> ItemCatalog:
    """The toy catalog; a token's state depends on the item, so that a token table could not tell the same."""
    plain = world_catalog(num_items)
    generator = torch.Generator().manual_seed(0)
    states_SH = torch.randn(int(plain.token_counts_V.sum()), width, generator=generator)
    starts_V = plain.token_counts_V.cumsum(0) - plain.token_counts_V
    return ItemCatalog(
        plain.token_ids_VT, plain.token_counts_V, plain.tokenizer_id, TextStates(states_SH, starts_V, language_model)
    )


def encoder_sizes(kind: str, **changes: Any) -> dict[str, Any]:
    """A tiny encoder of a kind; without a feed-forward network where the kind has none."""
    width = None if kind in KINDS_WITHOUT_FFN else 16
    return {"kind": kind, "layers": 2, "heads": 2, "ffn_width": width, "max_length": LENGTH} | changes


def times_of(e_BLD: torch.Tensor) -> Times:
    """An event an hour, counted from the newest, so that padding does not move them; asked five hours after it."""
    newest_B = torch.full((len(e_BLD),), 1_700_000_000)
    hours_L = torch.arange(1 - e_BLD.shape[1], 1)
    return Times.of_histories(newest_B[:, None] + 3600 * hours_L, newest_B + 5 * 3600)


def tiny_model(mode: str = "moe", **changes: Any) -> ModelConfig:
    fusion = {"mode": mode, "id_width": 8, "token_width": 8, "num_experts": 3, "top_k": 2, "token_init": "random"}
    encoder = {"layers": 1, "heads": 2, "ffn_width": 16, "dropout": 0.1, "max_length": LENGTH}
    values = {"fusion": fusion, "encoder": encoder, "head_width": 8} | changes
    return ModelConfig.model_validate(values)


_LOOP = {"batch_size": 32, "optimizer": {"learning_rate": 0.01, "warmup_steps": 2}, "checkpoint_every_steps": 4}


def tiny_universal(**changes: Any) -> UniversalConfig:
    return UniversalConfig.model_validate({**_LOOP, "epochs": 2, "negatives": {"uniform": 8}, **changes})


def tiny_targeted(**changes: Any) -> TargetedConfig:
    return TargetedConfig.model_validate({**_LOOP, "epochs": 2, "negatives": {"uniform": 8}, **changes})


def universal_training(
    windows: DeltaSnapshot,
    out: Path,
    model: ModelConfig | None = None,
    rows: int = NUM_ITEMS,
    progress: Progress | None = None,
    **changes: Any,
) -> Checkpoint:
    """Universal Training in the tiny world, from scratch; ``changes`` are those of ``tiny_universal``."""
    return train_universal(
        TrainingInputs(
            windows=windows,
            catalog=world_catalog(rows),
            out=out,
            seed=5,
            versions={},
            progress=progress or NullProgress(),
            feed_config=ARROW,
        ),
        model_config=model or tiny_model(),
        config=tiny_universal(**changes),
    )


class StopAt(NullProgress):
    """Ends the training at a step, as a lost machine would."""

    def __init__(self, step: int) -> None:
        self.step, self.done = step, 0

    def advance(self, n: int, **info: float) -> None:  # noqa: ARG002
        self.done += n
        if n and self.done >= self.step:
            raise KeyboardInterrupt
