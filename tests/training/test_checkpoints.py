"""A checkpoint is complete, verified, never pickled, and appears at once or not at all."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from precise_core.errors import CheckpointError
from precise_core.models.precise import Precise, Stage, fuse_distinct
from precise_core.training.checkpoint import Checkpoint, latest, put_in_use, write_checkpoint
from tests.torch_world import tiny_model, world_catalog

FILES = ["model.safetensors", "items.safetensors", "manifest.json", "metrics.jsonl"]


def make_model(mode: str = "moe", stage: Stage = "universal", seed: int = 0) -> Precise:
    catalog = world_catalog()
    torch.manual_seed(seed)
    return Precise(tiny_model(mode), catalog.num_rows, catalog.known_token_ids, stage, 3).eval()


def write(out: Path, model: Precise | None = None, **changes: Any) -> Checkpoint:
    described = {
        "task": "all",
        "tokenizer_id": "toy-tokenizer",
        "language_model": None,
        "best_epoch": 1,
        "metrics": {"validation_ndcg_at_50": 0.5},
        "input_versions": {"training_windows": 3},
        "seed": 5,
        "training": {},
    }
    frequencies = torch.arange(22)
    return write_checkpoint(out, model or make_model(), frequencies, [{"epoch": 0}], **{**described, **changes})


@pytest.mark.parametrize("stage", ["universal", "targeted"])
@pytest.mark.parametrize("mode", ["id", "llm", "pool", "moe"])
def test_a_loaded_model_gives_the_same_vectors(tmp_path: Path, mode: str, stage: Stage) -> None:
    model, items = make_model(mode, stage), torch.tensor([[0, 2, 5, 9]])
    model.fusion.is_trained_V[9] = False
    loaded = Checkpoint.open(write(tmp_path, model).folder).load_model()
    assert not loaded.training
    for one, other in zip(model.state_dict().items(), loaded.state_dict().items(), strict=True):
        assert one[0] == other[0] and torch.equal(one[1], other[1])
    users = [m.user_embeddings(fuse_distinct(m, world_catalog(), items)[0], items > 0) for m in (model, loaded)]
    assert torch.equal(users[0], users[1])


def is_in_file(tensor: torch.Tensor, file: Path) -> bool:
    """Whether the memory of ``tensor`` is a file's, by the kernel's own list."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        start, _, end = line.split()[0].partition("-")
        if int(start, 16) <= tensor.data_ptr() < int(end, 16):
            return str(file) in line
    return False


def test_mapped_weights_stay_in_the_file_and_give_the_same_vectors(tmp_path: Path) -> None:
    checkpoint, items = write(tmp_path), torch.tensor([[0, 2, 5, 9]])
    models = [checkpoint.load_model(), checkpoint.load_model(mapped=True)]
    users = [m.user_embeddings(fuse_distinct(m, world_catalog(), items)[0], items > 0) for m in models]
    assert torch.equal(users[0], users[1])
    assert all(
        is_in_file(tensor, checkpoint.folder / "model.safetensors") for tensor in models[1].state_dict().values()
    )
    assert not any(is_in_file(tensor, checkpoint.folder) for tensor in models[0].state_dict().values())


def test_a_checkpoint_says_what_it_is(tmp_path: Path) -> None:
    checkpoint = write(tmp_path)
    assert checkpoint.folder.name == checkpoint.model_version
    assert checkpoint.model_version.startswith("universal-all-") and len(checkpoint.model_version) == 14 + 12
    assert sorted(file.name for file in checkpoint.folder.iterdir()) == sorted([*FILES, "SHA256SUMS"])
    manifest = json.loads((checkpoint.folder / "manifest.json").read_text())
    assert manifest["input_versions"] == {"training_windows": 3}
    assert (manifest["num_item_rows"], manifest["num_trained_items"], manifest["max_token_length"]) == (22, 21, 3)
    assert checkpoint.item_frequencies().tolist() == list(range(22))
    assert checkpoint.metrics_log() == [{"epoch": 0}]


@pytest.mark.parametrize("name", FILES)
def test_a_changed_or_missing_file_is_named(tmp_path: Path, name: str) -> None:
    folder = write(tmp_path).folder
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(bytes(content))
    with pytest.raises(CheckpointError, match=f"{name}: changed"):
        Checkpoint.open(folder)
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name}: missing"):
        Checkpoint.open(folder)


def test_sums_cannot_point_elsewhere_or_be_shortened(tmp_path: Path) -> None:
    folder = write(tmp_path).folder
    (folder / "SHA256SUMS").write_text("")
    with pytest.raises(CheckpointError, match="must list the checkpoint.s files"):
        Checkpoint.open(folder)
    (folder / "SHA256SUMS").unlink()
    with pytest.raises(CheckpointError, match="no SHA256SUMS"):
        Checkpoint.open(folder)
    (folder / "sums.json").write_text("{}")
    with pytest.raises(CheckpointError, match="has format 2 or an older one, this version reads format 3; train again"):
        Checkpoint.open(folder)


def test_weights_of_another_size_are_refused(tmp_path: Path) -> None:
    folder = write(tmp_path).folder
    checkpoint = Checkpoint.open(folder)
    other = replace(checkpoint, manifest=checkpoint.manifest.model_copy(update={"num_item_rows": 99}))
    with pytest.raises(CheckpointError, match="does not fit its manifest"):
        other.load_model()


def test_writing_twice_changes_nothing(tmp_path: Path) -> None:
    first = write(tmp_path)
    before = {file.name: file.stat().st_mtime_ns for file in first.folder.iterdir()}
    second = write(tmp_path)
    assert second.folder == first.folder
    assert {file.name: file.stat().st_mtime_ns for file in second.folder.iterdir()} == before


def test_the_same_weights_from_other_inputs_say_so(tmp_path: Path) -> None:
    write(tmp_path)
    again = write(tmp_path, input_versions={"training_windows": 4})
    assert again.manifest.input_versions == {"training_windows": 4}
    assert [entry.name for entry in tmp_path.iterdir()] == [again.model_version]  # no scratch folder is left


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="best_epoch"):
        write(tmp_path, best_epoch="not a number")
    assert list(tmp_path.iterdir()) == []


def test_the_pointer_names_the_checkpoint_in_use(tmp_path: Path) -> None:
    first, second = write(tmp_path), write(tmp_path, make_model(seed=1))
    put_in_use(tmp_path, "all", first)
    assert latest(tmp_path, "all").model_version == first.model_version
    put_in_use(tmp_path, "all", second)
    assert latest(tmp_path, "all").model_version == second.model_version


@pytest.mark.parametrize(
    ("key", "job"), [("all", "train_universal"), ("untrained", "train_universal"), ("click", "train_targeted")]
)
def test_without_a_checkpoint_the_job_to_run_is_named(tmp_path: Path, key: str, job: str) -> None:
    with pytest.raises(CheckpointError, match=rf"run jobs/{job}\.py first"):
        latest(tmp_path, key)


@pytest.mark.parametrize("content", ["", "[]", '{"model_version": "../../etc"}'])
def test_a_pointer_that_points_nowhere_good_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "latest-all.json").write_text(content)
    with pytest.raises(CheckpointError):
        latest(tmp_path, "all")


def test_a_task_name_cannot_leave_the_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="letters, digits and _ only"):
        put_in_use(tmp_path, "../up", write(tmp_path))
