"""A two-rank training on a cluster, one rank of which is killed: `python -m tests.dying_rank FOLDER`.

A process of its own, because one JVM has one master, and that of the other tests is not a cluster.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import torch

from precise_core.errors import PreciseError
from precise_core.feed.config import FeedConfig
from precise_core.models.config import ModelConfig
from precise_core.training import collectives as distribution
from precise_core.training.launch import run_on_ranks
from precise_core.training.setup import TrainingInputs
from precise_core.training.universal import train_universal
from precise_core.training.watching import NullProgress, Progress
from precise_core.warehouse.config import SparkConfig
from precise_core.warehouse.reader import DeltaSnapshot
from precise_core.warehouse.session import get_session
from tests.torch_world import LENGTH, tiny_model, tiny_universal, world_catalog

ARROW = FeedConfig(reader="arrow")


def steady_model() -> ModelConfig:
    """Without dropout, which no two ranks draw as one process does, nor the experts' balance within each rank."""
    encoder = {"layers": 1, "heads": 2, "ffn_width": 16, "dropout": 0.0, "max_length": LENGTH}
    fusion = tiny_model().fusion.model_copy(update={"id_dropout": 0.0, "balance_weight": 0.0})
    return tiny_model(encoder=encoder, fusion=fusion)


class SlowProgress(NullProgress):
    """Leaves time to kill a rank between two steps."""

    def advance(self, n: int, **info: float) -> None:  # noqa: ARG002
        time.sleep(0.15 * n)


def train(windows: str, out: str, progress: Progress | None = None, **changes: object) -> str:
    """What each rank does; leaves its process id in ``out``."""
    torch.set_num_threads(1)
    Path(out).mkdir(exist_ok=True)
    Path(out, f"rank-{distribution.rank()}").write_text(str(os.getpid()))
    checkpoint = train_universal(
        TrainingInputs(
            windows=DeltaSnapshot(windows),
            catalog=world_catalog(),
            out=Path(out),
            seed=5,
            versions={},
            progress=progress or NullProgress(),
            feed_config=ARROW,
        ),
        model_config=steady_model(),
        config=tiny_universal(**{"epochs": 3, "batch_size": 16, **changes}),
    )
    return checkpoint.model_version


def fail(**_: object) -> str:
    raise PreciseError("item_index 90 is not in the catalog")


def _kill_in_the_middle(out: Path, killed_at: list[float]) -> None:
    """SIGKILL for rank 1 once a step has been saved."""
    while not list(out.glob(".resume-all/step-*")):
        time.sleep(0.02)
    os.kill(int((out / "rank-1").read_text()), signal.SIGKILL)
    killed_at.append(time.monotonic())


def main(folder: Path) -> None:
    spark = get_session("dying-rank", SparkConfig(master="local-cluster[2,1,1024]", driver_memory="1g"))
    windows, out = str(folder / "training_windows"), folder / "killed"
    told: dict[str, object] = {}
    killed_at: list[float] = []
    threading.Thread(target=_kill_in_the_middle, args=(out, killed_at), daemon=True).start()
    try:
        run_on_ranks(spark, 2, train, 120, windows=windows, out=str(out), progress=SlowProgress())
    except PreciseError as error:
        told |= {"kind": type(error).__name__, "error": str(error), "seconds": time.monotonic() - killed_at[0]}
    told["saved"] = [file.parent.name for file in out.glob(".resume-all/step-*/state.json")]
    told["resumed"] = run_on_ranks(spark, 2, train, 120, windows=windows, out=str(out))
    (folder / "told.json").write_text(json.dumps(told))
    spark.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
