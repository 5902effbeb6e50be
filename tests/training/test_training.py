"""Training learns, selects on validation, resumes at the exact step, and says why where it cannot."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from precise_core.errors import CheckpointError, TrainingError
from precise_core.models.catalog import TokenInit
from precise_core.models.precise import fuse_distinct
from precise_core.training.checkpoint import Checkpoint, latest
from precise_core.training.config import OptimizerConfig, TargetedConfig, UniversalConfig
from precise_core.training.optimizer import learning_rate_at
from precise_core.training.setup import TrainingInputs
from precise_core.training.targeted import train_targeted
from precise_core.training.universal import train_universal
from precise_core.training.validation import NDCG, ndcg_at_k, recall_at_k
from precise_core.training.watching import NullProgress, Progress
from precise_core.warehouse.reader import DeltaSnapshot
from tests.torch_world import (
    NUM_ITEMS,
    StopAt,
    grouped_windows,
    tiny_model,
    tiny_targeted,
    tiny_universal,
    world_catalog,
    world_snapshot,
    write_windows,
)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def windows(tmp_path_factory: pytest.TempPathFactory) -> DeltaSnapshot:
    return world_snapshot(tmp_path_factory.mktemp("world") / "training_windows", tasks=("all", "click"))


def run_universal(
    windows: DeltaSnapshot,
    out: Path,
    config: UniversalConfig | None = None,
    mode: str = "moe",
    progress: Progress | None = None,
    **model: object,
) -> Checkpoint:
    return train_universal(
        TrainingInputs(
            windows=windows,
            catalog=world_catalog(),
            out=out,
            seed=5,
            versions={"training_windows": windows.version},
            progress=progress or NullProgress(),
        ),
        model_config=tiny_model(mode, **model),
        config=config or tiny_universal(),
    )


def run_targeted(
    windows: DeltaSnapshot,
    universal: Checkpoint,
    out: Path,
    config: TargetedConfig | None = None,
    task: str = "click",
    progress: Progress | None = None,
) -> Checkpoint:
    return train_targeted(
        TrainingInputs(
            windows=windows,
            catalog=world_catalog(),
            task=task,
            out=out,
            seed=5,
            versions={"training_windows": windows.version},
            progress=progress or NullProgress(),
        ),
        config=config or tiny_targeted(),
        universal=universal,
    )


@pytest.fixture(scope="module")
def universal(windows: DeltaSnapshot, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    torch.set_num_threads(1)
    return run_universal(windows, tmp_path_factory.mktemp("checkpoints"), tiny_universal(epochs=6))


def weights(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    return checkpoint.load_model().state_dict()


def validation_lines(checkpoint: Checkpoint) -> list[dict[str, float]]:
    return [line for line in checkpoint.metrics_log() if NDCG in line]


def test_universal_training_learns_what_comes_next(universal: Checkpoint) -> None:
    lines = validation_lines(universal)
    assert lines[0]["epoch"] == 0
    best = universal.manifest.metrics[NDCG]
    assert best == max(line[NDCG] for line in lines)
    assert best > lines[0][NDCG] + 0.2
    assert best > 0.8  # two truth items out of twenty: at random about .35
    losses = [line["loss"] for line in universal.metrics_log() if "loss" in line]
    assert losses[-1] < losses[0]


def test_under_late_fusion_either_half_learns_what_comes_next(windows: DeltaSnapshot, tmp_path: Path) -> None:
    """And Targeted Training goes on from there, never worse."""
    universal = run_universal(windows, tmp_path, tiny_universal(epochs=6), late_fusion=True)
    assert universal.manifest.metrics[NDCG] > 0.8
    model, items = universal.load_model().eval(), torch.arange(2, NUM_ITEMS + 2)
    walks_BL = (items[:, None] + torch.arange(0, 8, 2) - 2) % NUM_ITEMS + 2
    next_B = (walks_BL[:, -1] - 2 + 2) % NUM_ITEMS  # in rows of e_ND
    e_BLD, e_ND = fuse_distinct(model, world_catalog(), walks_BL, items)
    h_BD = model.user_embeddings(e_BLD, torch.ones_like(walks_BL, dtype=torch.bool))
    for scores_BN in model.logits_of_parts(h_BD, e_ND):
        assert (scores_BN.argmax(dim=1) == next_B).float().mean() > 0.5
    targeted = run_targeted(windows, universal, tmp_path)
    assert targeted.manifest.metrics[NDCG] >= validation_lines(targeted)[0][NDCG]


def test_the_log_says_how_fast_and_how_balanced(universal: Checkpoint) -> None:
    line = next(line for line in universal.metrics_log() if "loss" in line)
    assert set(line) == {"epoch", "step", "loss", "learning_rate", "sequences_per_second", "expert_load"}
    assert sum(line["expert_load"]) == pytest.approx(2, abs=1e-2)


def test_the_untrained_model_is_published_as_parent(universal: Checkpoint) -> None:
    untrained = latest(universal.folder.parent, "untrained")
    assert universal.manifest.parent == untrained.model_version
    assert untrained.model_version.startswith("universal-all-untrained-")
    before, after = weights(untrained), weights(universal)
    assert before.keys() == after.keys()
    assert not torch.equal(before["fusion.id_table.weight"], after["fusion.id_table.weight"])


def test_the_same_call_gives_the_same_model(windows: DeltaSnapshot, tmp_path: Path) -> None:
    first, second = run_universal(windows, tmp_path / "a"), run_universal(windows, tmp_path / "b")
    assert first.model_version == second.model_version


@pytest.mark.parametrize("killed_at", [3, 6, 10, 13])  # before any state, within epochs 1 and 2, at the end of epoch 1
def test_a_killed_training_continues_at_the_exact_step(windows: DeltaSnapshot, tmp_path: Path, killed_at: int) -> None:
    whole = run_universal(windows, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run_universal(windows, tmp_path / "killed", progress=StopAt(killed_at))
    saved = [json.loads(file.read_text())["step"] for file in (tmp_path / "killed").glob(".resume-all/*/state.json")]
    assert saved == ([] if killed_at == 3 else [killed_at // 4 * 4])
    resumed = run_universal(windows, tmp_path / "killed")
    assert resumed.model_version == whole.model_version
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(resumed)[name]), name
    assert [line.get("loss") for line in resumed.metrics_log()] == [line.get("loss") for line in whole.metrics_log()]
    assert not (tmp_path / "killed" / ".resume-all").exists()


def test_the_state_of_another_configuration_is_not_continued(windows: DeltaSnapshot, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_universal(windows, tmp_path / "a", progress=StopAt(6))
    changed = tiny_universal(targets_per_position=1)
    assert (
        run_universal(windows, tmp_path / "a", changed).model_version
        == run_universal(windows, tmp_path / "b", changed).model_version
    )


def test_training_stops_when_validation_stops_improving(windows: DeltaSnapshot, tmp_path: Path) -> None:
    frozen = tiny_universal(epochs=9, patience=2, optimizer={"learning_rate": 1e-12})
    checkpoint = run_universal(windows, tmp_path, frozen)
    assert [line["epoch"] for line in validation_lines(checkpoint)] == [0, 1, 2]
    assert checkpoint.manifest.best_epoch == 0


@pytest.mark.filterwarnings("ignore")
def test_a_loss_that_is_not_finite_names_batch_and_windows(windows: DeltaSnapshot, tmp_path: Path) -> None:
    explosive = tiny_universal(optimizer={"learning_rate": 1e30, "warmup_steps": 0, "clip_norm": 1e30})
    where = r"loss is not finite at epoch 1, batch \d+ \(step \d+\), windows \['all/train/u/\d+'.*last good state"
    with pytest.raises(TrainingError, match=where):
        run_universal(windows, tmp_path, explosive)
    assert not list(tmp_path.glob("universal-all-[0-9a-f]*"))


def test_a_task_without_windows_is_an_error(windows: DeltaSnapshot, universal: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"task 'share' has 0 train windows.*\['all', 'click'\]"):
        run_targeted(windows, universal, tmp_path, task="share")


def test_windows_of_one_instant_are_nothing_to_learn_from(universal: Checkpoint, tmp_path: Path) -> None:
    write_windows(tmp_path / "training_windows", [([2, 3], [7, 7], [])] * 5, "click")
    write_windows(tmp_path / "training_windows", [([2, 3], [7, 7], [4])], "click", "validation")
    with pytest.raises(TrainingError, match="no window spans two instants"):
        run_targeted(DeltaSnapshot(tmp_path / "training_windows"), universal, tmp_path / "out")


@pytest.mark.parametrize("loss", ["bpr_user", "bpr_item", "both", "softmax"])
def test_targeted_training_starts_from_universal_and_is_never_worse(
    windows: DeltaSnapshot, universal: Checkpoint, tmp_path: Path, loss: str
) -> None:
    checkpoint = run_targeted(windows, universal, tmp_path, tiny_targeted(loss=loss))
    manifest = checkpoint.manifest
    assert (manifest.stage, manifest.task, manifest.parent) == ("targeted", "click", universal.model_version)
    shared = {name for name, _ in universal.load_model().named_parameters()}
    assert set(manifest.copied) == shared
    assert all(name.startswith("head.") for name in manifest.new) and manifest.new
    lines = validation_lines(checkpoint)
    assert lines[0]["epoch"] == 0 and manifest.metrics[NDCG] == max(line[NDCG] for line in lines)
    assert any(note.startswith("validation never improved") for note in manifest.notes) == (manifest.best_epoch == 0)


def test_a_killed_targeted_training_continues_at_the_exact_step(
    windows: DeltaSnapshot, universal: Checkpoint, tmp_path: Path
) -> None:
    whole = run_targeted(windows, universal, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run_targeted(windows, universal, tmp_path / "killed", progress=StopAt(13))  # in the second epoch
    saved = [json.loads(file.read_text())["step"] for file in (tmp_path / "killed").glob(".resume-click/*/state.json")]
    assert saved == [12]
    resumed = run_targeted(windows, universal, tmp_path / "killed")
    assert resumed.model_version == whole.model_version and not (tmp_path / "killed" / ".resume-click").exists()
    assert [line.get("loss") for line in resumed.metrics_log()] == [line.get("loss") for line in whole.metrics_log()]


def test_targeted_training_learns_from_scratch(windows: DeltaSnapshot, universal: Checkpoint, tmp_path: Path) -> None:
    config = tiny_targeted(warm_start=False, epochs=4, loss="softmax")
    checkpoint = run_targeted(windows, universal, tmp_path, config)
    assert checkpoint.manifest.parent == universal.manifest.parent  # the untrained model
    lines = validation_lines(checkpoint)
    assert checkpoint.manifest.metrics[NDCG] > lines[0][NDCG] + 0.1


def test_a_warm_start_that_cannot_be_improved_is_kept(
    windows: DeltaSnapshot, universal: Checkpoint, tmp_path: Path
) -> None:
    harmful = tiny_targeted(optimizer={"learning_rate": 10.0, "warmup_steps": 0})
    checkpoint = run_targeted(windows, universal, tmp_path, harmful)
    assert checkpoint.manifest.best_epoch == 0
    assert checkpoint.manifest.notes == ("validation never improved: the weights are those it started from",)
    ours, theirs = weights(checkpoint), weights(universal)
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())


def test_a_sparse_task_works_and_one_without_validation_keeps_the_warm_start(
    universal: Checkpoint, tmp_path: Path
) -> None:
    folder = tmp_path / "training_windows"
    write_windows(folder, grouped_windows(9, seed=1), "redeem")
    checkpoint = run_targeted(DeltaSnapshot(folder), universal, tmp_path / "out", task="redeem")
    assert checkpoint.manifest.notes == ("no validation windows: the weights are those it started from",)
    write_windows(folder, grouped_windows(2, seed=2, with_targets=True), "redeem", "validation")
    checkpoint = run_targeted(DeltaSnapshot(folder), universal, tmp_path / "out", task="redeem")
    assert len(validation_lines(checkpoint)) >= 2


def test_items_newer_than_the_checkpoint_can_be_targets(universal: Checkpoint, tmp_path: Path) -> None:
    folder = tmp_path / "training_windows"
    write_windows(folder, [([2, 24, 25], [1, 2, 3], [])] * 20, "click")
    write_windows(folder, [([2, 24], [1, 2], [25])], "click", "validation")
    checkpoint = train_targeted(
        TrainingInputs(
            windows=DeltaSnapshot(folder),
            catalog=world_catalog(num_items=30),
            task="click",
            out=tmp_path / "out",
            seed=5,
            versions={},
        ),
        config=tiny_targeted(),
        universal=universal,
    )
    assert checkpoint.manifest.num_item_rows == universal.manifest.num_item_rows


def test_items_beyond_the_catalog_mean_tables_of_two_nights(tmp_path: Path) -> None:
    write_windows(tmp_path / "training_windows", [([2, 90], [1, 2], [])])
    write_windows(tmp_path / "training_windows", [([2, 3], [1, 2], [4])], split="validation")
    with pytest.raises(TrainingError, match="item_index 90 is not in the item catalog of 22 rows"):
        run_universal(DeltaSnapshot(tmp_path / "training_windows"), tmp_path / "out")


def test_another_tokenizer_is_refused(windows: DeltaSnapshot, universal: Checkpoint, tmp_path: Path) -> None:
    catalog = world_catalog()
    other = type(catalog)(catalog.token_ids_VT, catalog.token_counts_V, "another")
    with pytest.raises(CheckpointError, match="tokenizer toy-tokenizer, item_tokens has another"):
        train_targeted(
            TrainingInputs(windows=windows, catalog=other, task="click", out=tmp_path, seed=5, versions={}),
            config=tiny_targeted(),
            universal=universal,
        )


def test_token_vectors_of_the_language_model_are_where_training_starts(windows: DeltaSnapshot, tmp_path: Path) -> None:
    config = tiny_model(fusion={"mode": "pool", "id_width": 8, "token_width": 8})
    vectors = torch.randn(1, 8)

    def run(token_init: TokenInit | None) -> Checkpoint:
        return train_universal(
            TrainingInputs(windows=windows, catalog=world_catalog(), out=tmp_path, seed=5, versions={}),
            model_config=config,
            config=tiny_universal(epochs=0),
            token_init=token_init,
        )

    with pytest.raises(TrainingError, match=r"run jobs/embed_tokens\.py first"):
        run(None)
    checkpoint = run(TokenInit(torch.tensor([11]), vectors, "lm"))
    assert checkpoint.manifest.language_model == "lm"
    row = checkpoint.load_model().fusion.token_table.weight
    assert (row == vectors).all(dim=1).sum() == 1


def test_ndcg_and_recall_by_hand() -> None:
    hits = torch.tensor([[True, False, True], [False, False, False], [False, True, False]])
    counts = torch.tensor([2, 1, 5])
    expected = [(1 + 0.5) / (1 + 1 / np.log2(3)), 0.0, (1 / np.log2(3)) / (1 + 1 / np.log2(3) + 0.5)]
    assert ndcg_at_k(hits, counts, 3).tolist() == pytest.approx(expected)
    assert recall_at_k(hits, counts, 3).tolist() == pytest.approx([1.0, 0.0, 1 / 3])
    assert recall_at_k(hits, counts, 2).tolist() == pytest.approx([0.5, 0.0, 0.5])


def test_the_learning_rate_warms_up_and_decays_to_a_tenth() -> None:
    config = OptimizerConfig(learning_rate=1.0, warmup_steps=10)
    rates = [learning_rate_at(step, 100, config) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and rates[9] == 1.0 and rates[10] == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] == pytest.approx(0.1, abs=0.01)
