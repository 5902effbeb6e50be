"""What a warehouse remembers beside its tables, on a local folder and in an object store."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from precise_core.artefacts import (
    LIST_RANKERS,
    artefacts_in_use,
    checkpoint_manifest,
    checkpoint_pointer,
    has_checkpoint,
    has_rankers,
    put_rankers_in_use,
    rankers_in_use,
)
from precise_core.consume.publications import vector_space
from precise_core.errors import ConfigError, ConflictError, InterruptedRollbackError
from precise_core.intake.chosen_sizes import read_sizes
from precise_core.run.job import require_no_rollback
from precise_core.store import Store
from precise_core.warehouse.erasure_list import ErasureList


def test_pointers_name_what_is_in_use(store: Store, root: str) -> None:
    assert artefacts_in_use(root) == {} and not has_rankers(root) and not has_checkpoint(f"{root}/checkpoints", "all")
    store.put(f"checkpoints/{checkpoint_pointer('all')}", json.dumps({"model_version": "universal-1"}))
    store.put("checkpoints/universal-1/manifest.json", json.dumps({"space": "universal-0"}))
    put_rankers_in_use(root, {"dcn": "dcn-1"})
    put_rankers_in_use(root, {"dcn": "dcn-2", "dcn-precise": "dcn-3"})
    put_rankers_in_use(root, {}, LIST_RANKERS)
    assert artefacts_in_use(root) == {
        "checkpoint:all": "universal-1",
        "ranker:dcn": "dcn-2",
        "ranker:dcn-precise": "dcn-3",
    }
    assert has_checkpoint(f"{root}/checkpoints", "all") and not has_checkpoint(f"{root}/checkpoints", "click")
    assert has_rankers(root, LIST_RANKERS) and rankers_in_use(root, LIST_RANKERS) == {}
    assert vector_space(root, "universal-1") == "universal-0" and vector_space(root, "gone") == "gone"
    assert checkpoint_manifest(f"{root}/checkpoints", "gone") == {}


def test_an_interrupted_rollback_is_found(store: Store, root: str) -> None:
    require_no_rollback(root)
    store.put("rollback.json", json.dumps({"to_run": "run_night-1"}))
    with pytest.raises(InterruptedRollbackError, match="a rollback to run_night-1 was interrupted"):
        require_no_rollback(root)


def test_chosen_sizes_that_are_damaged_are_named(store: Store, root: str) -> None:
    assert read_sizes(root) is None
    store.put("sizes.json", "{")
    with pytest.raises(ConfigError, match=r"sizes\.json: cannot be used .*; delete it, and ingest chooses sizes again"):
        read_sizes(root)


def test_no_erased_user_is_forgotten_between_two_erasures(root: str) -> None:
    first, second = ErasureList.of(root), ErasureList.of(root)
    first.add(["a"])
    first.add(["b"])
    with pytest.raises(ConflictError, match=r"erasures/list\.json: is there already"):
        second.add(["c"])
    third, fourth = ErasureList.of(root), ErasureList.of(root)
    fourth.add(["d"])
    with pytest.raises(ConflictError, match=r"erasures/list\.json: was changed"):
        third.add(["e"])
    kept = ErasureList.of(root)
    assert kept.salt == first.salt and kept.users.keys() == {kept.hash_of(user) for user in "abd"}


def test_the_list_of_erased_users_is_its_owners_alone(tmp_path: Path) -> None:
    for user in ("a", "b"):
        ErasureList.of(tmp_path).add([user])
        assert (tmp_path / "erasures" / "list.json").stat().st_mode & 0o077 == 0
