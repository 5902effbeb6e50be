"""Checkpoints, indexes and ranking models, on a local folder and in an object store."""

from __future__ import annotations

import json
from argparse import Namespace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import torch

from precise_core.artefacts import artefact_folder, artefacts_in_use, put_rankers_in_use, write_model
from precise_core.errors import CheckpointError, ConflictError, InterruptedRollbackError
from precise_core.index.config import IndexConfig
from precise_core.index.index import VectorIndex, build_index
from precise_core.operations.maintenance import unused_artefacts
from precise_core.operations.rollback import State, begin, end, interrupted, removed_indexes, restore_pointers
from precise_core.run.job import Job, require_no_rollback
from precise_core.store import Store, above, below, fetched, is_there, name_of, new_folder, store_at
from precise_core.store.sums import write_sums
from precise_core.training.checkpoint import Checkpoint, latest, put_in_use
from precise_core.training.continuation import newest_before
from tests.fake_warehouse import settings_of
from tests.training.test_checkpoints import write

NIGHTS = [datetime(2024, 1, day, tzinfo=UTC) for day in (1, 2)]


def vectors(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((30, 8), dtype=np.float32)


def index_of(vectors_ND: np.ndarray) -> VectorIndex:
    ids, indices_N = [f"i{number}" for number in range(30)], np.arange(2, 32)
    return build_index(ids, indices_N, vectors_ND, model_version="universal-1", config=IndexConfig(), seed=1)


def test_a_checkpoint_is_written_put_in_use_and_opened(store: Store, root: str) -> None:
    out = below(root, "checkpoints")
    first = write(out, as_of=NIGHTS[0])
    second = write(out, task="click", as_of=NIGHTS[1], previous=first.model_version)
    put_in_use(out, "all", second)
    opened = latest(out, "all")
    assert opened.manifest == second.manifest and opened.place == below(out, second.model_version)
    weights = opened.load_model().state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in second.load_model().state_dict().items())
    assert newest_before(opened, NIGHTS[1]) == first  # its predecessor lies where it lies itself
    assert opened.load_model(mapped=True).state_dict().keys() == weights.keys()
    written = {name_of(entry.name) for entry in store.list(f"checkpoints/{first.model_version}")}
    assert written == {"model.safetensors", "items.safetensors", "manifest.json", "metrics.jsonl", "SHA256SUMS"}


def test_the_same_weights_are_not_written_again(store: Store, root: str) -> None:
    first = write(below(root, "checkpoints"))
    name = f"checkpoints/{first.model_version}/metrics.jsonl"
    before = store.get(name)
    assert write(below(root, "checkpoints")).model_version == first.model_version
    assert before is not None and store.get(name) == before


def test_a_checkpoint_that_was_changed_is_refused_by_name(
    store: Store, root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = write(below(root, "checkpoints"))
    monkeypatch.setenv("PRECISE_CACHE", str(tmp_path / "of another machine"))
    store.put(f"checkpoints/{checkpoint.model_version}/model.safetensors", "other")
    with pytest.raises(CheckpointError, match=rf"{checkpoint.model_version}/model\.safetensors: changed since"):
        Checkpoint.open(checkpoint.place)
    store.delete(f"checkpoints/{checkpoint.model_version}/SHA256SUMS")
    with pytest.raises(CheckpointError, match="no SHA256SUMS"):
        Checkpoint.open(checkpoint.place)


def test_an_index_is_saved_and_mapped_from_a_local_file(root: str) -> None:
    folder = below(root, "indexes", "v1")
    assert not is_there(folder)
    index_of(vectors(seed=1)).save(folder)
    index_of(vectors(seed=2)).save(folder)  # replaced as a whole
    opened = VectorIndex.open(folder, "universal-1")
    assert is_there(folder) and isinstance(opened.vectors_ND, np.memmap)
    np.testing.assert_array_equal(opened.vectors_ND, vectors(seed=2))


def test_a_ranking_model_is_named_by_its_content(root: str) -> None:
    place = write_model(below(root, "rankers"), "dcn", {"weights": b"w"}, {"task": "click"}, "ranker.json", "version")
    assert name_of(place).startswith("dcn-") and place == artefact_folder(below(root), "ranker:dcn", name_of(place))
    files = fetched(place)
    assert (files / "weights").read_bytes() == b"w"
    assert json.loads((files / "ranker.json").read_text()) == {"task": "click", "version": name_of(place)}


def test_what_nothing_refers_to_is_found_and_removed(store: Store, root: str) -> None:
    for name in ("used", "unused"):
        write_model(below(root, "rankers"), name, {"weights": b"w"}, {}, "ranker.json", "version")
    used, unused = sorted(store.names("rankers"), key=lambda name: name.startswith("unused"))
    put_rankers_in_use(root, {"dcn": used})
    store.put("checkpoints/logs/all/events", "no artefact")
    assert unused_artefacts(below(root), [], keep=1) == [below(root, "rankers", unused)]
    store.delete_folder(f"rankers/{unused}")
    assert unused_artefacts(below(root), [], keep=1) == [] and store.names("rankers") == ["latest.json", used]


def test_a_rollback_holds_others_up_and_restores_what_was_in_use(root: str, tmp_path: Path) -> None:
    settings = settings_of(tmp_path).model_copy(update={"warehouse": root})
    job = Job("rollback", settings, Namespace(to_run="then"))
    first, second = write(job.checkpoints), write(job.checkpoints, task="click")
    then = State("then", artefacts={"checkpoint:all": first.model_version, "ranker:dcn": "dcn-1", "index:all": "v1"})
    put_in_use(job.checkpoints, "all", second)
    put_in_use(job.checkpoints, "click", second)
    put_rankers_in_use(root, {"dcn": "dcn-2"})
    assert interrupted(job) is None
    begin(job, then)
    with pytest.raises(ConflictError, match=r"rollback\.json"):
        begin(job, State("another"))
    with pytest.raises(InterruptedRollbackError, match="a rollback to then was interrupted; finish that one first"):
        interrupted(Job("rollback", settings, Namespace(to_run="another")))
    assert interrupted(job) == then and removed_indexes(job, then) == ["all"]
    restore_pointers(job, then)
    end(job)
    require_no_rollback(root)
    assert artefacts_in_use(root) == {"checkpoint:all": first.model_version, "ranker:dcn": "dcn-1"}
    assert second.place == below(root, "checkpoints", second.model_version) and is_there(second.place)


def test_what_fails_half_way_leaves_nothing(store: Store, root: str) -> None:
    with pytest.raises(RuntimeError), new_folder(below(root, "indexes", "v1")) as draft:
        (draft / "half").write_text("half")
        write_sums(draft)
        raise RuntimeError
    assert store.list() == [] and not is_there(below(root, "indexes", "v1")) and not draft.exists()


def test_what_is_not_finished_stays_on_this_machine(lake: str, tmp_path: Path) -> None:
    assert store_at(tmp_path).scratch == tmp_path
    assert store_at(f"{lake}/a").scratch != store_at(f"{lake}/b").scratch
    assert store_at(f"{lake}/a").scratch == store_at(f"{lake}/a/").scratch


def test_places_of_both_kinds() -> None:
    assert below("s3a://b/x/", "y", "z") == "s3a://b/x/y/z" and below("a", "b") == Path("a/b")
    assert above("s3a://b/x/y") == "s3a://b/x" and above("s3a://b/x") == above("s3a://b") == "s3a://b"
    assert above(Path("a/b")) == Path("a") and name_of("s3a://b/x/") == "x" and name_of(Path("a/b")) == "b"
