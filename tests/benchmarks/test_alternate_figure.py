"""Fig. 4b: cosines are those of id vectors of nearest neighbours; what is recorded and drawn is what was found."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.alternate import SYSTEMS, draw, id_cosines, record_cosines
from precise_core.config import load_config
from precise_core.settings import Settings
from precise_core.vectors.encoding import encode_catalog
from tests.night import ROOT
from tests.torch_world import NUM_ITEMS, universal_training, world_catalog, world_snapshot

FILES = sorted((ROOT / "conf" / "experiments").glob("alternate_*.yaml"))


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_cosines_are_of_the_id_vectors_of_nearest_neighbours(tmp_path: Path) -> None:
    catalog = world_catalog()
    windows = world_snapshot(tmp_path / "training_windows")
    checkpoint = universal_training(windows, tmp_path / "out", epochs=1, alternate={"enabled": True})
    model, rows = checkpoint.load_model(), np.arange(2, 2 + NUM_ITEMS)
    whole = unit(encode_catalog(model, catalog, rows))
    ids = unit(model.fusion.id_table.weight.detach().numpy()[rows])
    likeness = whole @ whole.T - 2 * np.eye(NUM_ITEMS)
    similar, anyhow = id_cosines(checkpoint, catalog, seed=1)
    expected = (ids * ids[likeness.argmax(axis=1)]).sum(axis=1)
    np.testing.assert_allclose(np.sort(similar), np.sort(expected), atol=1e-5)
    assert len(anyhow) == NUM_ITEMS and not np.allclose(np.sort(anyhow), np.sort(similar))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_systems_of_an_experiment_differ_in_the_first_phase_alone(file: Path, tmp_path: Path) -> None:
    settings = load_config(file, Settings)
    assert tuple(settings.experiment.systems) == SYSTEMS
    together, alternate = (settings.of_system(name) for name in SYSTEMS)
    assert (together.universal.alternate.enabled, alternate.universal.alternate.enabled) == (False, True)
    same = {"alternate": together.universal.alternate}
    assert alternate.model_copy(update={"universal": alternate.universal.model_copy(update=same)}) == together
    cosines = {name: (np.array([0.5, 0.7]), np.array([-0.1, 0.1])) for name in SYSTEMS}
    record_cosines(cosines, settings, "the command", tmp_path / "alternate.jsonl")
    figures = [json.loads(line) for line in (tmp_path / "alternate.jsonl").read_text().splitlines()]
    assert len(figures) == 8 and {figure["command"] for figure in figures} == {"the command"}
    name = f"{settings.name}: cosine of id vectors of similar items, mean, alternate"
    assert {figure["name"]: figure["value"] for figure in figures}[name] == pytest.approx(0.6)
    drawn = draw({name: similar for name, (similar, _) in cosines.items()}, tmp_path / "figure.svg").read_text()
    assert all(f">{name}</text>" in drawn for name in SYSTEMS)


def test_there_is_one_for_both_worlds() -> None:
    assert {"alternate_synthetic", "alternate_grocery"} <= {file.stem for file in FILES}
