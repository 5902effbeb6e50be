"""The feed's benchmark measures both readers and the trainer in one run, and judges its goal by what it measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import feed
from benchmarks.figures import read_figures
from precise_core.feed.windows import WindowFeed
from precise_core.warehouse.reader import DeltaSnapshot


def test_a_run_records_both_readers_the_trainer_and_the_verdicts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"_REPETITIONS": 1, "_WARMUP_STEPS": 1, "_STEPS": 2}.items():
        monkeypatch.setattr(feed, name, value)
    results = tmp_path / "feed.jsonl"
    feed.main(["--rows", "600", "--length", "12", "--seed", "5", "--results", str(results)])
    figures = {figure["name"]: figure for figure in read_figures(results)}
    (trainer,) = (figure["value"] for name, figure in figures.items() if name.startswith("trainer"))
    for reader in ("petastorm", "arrow"):
        alone = figures[f"feed alone: {reader}, no prefetching"]
        ratio = figures[f"feed over trainer: {reader}"]
        assert alone["value"] > 0 and alone["unit"] == "rows/s"
        assert ratio["value"] == pytest.approx(alone["value"] / trainer)
        assert ratio["meets"] == (ratio["value"] >= 20)
    assert len(figures) == 7


def test_its_windows_are_what_the_feed_expects(tmp_path: Path) -> None:
    feed.write_windows(tmp_path / "training_windows", rows=100, length=12, seed=5)
    windows = DeltaSnapshot(tmp_path / "training_windows")
    (batch,) = WindowFeed(windows, "all", "train", batch_size=100, seed=0).epoch(0)
    assert len(batch) == 100 and int(batch.lengths_B.min()) >= 3 and int(batch.lengths_B.max()) <= 12
    assert ((batch.item_indices_BL > 1) == batch.valid_mask_BL).all()
    later_BL = (batch.event_ts_BL[:, 1:] > batch.event_ts_BL[:, :-1])[batch.valid_mask_BL[:, :-1]]
    assert later_BL.all()
