"""RePlay's SasRec: `python -m benchmarks.peers.replay_sasrec --data DATA --out FILE.json --epochs 40 --patience 5`.

Run from the repository's root with the interpreter of RePlay's environment (README.md beside this file). By default
the negatives are shared by the whole batch, RePlay's faster mode.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

import lightning
import numpy as np
import pandas as pd
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from replay.data import FeatureHint, FeatureSource, FeatureType
from replay.data.nn import ParquetModule, TensorFeatureInfo, TensorFeatureSource, TensorSchema
from replay.nn.lightning import LightningModule
from replay.nn.lightning.callback import ComputeMetricsCallback, TorchTopItemsCallback
from replay.nn.lightning.optimizer import OptimizerFactory
from replay.nn.loss import CE, CESampled
from replay.nn.sequential import LengthBucketedQueryEncoder, SasRec
from replay.nn.transform import AdaptiveTrimTransform, UniformNegativeSamplingTransform
from replay.nn.transform.template import make_default_sasrec_transforms

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

_PACKAGES = ("replay-rec", "torch", "lightning", "numpy", "pandas", "pyarrow")
_SELECTED_BY = f"recall@{CUTOFF}"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--loss", choices=["sampled_softmax", "softmax"], default="sampled_softmax")
    parser.add_argument("--per-position", action="store_true", help="draw negatives for each position, not each batch")
    parser.add_argument(
        "--bucket-rows",
        type=int,
        default=0,
        help="RePlay's own trimming: encode a training batch in buckets of this many rows of like length, cut "
        "prediction batches to their longest row; 0 = off, as RePlay's default model",
    )
    arguments = parse(parser, argv)
    torch.set_num_threads(arguments.threads)
    lightning.seed_everything(arguments.seed)
    warnings.filterwarnings("ignore", message="The following dataset paths aren't provided")
    warnings.filterwarnings("ignore", module="replay|lightning")
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)

    data = LeaveOneOut.read(arguments.data, arguments.train_includes_validation)
    clock = TrainingClock(warm_up_steps=arguments.warm_up_steps)
    schema = _schema(data.items, arguments.width)
    module = LightningModule(
        _model(schema, arguments), optimizer_factory=OptimizerFactory(learning_rate=arguments.learning_rate)
    )
    with tempfile.TemporaryDirectory() as folder:
        batches = _batches(data, schema, arguments, Path(folder))
        best_epoch = _train(module, batches, clock, arguments, Path(folder))
        seconds = []
        for _ in range(arguments.prediction_repeats):
            started = perf_counter()
            users, recommended_UK = _recommend(module, batches)
            seconds.append(perf_counter() - started)
    truth = data.test.set_index("user")["item"].loc[users]
    test = recall_and_ndcg(recommended_UK, truth.to_numpy())
    loss = arguments.loss
    if loss == "sampled_softmax":
        loss += ", negatives per position" if arguments.per_position else ", negatives shared in the batch"
    write_result(arguments, _PACKAGES, loss, data, clock, best_epoch, seconds, test)


class _ClockCallback(lightning.Callback):
    def __init__(self, clock: TrainingClock):
        self.clock = clock

    def on_train_epoch_start(self, _trainer, _module) -> None:
        self.clock.start_epoch()

    def on_train_batch_end(self, _trainer, _module, _outputs, batch, _batch_index) -> None:
        self.clock.step(len(batch["padding_mask"]))

    def on_train_epoch_end(self, trainer, _module) -> None:
        # Lightning validates inside the training epoch, so the figures are there by now.
        names = (f"recall@{CUTOFF}", f"ndcg@{CUTOFF}")
        figures = {name: float(trainer.callback_metrics[name]) for name in names if name in trainer.callback_metrics}
        if figures:
            self.clock.epochs[-1]["validation"] = figures
        print(epoch_line(self.clock.epochs[-1]), flush=True)


class _PerPositionNegatives(torch.nn.Module):
    """Uniform negatives for each position: negative_labels of shape (batch, length, negatives)."""

    def __init__(self, items: int, negatives: int):
        super().__init__()
        self.items = items
        self.negatives = negatives

    def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        shape = (*batch["padding_mask"].shape, self.negatives)
        return batch | {"negative_labels": torch.randint(self.items, shape, device=batch["padding_mask"].device)}


def _schema(items: int, width: int) -> TensorSchema:
    return TensorSchema(
        [
            TensorFeatureInfo(
                "item_id",
                is_seq=True,
                feature_type=FeatureType.CATEGORICAL,
                embedding_dim=width,
                padding_value=items,
                cardinality=items,
                feature_hint=FeatureHint.ITEM_ID,
                feature_sources=[TensorFeatureSource(FeatureSource.INTERACTIONS, "item_id")],
            )
        ]
    )


def _model(schema: TensorSchema, arguments: argparse.Namespace) -> SasRec:
    standard = SasRec.from_params(
        schema,
        embedding_dim=arguments.width,
        num_heads=arguments.heads,
        num_blocks=arguments.blocks,
        max_sequence_length=arguments.length,
        dropout=arguments.dropout,
    )
    if arguments.bucket_rows:
        standard.body.encoder = LengthBucketedQueryEncoder(standard.body.encoder, arguments.bucket_rows)
    padding = schema.item_id_features.item().padding_value
    return SasRec(standard.body, CESampled() if arguments.loss == "sampled_softmax" else CE(ignore_index=padding))


def _batches(data: LeaveOneOut, schema: TensorSchema, arguments: argparse.Namespace, folder: Path) -> ParquetModule:
    learned = _sequences(data.learned, arguments.length + 1)
    # The inputs of a sequence of one event and its target cannot both be there.
    learned = learned[learned["item_id"].map(len) >= 2]
    validation = _sequences(data.train, arguments.length).merge(data.validation.set_axis(["user_id", "truth"], axis=1))
    validation["ground_truth"] = validation.pop("truth").map(lambda item: [item])
    test = _sequences(data.full, arguments.length)
    test = test[test["user_id"].isin(data.test["user"])]
    for name, sequences in (("train", learned), ("validate", validation), ("predict", test)):
        sequences.to_parquet(folder / f"{name}.parquet", index=False)

    rows = {"train": arguments.batch, "validate": arguments.prediction_batch, "predict": arguments.prediction_batch}
    item = {"shape": arguments.length, "padding": data.items}
    return ParquetModule(
        batch_size=rows,
        metadata={
            "train": {"user_id": {}, "item_id": item | {"shape": arguments.length + 1}},
            "validate": {"user_id": {}, "item_id": item, "ground_truth": {"shape": 1, "padding": -1}},
            "predict": {"user_id": {}, "item_id": item},
        },
        transforms=_transforms(schema, data.items, arguments),
        train_path=str(folder / "train.parquet"),
        validate_path=str(folder / "validate.parquet"),
        predict_path=str(folder / "predict.parquet"),
    )


def _transforms(schema: TensorSchema, items: int, arguments: argparse.Namespace) -> dict[str, list[torch.nn.Module]]:
    transforms = make_default_sasrec_transforms(schema)
    if arguments.loss == "sampled_softmax":
        sampler = _PerPositionNegatives if arguments.per_position else UniformNegativeSamplingTransform
        transforms["train"].append(sampler(items, arguments.negatives))
    if arguments.bucket_rows:
        for stage in ("validate", "predict"):
            # Before the last transform, which moves the features into a dictionary of their own.
            transforms[stage].insert(-1, AdaptiveTrimTransform("item_id"))
    return transforms


def _sequences(events: pd.DataFrame, length: int) -> pd.DataFrame:
    """One row per user: user_id and item_id, the list of the last `length` items, oldest first."""
    recent = events.groupby("user").tail(length)
    sequences = recent.groupby("user")["item"].agg(list).reset_index()
    return sequences.set_axis(["user_id", "item_id"], axis=1)


def _train(
    module: LightningModule,
    batches: ParquetModule,
    clock: TrainingClock,
    arguments: argparse.Namespace,
    folder: Path,
) -> int:
    """Train, leave the best epoch's weights in the module and return its number."""
    validates = not arguments.train_includes_validation
    callbacks: list[lightning.Callback] = []
    if validates:
        callbacks.append(ComputeMetricsCallback(metrics=["recall", "ndcg"], ks=[CUTOFF], verbose=False))
    callbacks.append(_ClockCallback(clock))
    if validates:
        best = ModelCheckpoint(dirpath=folder, filename="{epoch}", monitor=_SELECTED_BY, mode="max")
        callbacks.append(best)
    if arguments.patience:
        callbacks.append(EarlyStopping(monitor=_SELECTED_BY, mode="max", patience=arguments.patience))
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=arguments.epochs,
        limit_train_batches=arguments.max_steps,
        limit_val_batches=None if validates else 0,
        num_sanity_val_steps=0,
        callbacks=callbacks,
        enable_checkpointing=validates,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, batches)
    if not validates:
        return arguments.epochs
    checkpoint = torch.load(best.best_model_path, weights_only=False)
    module.load_state_dict(checkpoint["state_dict"])
    return int(checkpoint["epoch"]) + 1


def _recommend(module: LightningModule, batches: ParquetModule) -> tuple[np.ndarray, np.ndarray]:
    """Users and their best items, in the same order: shapes (U,) and (U, CUTOFF)."""
    top_items = TorchTopItemsCallback(top_k=CUTOFF, query_column="user_id")
    trainer = lightning.Trainer(
        accelerator="cpu", callbacks=[top_items], logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    trainer.predict(module, batches, return_predictions=False)
    users, items, _ = top_items.get_result()
    return users.numpy(), items.numpy()


if __name__ == "__main__":
    main()
