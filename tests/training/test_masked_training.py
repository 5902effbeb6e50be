"""BERT4Rec through the whole loop: it learns to tell masked items, is asked for the next one, and survives a kill."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from precise_core.models.config import ModelConfig
from precise_core.training.checkpoint import Checkpoint
from precise_core.training.validation import NDCG
from precise_core.training.watching import Progress
from precise_core.warehouse.reader import DeltaSnapshot
from tests.torch_world import LENGTH, StopAt, tiny_model, universal_training, world_snapshot


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def windows(tmp_path_factory: pytest.TempPathFactory) -> DeltaSnapshot:
    return world_snapshot(tmp_path_factory.mktemp("world") / "training_windows")


def bert4rec() -> ModelConfig:
    encoder = {"kind": "bert4rec", "layers": 1, "heads": 2, "ffn_width": 16, "dropout": 0.0, "max_length": LENGTH}
    return tiny_model("pool", encoder=encoder, prediction="masked_item")


def run(windows: DeltaSnapshot, out: Path, progress: Progress | None = None, **changes: Any) -> Checkpoint:
    return universal_training(windows, out, bert4rec(), progress=progress, **changes)


def weights(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    return checkpoint.load_model().state_dict()


def test_masked_items_teach_what_comes_next(windows: DeltaSnapshot, tmp_path: Path) -> None:
    """Two truth items out of twenty: at random about .35, by the group alone about .57."""
    checkpoint = run(windows, tmp_path, epochs=12, batch_size=8, patience=12)
    before = next(line[NDCG] for line in checkpoint.metrics_log() if NDCG in line)
    assert before < 0.6 and checkpoint.manifest.metrics[NDCG] > 0.8
    untrained = Checkpoint.open(tmp_path / str(checkpoint.manifest.parent))
    assert not torch.equal(weights(checkpoint)["mask_vector_D"], weights(untrained)["mask_vector_D"])


def test_a_killed_masked_training_continues_at_the_exact_step(windows: DeltaSnapshot, tmp_path: Path) -> None:
    whole = run(windows, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(windows, tmp_path / "killed", progress=StopAt(6))
    resumed = run(windows, tmp_path / "killed")
    assert resumed.model_version == whole.model_version
    ours = weights(resumed)
    assert all(torch.equal(value, ours[name]) for name, value in weights(whole).items())
