"""What a training cannot learn from, or must not go on with, is one clear message; what was good before stays."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from precise_core.command import EXIT_FAILED
from precise_core.config import load_config
from precise_core.errors import NOT_KEPT, CheckpointError, ConfigError, NothingToLearnError, TrainingError
from precise_core.feed.windows import SequenceBatch, WindowFeed
from precise_core.models.precise import Precise
from precise_core.settings import Settings
from precise_core.store.sums import write_sums
from precise_core.training.checkpoint import UNTRAINED, Checkpoint, latest
from precise_core.training.loop import BatchLoss, Training, run_training
from precise_core.training.resume import ResumeStore
from precise_core.training.setup import TrainingInputs
from precise_core.training.targeted import train_targeted
from precise_core.training.validation import NDCG
from precise_core.training.watching import NullProgress
from precise_core.warehouse.reader import DeltaSnapshot
from schemas import RUNS
from tests import vector_world
from tests.night import CONFIG, copy_of, run, said
from tests.torch_world import (
    ARROW,
    EXPLOSIVE,
    StopAt,
    tiny_model,
    tiny_targeted,
    tiny_universal,
    universal_training,
    world_catalog,
    world_snapshot,
    write_windows,
)

# Short trainings by the jobs. Their exploding twins end in the second step.
SHORT = ("feed.reader=arrow", "model.fusion.token_init=random", "universal.epochs=1", "targeted.epochs=1")


def run_short(job: str, warehouse: Path, *changes: str) -> int:
    return run(job, warehouse, *(part for change in (*SHORT, *changes) for part in ("--set", change)))


def exploding(stage: str) -> list[str]:
    return [f"{stage}.checkpoint_every_steps=1", *(f"{stage}.optimizer.{key}={EXPLOSIVE[key]}" for key in EXPLOSIVE)]


def last_run(warehouse: Path) -> dict[str, Any]:
    return max(vector_world.read(warehouse, RUNS), key=lambda row: row["started_at"])


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def windows(tmp_path_factory: pytest.TempPathFactory) -> DeltaSnapshot:
    return world_snapshot(tmp_path_factory.mktemp("world") / "training_windows")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A warehouse of the tiny world with a checkpoint in use for `all` and for a task; `share` has no windows."""
    torch.set_num_threads(1)
    warehouse = tmp_path_factory.mktemp("trained") / "warehouse"
    vector_world.build(warehouse)
    world_snapshot(warehouse / "tables" / "training_windows", ("all", "click_articles"))
    for job in ("train_universal", "train_targeted"):
        assert run_short(job, warehouse) == 0
    return warehouse


def test_a_loss_that_is_not_finite_keeps_the_last_good_state(windows: DeltaSnapshot, tmp_path: Path) -> None:
    where = r"universal all: loss is not finite at epoch 1, batch 2 \(step 2\), windows \['all/train/u/\d+'"
    with pytest.raises(TrainingError, match=where + r".* the last good state \(step 1\) .* kept; lower optimizer"):
        universal_training(windows, tmp_path, optimizer=EXPLOSIVE, checkpoint_every_steps=1)
    assert [folder.name for folder in (tmp_path / ".resume-all").iterdir()] == ["step-000000001"]
    assert not list(tmp_path.glob("universal-all-[0-9a-f]*"))


@pytest.mark.parametrize(("stage", "task"), [("universal", "all"), ("targeted", "click_articles")])
def test_a_job_whose_loss_is_not_finite_fails_and_leaves_the_checkpoint_in_use(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], stage: str, task: str
) -> None:
    warehouse = copy_of(trained, tmp_path / "warehouse")
    checkpoints = warehouse / "checkpoints"
    good, untrained = latest(checkpoints, task), latest(checkpoints, UNTRAINED)
    capsys.readouterr()
    assert run_short(f"train_{stage}", warehouse, *exploding(stage)) == EXIT_FAILED

    message = f"{stage} {task}: loss is not finite at epoch 1, batch 2 (step 2), windows "
    assert f"train_{stage} failed: {message}['{task}/train/u/" in said(capsys)
    failed = last_run(warehouse)
    assert (failed["job"], failed["status"]) == (f"train_{stage}", "failed")
    assert failed["error"].startswith(f"TrainingError: {message}{NOT_KEPT}; ") and "/u/" not in failed["error"]
    assert "the last good state (step 1) and the published checkpoint are kept; lower opt" in failed["error"]
    assert f"checkpoint:{task}" not in dict(failed["artefacts"])

    kept = latest(checkpoints, task)
    assert kept.model_version == good.model_version
    assert latest(checkpoints, UNTRAINED).model_version == untrained.model_version
    assert all(value.isfinite().all() for value in kept.load_model().parameters())
    assert [folder.name for folder in (checkpoints / f".resume-{task}").iterdir()] == ["step-000000001"]
    # The good configuration starts anew, not from the state of the bad one, and comes to the same model again.
    assert run_short(f"train_{stage}", warehouse) == 0
    assert latest(checkpoints, task).model_version == good.model_version
    assert last_run(warehouse)["status"] == "succeeded"


def test_a_gradient_that_is_not_finite_changes_nothing_and_names_its_windows(
    windows: DeltaSnapshot, tmp_path: Path
) -> None:
    model = Precise(tiny_model(), 22, torch.arange(10, 42), "universal", 3)
    before = {name: value.clone() for name, value in model.state_dict().items()}

    def loss(batch: SequenceBatch, generator: torch.Generator) -> BatchLoss:  # noqa: ARG001
        return BatchLoss((model.fusion.id_table.weight * 0).sum().sqrt(), len(batch))  # 0, of infinite slope

    training = Training(
        description="universal all",
        model=model,
        loss=loss,
        feed=WindowFeed(windows, "all", "train", 32, seed=5, config=ARROW),
        validate=lambda: {NDCG: 0.5},
        config=tiny_universal(accumulate_batches=2),
        resume=ResumeStore(tmp_path, {}),
        seed=5,
        progress=NullProgress(),
    )
    message = r"gradient is not finite: fusion\.id_table\.weight; at epoch 1, batch 1 to 2 \(step 1\), windows \['all/"
    with pytest.raises(TrainingError, match=message):
        run_training(training)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_an_empty_training_set(tmp_path: Path) -> None:
    write_windows(tmp_path / "training_windows", [([2, 3], [1, 2], [4])], split="validation")
    with pytest.raises(NothingToLearnError, match="task 'all' has 0 train windows"):
        universal_training(DeltaSnapshot(tmp_path / "training_windows"), tmp_path / "out")


@pytest.mark.parametrize(
    "window",
    [([2], [7], []), ([2, 3], [7, 7], []), ([2, 1], [7, 8], [])],
    ids=["every sequence of length one", "every sequence at one instant", "every next item unknown"],
)
def test_windows_without_anything_to_predict(tmp_path: Path, window: Any) -> None:
    write_windows(tmp_path / "training_windows", [window] * 9)
    write_windows(tmp_path / "training_windows", [([2, 3], [1, 2], [4])], split="validation")
    with pytest.raises(NothingToLearnError, match="table training_windows.*task 'all', train: .*nothing to predict"):
        universal_training(DeltaSnapshot(tmp_path / "training_windows"), tmp_path / "out")
    assert not list((tmp_path / "out").glob("universal-all-[0-9a-f]*"))


def test_windows_of_items_without_vocabulary(tmp_path: Path) -> None:
    write_windows(tmp_path / "training_windows", [([1, 1], [7, 8], [])] * 9)
    write_windows(tmp_path / "training_windows", [([2, 3], [1, 2], [4])], split="validation")
    with pytest.raises(NothingToLearnError, match="no item of the vocabulary"):
        universal_training(DeltaSnapshot(tmp_path / "training_windows"), tmp_path / "out")


def test_a_task_without_positives(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No interaction is a `share`: left out of a night, an error where it is asked for by name."""
    warehouse = copy_of(trained, tmp_path / "warehouse")
    assert run_short("train_targeted", warehouse) == 0
    assert re.search(r"share: skipped, table training_windows, .*task 'share' has 0 train windows", said(capsys))
    assert last_run(warehouse)["rows_rejected"] == 1
    flags = (part for change in SHORT for part in ("--set", change))
    assert run("train_targeted", warehouse, "--task", "share", *flags) == EXIT_FAILED
    assert re.search(r"train_targeted failed: .*task 'share' has 0 train windows", said(capsys))


@pytest.mark.parametrize(
    "window",
    [([2], [7], []), ([2, 3], [7, 7], []), ([2, 1], [7, 8], [])],
    ids=["every sequence of length one", "every sequence at one instant", "every next item unknown"],
)
def test_a_task_whose_windows_have_nothing_to_predict(windows: DeltaSnapshot, tmp_path: Path, window: Any) -> None:
    universal = universal_training(windows, tmp_path / "universal", epochs=1)
    write_windows(tmp_path / "training_windows", [window] * 9, "click")
    write_windows(tmp_path / "training_windows", [([2, 3], [1, 2], [4])], "click", "validation")
    with pytest.raises(NothingToLearnError, match="task 'click', train: .*nothing to predict"):
        train_targeted(
            TrainingInputs(
                windows=DeltaSnapshot(tmp_path / "training_windows"),
                catalog=world_catalog(),
                task="click",
                out=tmp_path / "out",
                seed=5,
                versions={},
            ),
            config=tiny_targeted(),
            universal=universal,
        )


def test_more_active_experts_than_experts() -> None:
    with pytest.raises(ConfigError, match=r"top_k 9.* num_experts 3"):
        load_config(CONFIG, Settings, ["model.fusion.top_k=9", "model.fusion.num_experts=3"])


def test_a_checkpoint_of_another_format(windows: DeltaSnapshot, tmp_path: Path) -> None:
    checkpoint = universal_training(windows, tmp_path, epochs=0)
    manifest = checkpoint.folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"format_version": 3', '"format_version": 1'))
    with pytest.raises(CheckpointError, match=r"manifest\.json: changed since it was written"):
        Checkpoint.open(checkpoint.folder)
    write_sums(checkpoint.folder)
    with pytest.raises(CheckpointError, match="has format 1, this version reads format 3; train again"):
        Checkpoint.open(checkpoint.folder)


def test_a_damaged_state_says_what_to_delete(windows: DeltaSnapshot, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        universal_training(windows, tmp_path, progress=StopAt(6))
    state = next((tmp_path / ".resume-all").glob("*/state.safetensors"))
    state.write_bytes(state.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"damaged; delete .*\.resume-all to train from the start"):
        universal_training(windows, tmp_path)


def test_a_state_with_other_counters_is_damaged_too(windows: DeltaSnapshot, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        universal_training(windows, tmp_path, progress=StopAt(6))
    state = next((tmp_path / ".resume-all").glob("*/state.json"))
    state.write_text(json.dumps(json.loads(state.read_text()) | {"another": 1}))
    with pytest.raises(CheckpointError, match=r"damaged; delete .*\.resume-all to train from the start"):
        universal_training(windows, tmp_path)


def test_a_state_of_another_format_is_not_read(
    windows: DeltaSnapshot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(KeyboardInterrupt):
        universal_training(windows, tmp_path, progress=StopAt(6))
    steps: list[int] = []

    class Recorder(NullProgress):
        def advance(self, n: int, **info: float) -> None:  # noqa: ARG002
            steps.append(n)

    monkeypatch.setattr("precise_core.training.resume._FORMAT", 99)
    universal_training(windows, tmp_path, progress=Recorder())
    assert set(steps) == {0, 1} and sum(steps) == 20  # from the first step on
