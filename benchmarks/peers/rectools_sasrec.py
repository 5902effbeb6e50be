"""RecTools' SASRec: `python -m benchmarks.peers.rectools_sasrec --data DATA --out FILE.json --epochs 3`.

Run from the repository's root with the interpreter of RecTools' environment (README.md beside this file).
"""

from __future__ import annotations

import argparse
import logging
import warnings
from collections.abc import Sequence
from copy import deepcopy
from time import perf_counter

import numpy as np
import pandas as pd
import pytorch_lightning as lightning
import torch
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel

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

_PACKAGES = ("rectools", "torch", "pytorch-lightning", "numpy", "pandas")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--loss", choices=["sampled_softmax", "softmax", "gBCE", "BCE"], default="sampled_softmax")
    arguments = parse(parser, argv)
    torch.set_num_threads(arguments.threads)
    lightning.seed_everything(arguments.seed)
    warnings.filterwarnings("ignore", module="rectools|pytorch_lightning|pydantic")
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)

    data = LeaveOneOut.read(arguments.data, arguments.train_includes_validation)
    clock = TrainingClock(warm_up_steps=arguments.warm_up_steps)
    model = _model(arguments, clock)
    best_epoch = _train(model, data, clock, arguments)
    history = _dataset(data.full)
    seconds = []
    for _ in range(arguments.prediction_repeats):
        started = perf_counter()
        recommended = _recommend(model, history, data.test["user"])
        seconds.append(perf_counter() - started)
    test = _figures(recommended, data.test)
    write_result(arguments, _PACKAGES, arguments.loss, data, clock, best_epoch, seconds, test)


class _ClockCallback(lightning.Callback):
    def __init__(self, clock: TrainingClock):
        self.clock = clock

    def __deepcopy__(self, _memo: dict) -> _ClockCallback:
        # RecTools trains with a deep copy of its trainer; the clock has to stay the one that is read afterwards.
        return self

    def on_train_epoch_start(self, _trainer, _module) -> None:
        self.clock.start_epoch()

    def on_train_batch_end(self, _trainer, _module, _outputs, batch, _batch_index) -> None:
        self.clock.step(len(batch["x"]))


def _model(arguments: argparse.Namespace, clock: TrainingClock) -> SASRecModel:
    def trainer() -> lightning.Trainer:
        return lightning.Trainer(
            accelerator="cpu",
            max_epochs=1,
            limit_train_batches=arguments.max_steps,
            callbacks=[_ClockCallback(clock)],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )

    return SASRecModel(
        n_factors=arguments.width,
        n_blocks=arguments.blocks,
        n_heads=arguments.heads,
        session_max_len=arguments.length,
        batch_size=arguments.batch,
        loss=arguments.loss,
        n_negatives=arguments.negatives,
        dropout_rate=arguments.dropout,
        lr=arguments.learning_rate,
        recommend_batch_size=arguments.prediction_batch,
        recommend_torch_device="cpu",
        get_trainer_func=trainer,
    )


def _train(model: SASRecModel, data: LeaveOneOut, clock: TrainingClock, arguments: argparse.Namespace) -> int:
    """Train epoch by epoch, leave the best epoch's weights in the model and return its number."""
    learned, history = _dataset(data.learned), _dataset(data.train)
    best_epoch, best_recall, best_weights = 0, -1.0, None
    for epoch in range(1, arguments.epochs + 1):
        model.fit_partial(learned, min_epochs=1, max_epochs=1)
        is_better = True
        if not arguments.train_includes_validation:
            figures = _figures(_recommend(model, history, data.validation["user"]), data.validation)
            clock.epochs[-1]["validation"] = figures
            is_better = figures[f"recall@{CUTOFF}"] > best_recall
            best_recall = max(best_recall, figures[f"recall@{CUTOFF}"])
        print(epoch_line(clock.epochs[-1]), flush=True)
        if is_better:
            best_epoch, best_weights = epoch, deepcopy(model.torch_model.state_dict())
        elif arguments.patience and epoch - best_epoch >= arguments.patience:
            break
    model.torch_model.load_state_dict(best_weights)
    return best_epoch


def _dataset(events: pd.DataFrame) -> Dataset:
    # RecTools orders by time only; the positions of a user are used as days.
    interactions = pd.DataFrame(
        {
            Columns.User: events["user"],
            Columns.Item: events["item"],
            Columns.Weight: 1.0,
            Columns.Datetime: pd.Timestamp("2000-01-01") + pd.to_timedelta(events["position"], unit="D"),
        }
    )
    return Dataset.construct(interactions)


def _recommend(model: SASRecModel, history: Dataset, users: pd.Series) -> pd.DataFrame:
    return model.recommend(
        users=users.to_numpy(),
        dataset=history,
        k=CUTOFF,
        filter_viewed=False,
        on_unsupported_targets="ignore",
    )


def _figures(recommended: pd.DataFrame, truth: pd.DataFrame) -> dict[str, float]:
    rows = pd.Index(truth["user"]).get_indexer(recommended[Columns.User])
    recommended_UK = np.full((len(truth), CUTOFF), -1, dtype=np.int64)
    recommended_UK[rows, recommended[Columns.Rank].to_numpy() - 1] = recommended[Columns.Item].to_numpy()
    return recall_and_ndcg(recommended_UK, truth["item"].to_numpy())


if __name__ == "__main__":
    main()
