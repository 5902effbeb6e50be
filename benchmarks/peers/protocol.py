"""What both peer benchmarks share, so that their figures mean the same: arguments, data, clock, metrics, result file.

Imports nothing of the platform: it runs in a peer's environment, which has numpy, pandas and pyarrow.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pandas as pd

CUTOFF = 10


def argument_parser(description: str | None) -> argparse.ArgumentParser:
    """The arguments that every peer takes; a script adds its own."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder written by benchmarks.peers.prepare")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--patience", type=int, default=0, help="epochs without a better validation, 0 = never stop")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--blocks", type=int, default=2)
    parser.add_argument("--heads", type=int, default=2)
    parser.add_argument("--length", type=int, default=50)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--negatives", type=int, default=256)
    parser.add_argument("--dropout", type=float, default=0.2)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prediction-batch", type=int, default=256)
    parser.add_argument("--prediction-repeats", type=int, default=3, help="test predictions to take the median of")
    parser.add_argument("--warm-up-steps", type=int, default=10, help="first steps left out of sequences/s")
    parser.add_argument("--max-steps", type=int, help="steps an epoch at most, for trying out")
    parser.add_argument(
        "--train-includes-validation",
        action="store_true",
        help="learn from the validation items too; nothing to select by is left, so the last epoch is tested",
    )
    return parser


def parse(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    arguments = parser.parse_args(argv)
    if arguments.train_includes_validation and arguments.patience:
        parser.error("--patience needs a validation item that was not trained on: drop --train-includes-validation")
    for name in ("epochs", "prediction_repeats"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name.replace('_', '-')} is {getattr(arguments, name)}, at least 1 is needed")
    return arguments


@dataclass(frozen=True, kw_only=True)
class LeaveOneOut:
    """The three files of a data folder.

    `learned` is what a model trains on (user, item, position), `train` what it is validated from and `full` what it
    is tested from: all but the last item.
    """

    learned: pd.DataFrame
    train: pd.DataFrame
    full: pd.DataFrame
    validation: pd.DataFrame
    test: pd.DataFrame

    @classmethod
    def read(cls, folder: Path, train_includes_validation: bool) -> LeaveOneOut:
        train = _read(folder / "train.parquet", ["user", "item", "position"])
        validation = _read(folder / "validation.parquet", ["user", "item"])
        test = _read(folder / "test.parquet", ["user", "item"])
        last = train.groupby("user")["position"].max()
        if not (set(test["user"]) == set(validation["user"]) <= set(last.index)):
            raise ValueError(f"{folder}: validation and test must have the same users, each with a training event")
        appended = validation.assign(position=validation["user"].map(last) + 1)
        full = pd.concat([train, appended]).sort_values(["user", "position"], ignore_index=True)
        learned = full if train_includes_validation else train
        return cls(learned=learned, train=train, full=full, validation=validation, test=test)

    @property
    def training_sequences(self) -> int:
        """Users with at least two events to learn from: one sequence each, whatever the library cuts it to."""
        return int((self.learned["user"].value_counts() >= 2).sum())

    @property
    def items(self) -> int:
        """Size of the catalog: items are numbered from 0, untrained ones included."""
        return int(max(part["item"].max() for part in (self.full, self.test))) + 1

    def sizes(self) -> dict[str, int]:
        return {
            "users": int(self.learned["user"].nunique()),
            "items": self.items,
            "items_trained": int(self.learned["item"].nunique()),
            "training_events": len(self.learned),
            "training_sequences": self.training_sequences,
            "test_users": len(self.test),
        }


def _read(path: Path, columns: list[str]) -> pd.DataFrame:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: write it with benchmarks.peers.prepare")
    frame = pd.read_parquet(path)
    missing = set(columns) - set(frame.columns)
    if missing:
        raise ValueError(f"{path} lacks {sorted(missing)}, it has {list(frame.columns)}")
    keys = [column for column in ("user", "position") if column in columns]
    return frame[columns].astype("int64").sort_values(keys, ignore_index=True)


@dataclass(kw_only=True)
class TrainingClock:
    """Seconds and sequences of optimizer steps; validation, checkpoints and data preparation are outside."""

    warm_up_steps: int
    epochs: list[dict[str, Any]] = field(default_factory=list)
    steps: int = 0
    steady_seconds: float = 0.0
    steady_sequences: int = 0
    _epoch_started: float = 0.0
    _last_step: float = 0.0

    def start_epoch(self) -> None:
        self._epoch_started = self._last_step = perf_counter()
        self.epochs.append({"epoch": len(self.epochs) + 1, "sequences": 0, "seconds": 0.0})

    def step(self, sequences: int) -> None:
        now = perf_counter()
        self.steps += 1
        if self.steps > self.warm_up_steps:
            self.steady_seconds += now - self._last_step
            self.steady_sequences += sequences
        self._last_step = now
        self.epochs[-1]["sequences"] += sequences
        self.epochs[-1]["seconds"] = now - self._epoch_started

    def sequences_per_second(self) -> float | None:
        """None when no step came after the warm-up."""
        return self.steady_sequences / self.steady_seconds if self.steady_sequences else None


def recall_and_ndcg(recommended_UK: np.ndarray, truth_U: np.ndarray) -> dict[str, float]:
    """Recall@K and NDCG@K of one true item per user, best recommendation first; -1 fills what was not recommended."""
    hits_UK = recommended_UK == truth_U[:, None]
    discounts_K = 1 / np.log2(np.arange(2, recommended_UK.shape[1] + 2))
    cutoff = recommended_UK.shape[1]
    return {
        f"recall@{cutoff}": float(hits_UK.any(axis=1).mean()),
        f"ndcg@{cutoff}": float((hits_UK * discounts_K).sum(axis=1).mean()),
    }


def epoch_line(epoch: dict[str, Any]) -> str:
    speed = epoch["sequences"] / epoch["seconds"]
    figures = ", ".join(f"{name} {value:.4f}" for name, value in epoch.get("validation", {}).items())
    return f"epoch {epoch['epoch']}: {epoch['seconds']:.1f} s, {speed:,.0f} sequences/s, validation {figures or '-'}"


def write_result(
    arguments: argparse.Namespace,
    packages: Sequence[str],
    loss: str,
    data: LeaveOneOut,
    clock: TrainingClock,
    best_epoch: int,
    prediction_seconds: Sequence[float],
    test: dict[str, float],
) -> None:
    """Write everything that was measured as one JSON object to `arguments.out`."""
    settings = {name: value for name, value in vars(arguments).items() if name not in ("data", "out")}
    median_seconds = float(np.median(prediction_seconds))
    result = {
        "library": packages[0],
        "versions": {"python": platform.python_version()} | {name: version(name) for name in packages},
        "data": arguments.data.name,
        "loss": loss,
        "settings": settings,
        "sizes": data.sizes(),
        "training": {
            "sequences_per_second": clock.sequences_per_second(),
            "seconds": sum(epoch["seconds"] for epoch in clock.epochs),
            "epochs": clock.epochs,
            "best_epoch": best_epoch,
        },
        "prediction": {
            "users_per_second": len(data.test) / median_seconds,
            "seconds": list(prediction_seconds),
        },
        "test": test,
        # Linux counts ru_maxrss in KiB.
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps({name: result[name] for name in ("library", "training", "prediction", "test")}, indent=2))
