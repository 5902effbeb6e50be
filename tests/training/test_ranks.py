"""Two ranks learn what one process learns; a rank that dies, or sees other files, is an error and never a hang."""

from __future__ import annotations

import json
import math
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from pyspark.sql import SparkSession

from precise_core.errors import PreciseError, TrainingError
from precise_core.feed.windows import SequenceBatch
from precise_core.models.precise import Precise
from precise_core.training.checkpoint import Checkpoint
from precise_core.training.config import OptimizerConfig
from precise_core.training.launch import run_on_ranks
from precise_core.training.loop import BatchLoss, Training, run_training
from precise_core.training.optimizer import Optimizer
from precise_core.training.resume import ResumeStore
from precise_core.training.setup import TrainingInputs
from precise_core.training.validation import NDCG, RECALL
from precise_core.training.watching import NullProgress
from precise_core.warehouse.reader import DeltaSnapshot
from tests import dying_rank
from tests.night import ROOT
from tests.torch_world import ARROW, tiny_universal, world_catalog, world_snapshot

EXPLOSIVE = {"learning_rate": 1e30, "warmup_steps": 0, "clip_norm": 1e30}


class Interrupted(NullProgress):
    """Ends the training after six steps."""

    done = 0

    def advance(self, n: int, **info: float) -> None:  # noqa: ARG002
        self.done += n
        if self.done == 6:
            raise KeyboardInterrupt


def _rank(rank: int, port: int, folder: str) -> None:
    """One rank: a whole training, then what must not hang."""
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    windows = f"{folder}/training_windows"
    told: dict[str, Any] = {"version": dying_rank.train(windows, f"{folder}/two")}
    try:
        dying_rank.train(windows, f"{folder}/explosive", optimizer=EXPLOSIVE)
    except TrainingError as error:
        told["not_finite"] = str(error)
    try:
        _train_badly_on_rank_1(windows, Path(folder, "bad"))
    except TrainingError as error:
        told["together"] = str(error)
    # The clocks of the ranks differ: one that decided by its own would leave the others waiting.
    late = {"epochs": 9, "max_minutes": 1e-9 if rank == 0 else 1e9}
    version = dying_rank.train(windows, f"{folder}/late", **late)
    told["out_of_time"] = Checkpoint.open(Path(folder, "late", version)).manifest.notes
    own = f"{folder}/own-{rank}"
    try:
        dying_rank.train(windows, own, Interrupted())
    except KeyboardInterrupt:
        try:
            dying_rank.train(windows, own)
        except TrainingError as error:
            told["not_shared"] = str(error)
    model = Checkpoint.open(Path(folder, "two", told["version"])).load_model()
    Optimizer(model, OptimizerConfig(sparse_above_rows=0))
    told["sparse"] = model.fusion.id_table.sparse
    Path(folder, f"rank-{rank}.json").write_text(json.dumps(told))
    dist.destroy_process_group()


def _train_badly_on_rank_1(windows: str, folder: Path) -> None:
    """By a loss that is finite of each window alone."""
    model = Precise(dying_rank.steady_model(), 22, torch.arange(10, 42), "universal", 3)
    table, catalog = DeltaSnapshot(windows), world_catalog()
    inputs = TrainingInputs(windows=table, catalog=catalog, out=folder, seed=5, versions={}, feed_config=ARROW)

    def loss(batch: SequenceBatch, generator: torch.Generator) -> BatchLoss:  # noqa: ARG001
        is_bad = dist.get_rank() == 1 and len(batch) > 1
        return BatchLoss(model.log_temperature * (math.nan if is_bad else 1.0), len(batch))

    run_training(
        Training(
            description="universal all",
            model=model,
            loss=loss,
            feed=inputs.window_feed("train", 16),
            validate=lambda: {NDCG: 0.5},
            config=tiny_universal(batch_size=16),
            resume=ResumeStore(folder, {}),
            seed=5,
            progress=NullProgress(),
        )
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """289 windows: of the last batch of one a rank has no share."""
    folder = tmp_path_factory.mktemp("ranks")
    world_snapshot(folder / "training_windows", train=289)
    return folder


@pytest.fixture(scope="module")
def told(folder: Path) -> list[dict[str, Any]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    mp.spawn(_rank, args=(port, str(folder)), nprocs=2)
    return [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in (0, 1)]


@pytest.fixture(scope="module")
def one(folder: Path) -> Checkpoint:
    version = dying_rank.train(str(folder / "training_windows"), str(folder / "one"))
    return Checkpoint.open(folder / "one" / version)


@pytest.fixture
def two(folder: Path, told: list[dict[str, Any]]) -> Checkpoint:
    return Checkpoint.open(folder / "two" / told[0]["version"])


def test_both_ranks_hold_one_model_that_has_learned(two: Checkpoint, told: list[dict[str, Any]]) -> None:
    assert told[0]["version"] == told[1]["version"]
    figures = [line[NDCG] for line in two.metrics_log() if NDCG in line]
    assert max(figures) > figures[0] + 0.1


def test_two_ranks_learn_what_one_process_learns(one: Checkpoint, two: Checkpoint) -> None:
    assert one.manifest.training["negatives"]["in_batch"] and one.manifest.training["negatives"]["logq_correction"]
    ours, theirs = two.metrics_log(), one.metrics_log()
    assert [(line["epoch"], line["step"]) for line in ours] == [(line["epoch"], line["step"]) for line in theirs]
    for name in ("loss", NDCG, RECALL):
        expected = [line[name] for line in theirs if name in line]
        assert len(expected) >= 4
        assert [line[name] for line in ours if name in line] == pytest.approx(expected, rel=1e-5)
    mine, yours = two.load_model().state_dict(), one.load_model().state_dict()
    for weights in (mine, yours):
        # A key's bias moves all scores of a softmax alike: its gradient is rounding, which Adam makes a step of.
        bias = weights["encoder.blocks.0.attention.key_value.bias"]
        bias[: len(bias) // 2] = 0
    for name, value in yours.items():
        torch.testing.assert_close(mine[name], value, rtol=1e-3, atol=1e-4, msg=name)


def test_ranks_stop_together_when_the_first_one_is_out_of_time(told: list[dict[str, Any]]) -> None:
    for rank in told:
        assert rank["out_of_time"] == ["stopped after epoch 1 of 9: max_minutes 1e-09 is used up"]


def test_a_loss_that_is_not_finite_ends_both_ranks_with_one_message(told: list[dict[str, Any]]) -> None:
    assert told[0]["not_finite"] == told[1]["not_finite"]
    assert "is not finite at epoch 1, batch" in told[0]["not_finite"]
    assert "windows ['all/train/u/" in told[0]["not_finite"]


def test_windows_that_are_bad_together_are_said_to_be_by_all_ranks(told: list[dict[str, Any]]) -> None:
    assert told[0]["together"] == told[1]["together"]
    assert "loss is not finite at epoch 1, batch 1 (step 1), windows ['all/train/u/" in told[0]["together"]
    assert "'] together; " in told[0]["together"]


def test_ranks_that_do_not_share_their_files_do_not_go_on(told: list[dict[str, Any]]) -> None:
    for rank in told:
        assert "different steps to continue from (rank 0: 4, rank 1: none)" in rank["not_shared"]
        assert "on shared storage" in rank["not_shared"]


def test_tables_stay_dense_on_several_ranks(told: list[dict[str, Any]]) -> None:
    assert [rank["sparse"] for rank in told] == [False, False]


def test_an_error_of_the_training_is_the_error_of_the_job(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # the ranks are processes of torchrun
    with pytest.raises(PreciseError, match="^item_index 90 is not in the catalog$"):
        run_on_ranks(spark, 2, dying_rank.fail, 60)


@pytest.mark.faults  # minutes
def test_a_killed_rank_fails_the_stage_and_the_same_call_resumes(two: Checkpoint, folder: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "SPARK_LOCAL_IP": "127.0.0.1", "OMP_NUM_THREADS": "1"}
    for name in ("PYSPARK_GATEWAY_PORT", "PYSPARK_GATEWAY_SECRET", "SPARK_HOME"):
        environment.pop(name, None)
    command = [sys.executable, "-m", "tests.dying_rank", str(folder)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    told = json.loads((folder / "told.json").read_text())
    assert told["kind"] == "TrainingError"
    assert "training on 2 ranks failed: a rank died" in told["error"]
    assert "run the same again to continue at the last saved step" in told["error"]
    assert "\n" not in told["error"] and "Traceback" not in told["error"]
    assert told["seconds"] < 60  # from the kill: noticed at once, not after the timeout of two minutes
    assert told["saved"] and told["saved"][0] != "step-000000000"
    assert told["resumed"] == two.model_version  # the SHA-256 of the parameters of the run that nobody killed
