"""The comparison of libraries judges its goals by what each process wrote."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from benchmarks import training_memory
from benchmarks.figures import read_figures
from benchmarks.peers import compare


def result(speed: float, users: float, recall: float) -> dict[str, Any]:
    return {
        "training": {"sequences_per_second": speed, "epochs": [{}] * 7, "best_epoch": 3},
        "prediction": {"users_per_second": users},
        "test": {"recall@10": recall, "ndcg@10": recall / 2},
        "peak_memory_mib": 700.0,
        "settings": {"dropout": 0.4},
    }


RESULTS = {
    compare.OURS: result(8000, 20_000, 0.05),
    compare.REPLAY: result(1000, 3000, 0.05),
    compare.REPLAY_BUCKETED: result(2500, 4000, 0.06),
    compare.RECTOOLS: result(250, 3000, 0.04),
}


def test_ratios_are_ours_over_theirs_with_the_goals_of_each() -> None:
    found = {name: (value, goal, met) for name, value, _, goal, met in compare.ratios(RESULTS)}
    assert found["training: ours over RecTools"] == (32, "at least 40 x", False)
    assert found[f"training: ours over {compare.REPLAY.label}"] == (8, "at least 8 x", True)
    assert found[f"training: ours over {compare.REPLAY_BUCKETED.label}"] == (3.2, None, None)
    assert found["prediction: ours over RecTools"] == (pytest.approx(20 / 3), "at least 5 x", True)
    assert found[f"Recall@10 after equal epochs: ours over {compare.REPLAY.label}"] == (1, "at least 1 x", True)
    assert found[f"Recall@10 after equal epochs: ours over {compare.REPLAY_BUCKETED.label}"][2] is False


def test_without_ours_there_is_nothing_to_compare() -> None:
    assert compare.ratios({compare.RECTOOLS: RESULTS[compare.RECTOOLS]}) == []


def test_accuracy_names_the_epoch_kept() -> None:
    figures = {name: (value, unit) for name, value, unit, *_ in compare.accuracy(RESULTS)}
    assert figures["epoch kept: ours, at its best validation"] == (3, "of 7")
    assert figures["dropout kept: ours, at its best validation"] == (0.4, "")
    assert figures["recall@10: ours, at its best validation"] == (0.05, "")
    assert figures["Recall@10, each at its best validation: ours over RecTools"] == (1.25, "x")
    alone = compare.accuracy({compare.RECTOOLS: RESULTS[compare.RECTOOLS]})
    assert not any("over" in name for name, *_ in alone)


def test_the_best_validation_chooses_the_dropout_never_the_test(monkeypatch: pytest.MonkeyPatch) -> None:
    def tried(run: compare.Run, data: Path, arguments: argparse.Namespace, dropout: float) -> dict[str, Any]:  # noqa: ARG001
        epochs = [
            {"validation": {"ndcg_at_50": ndcg, "recall_at_10": 0.9}} for ndcg in (0.5, 0.05 + 0.1 * (dropout == 0.4))
        ]
        training = {"epochs": epochs, "best_epoch": 2}
        return {"training": training, "test": {"recall@10": 1 - dropout}, "settings": {"dropout": dropout}}

    monkeypatch.setattr(compare, "measure", tried)
    arguments = argparse.Namespace(dropouts=[0.2, 0.4, 0.6], to_best=True)
    assert compare.best_of(compare.OURS, Path(), arguments)["settings"]["dropout"] == 0.4
    arguments.to_best = False
    assert compare.best_of(compare.OURS, Path(), arguments)["settings"]["dropout"] == 0.2


def test_our_own_run_goes_from_a_sequence_file_to_figures(tmp_path: Path) -> None:
    lines = [f"u{user} " + " ".join(f"i{(user + n) % 40}" for n in range(3 + user % 6)) for user in range(200)]
    with pa.CompressedOutputStream(str(tmp_path / "Tiny.user_sequence.txt.zst"), "zstd") as file:
        file.write("\n".join(lines).encode())
    shared = ["--domain", "Tiny", "--libraries", "ours", "--epochs", "1", "--threads", "1"]
    folders = ["--data", str(tmp_path), "--work", str(tmp_path), "--results", str(tmp_path / "peers.jsonl")]
    compare.main([*shared, *folders])
    figures = {figure["name"]: figure for figure in read_figures(tmp_path / "peers.jsonl")}
    assert figures["prediction: ours"]["value"] > 0 and figures["peak memory: ours"]["value"] > 100
    assert figures["training: ours"]["data"] == "Amazon Tiny, 200 users, 40 items"


def test_a_library_that_fails_ends_the_comparison(tmp_path: Path) -> None:
    arguments = argparse.Namespace(environments=tmp_path, to_best=False, epochs=1, seed=0, threads=1, max_steps=None)
    with pytest.raises(FileNotFoundError, match="python"):
        compare.measure(compare.RECTOOLS, tmp_path, arguments, 0.2)


def test_a_training_s_memory_is_that_of_its_own_process(tmp_path: Path) -> None:
    results = tmp_path / "memory.jsonl"
    training_memory.main(["--windows", "400", "--steps", "2", "--results", str(results)])
    (peak,) = read_figures(results)
    assert 100 < peak["value"] < 2000 and peak["unit"] == "MiB"
