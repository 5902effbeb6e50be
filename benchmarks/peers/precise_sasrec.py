"""Ours: SASRec of the same size in the platform's own training loop, feed and evaluation, measured as the peers are.

Training runs through train_universal (feed, checkpoints, validation after every epoch); the clock sees every step
as a progress bar would be. Prediction encodes all users and ranks the whole catalog exactly.

    .venv/bin/python -m benchmarks.peers.precise_sasrec --data build/peers/beauty --out build/peers/precise.json
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from deltalake import write_deltalake

from benchmarks.peers.protocol import (
    CUTOFF,
    LeaveOneOut,
    TrainingClock,
    argument_parser,
    epoch_line,
    parse,
    recall_and_ndcg,
    write_result,
)
from benchmarks.peers.top_items import top_items
from precise_core.feed.config import FeedConfig
from precise_core.models.catalog import ItemCatalog
from precise_core.models.config import ModelConfig
from precise_core.training.checkpoint import Checkpoint
from precise_core.training.config import UniversalConfig
from precise_core.training.setup import TrainingInputs
from precise_core.training.universal import train_universal
from precise_core.vectors.encoding import encode_catalog, encode_users
from precise_core.warehouse.reader import DeltaSnapshot
from schemas import TRAINING_WINDOWS
from schemas import columns as c


class ClockProgress:
    """Informs the clock of every step; validation falls between two epochs."""

    def __init__(self, clock: TrainingClock) -> None:
        self._clock = clock

    def start(self, total_steps: int, description: str) -> None:
        print(f"{description}: {total_steps} steps", flush=True)

    def advance(self, n: int, **info: float) -> None:
        if n:
            self._clock.step(int(info["units"]))
            return
        if self._clock.epochs:
            validation = {name.removeprefix("validation_"): value for name, value in info.items() if name != "units"}
            self._clock.epochs[-1]["validation"] = validation
            print(epoch_line(self._clock.epochs[-1]), flush=True)
        self._clock.start_epoch()

    def finish(self) -> None:
        if self._clock.epochs and not self._clock.epochs[-1]["sequences"]:
            self._clock.epochs.pop()


def main(argv: Sequence[str] | None = None) -> int:
    parser = argument_parser(__doc__)
    parser.add_argument("--loss", choices=("sampled", "softmax"), default="sampled", help="negatives of the softmax")
    parser.add_argument("--encoder", default="sasrec", help="a file of precise_core/models/encoders")
    parser.add_argument("--reader", choices=("arrow", "petastorm"), default="arrow")
    arguments = parse(parser, argv)
    torch.set_num_threads(arguments.threads)
    data = LeaveOneOut.read(arguments.data, arguments.train_includes_validation)
    clock = TrainingClock(warm_up_steps=arguments.warm_up_steps)
    catalog = _catalog(data.items)
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint = _train(arguments, data, clock, catalog, Path(scratch))
        recommended_UK, seconds = _predict(checkpoint, catalog, data, arguments)
    truth_U = data.test.sort_values("user")["item"].to_numpy()
    test = recall_and_ndcg(recommended_UK, truth_U)
    best = checkpoint.manifest.best_epoch
    packages = ["precise", "torch"]
    write_result(arguments, packages, f"eq. 5, {arguments.loss}", data, clock, best, seconds, test)
    return 0


def _train(arguments: Any, data: LeaveOneOut, clock: TrainingClock, catalog: ItemCatalog, folder: Path) -> Checkpoint:
    path = folder / TRAINING_WINDOWS.name
    write_windows(path, _tried_out(data.learned, arguments), None, arguments.length)
    write_windows(path, data.train, data.validation, arguments.length)
    encoder = {
        "kind": arguments.encoder,
        "layers": arguments.blocks,
        "heads": arguments.heads,
        "ffn_width": arguments.width,
        "dropout": arguments.dropout,
        "max_length": arguments.length,
    }
    fusion = {"mode": "id", "id_width": arguments.width, "id_dropout": 0.0}
    negatives: dict[str, Any] = {"in_batch": False, "uniform": arguments.negatives, "logq_correction": False}
    config = {
        "epochs": arguments.epochs,
        "batch_size": arguments.batch,
        "patience": arguments.patience or arguments.epochs,
        "targets_per_position": 1,
        "negatives": {"whole_catalog": True} if arguments.loss == "softmax" else negatives,
        "optimizer": {"learning_rate": arguments.learning_rate, "weight_decay": 0.0, "final_share": 1.0},
        "tensorboard": False,
    }
    return train_universal(
        TrainingInputs(
            windows=DeltaSnapshot(path),
            catalog=catalog,
            out=folder / "checkpoints",
            seed=arguments.seed,
            versions={},
            progress=ClockProgress(clock),
            feed_config=FeedConfig(reader=arguments.reader),
        ),
        model_config=ModelConfig.model_validate({"fusion": fusion, "encoder": encoder}),
        config=UniversalConfig.model_validate(config),
    )


def _tried_out(learned: pd.DataFrame, arguments: Any) -> pd.DataFrame:
    """All events, or those of as many users as ``--max-steps`` steps read."""
    if arguments.max_steps is None:
        return learned
    return learned[learned["user"].isin(learned["user"].unique()[: arguments.max_steps * arguments.batch])]


def _catalog(items: int) -> ItemCatalog:
    """Items without any text, numbered as the model numbers them."""
    rows = items + c.FIRST_ITEM_INDEX
    return ItemCatalog(torch.zeros(rows, 1, dtype=torch.int32), torch.zeros(rows, dtype=torch.int32), "none")


def write_windows(path: Path, events: pd.DataFrame, truth: pd.DataFrame | None, length: int) -> None:
    """One window per user: the newest ``length`` events; with ``truth``, what is to be predicted from them."""
    sequences = _sequences(events)
    targets = None if truth is None else truth.set_index("user")["item"] + c.FIRST_ITEM_INDEX
    rows = []
    for user, items in sequences.items():
        newest = items[-length:]
        if targets is None and len(newest) < 2:
            continue
        gap = [0] * (length - len(newest))
        rows.append(
            {
                c.WINDOW_ID: f"all/{'train' if targets is None else 'validation'}/{user}/0",
                c.TASK: "all",
                c.SPLIT: "train" if targets is None else "validation",
                c.ITEM_INDICES: [*gap, *newest.tolist()],
                c.EVENT_TS: [*gap, *range(1, len(newest) + 1)],
                c.LENGTH: len(newest),
                c.TARGET_INDICES: [0 if targets is None else int(targets[user])],
                c.TARGET_COUNT: 0 if targets is None else 1,
            }
        )
    table = pa.Table.from_pylist(rows, schema=TRAINING_WINDOWS.arrow_schema())
    write_deltalake(str(path), table, mode="append", partition_by=[c.TASK, c.SPLIT])


def _sequences(events: pd.DataFrame) -> dict[int, np.ndarray]:
    """Item rows per user, oldest first, users ascending."""
    ordered = events.sort_values(["user", "position"])
    users, starts = np.unique(ordered["user"].to_numpy(), return_index=True)
    parts = np.split(ordered["item"].to_numpy() + c.FIRST_ITEM_INDEX, starts[1:])
    return dict(zip(users.tolist(), parts, strict=True))


def _predict(
    checkpoint: Checkpoint, catalog: ItemCatalog, data: LeaveOneOut, arguments: Any
) -> tuple[np.ndarray, list[float]]:
    """The top 10 of every test user, and the seconds of each repeat: encoding items and users, scoring, ranking."""
    histories = _sequences(data.full)
    users = [histories[user] for user in np.sort(data.test["user"].to_numpy()).tolist()]
    seconds = []
    for _ in range(arguments.prediction_repeats):
        start = perf_counter()
        model = checkpoint.load_model()
        items_ND = encode_catalog(model, catalog, np.arange(c.FIRST_ITEM_INDEX, catalog.num_rows))
        users_UD = encode_users(model, catalog, users, arguments.length, batch=arguments.prediction_batch)
        recommended_UK = top_items(users_UD, items_ND, CUTOFF)
        seconds.append(perf_counter() - start)
    return recommended_UK, seconds


if __name__ == "__main__":
    sys.exit(main())
