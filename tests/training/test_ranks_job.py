"""jobs/train_universal on two ranks: what it shows while it trains, what it leaves, and what goes on from there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from precise_core.config import over
from precise_core.config.tasks import ALL_TASK
from precise_core.training.checkpoint import latest
from tests.night import ROOT, run

SMALL = (
    "as_of=2024-01-10",
    "source.users=60",
    "source.items=80",
    "source.days=12",
    "source.events_per_user=24",
    "source.impressions_per_user=0",
    "windows.validation_days=2",
    "feed.reader=arrow",
    "model.fusion.token_init=random",
    "universal.epochs=2",
    "universal.batch_size=16",
    "universal.ranks=2",
)


def run_small(job: str, warehouse: Path, *more: str) -> int:
    return run(job, warehouse, *(part for override in over(SMALL, more) for part in ("--set", override)))


@pytest.mark.faults  # a minute: every rank is a process that has to import torch
def test_two_ranks_train_through_the_job(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert spark is not None  # the jobs find the running session
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # the ranks are processes of torchrun
    for job in ("ingest", "tokenize_items", "build_windows"):
        assert run_small(job, tmp_path) == 0
    capfd.readouterr()
    assert run_small("train_universal", tmp_path) == 0
    shown = re.findall(r"universal all: (\d+)/(\d+) [\d,]+ windows/s · ", capfd.readouterr().out)
    assert shown and shown[-1][0] == shown[-1][1]  # one rank tells it to the end
    first = latest(tmp_path / "checkpoints", ALL_TASK)
    assert first.manifest.training["ranks"] == 2 and first.manifest.metrics["validation_ndcg_at_50"] > 0
    # A night later with no new window: the ranks agree that there is nothing to learn.
    assert run_small("train_universal", tmp_path, "as_of=2024-01-11", "universal.start=continue") == 0
    assert f"{first.model_version} stays in use" in " ".join(capfd.readouterr().out.split())
    assert latest(tmp_path / "checkpoints", ALL_TASK).model_version == first.model_version
    # PRECISE-TT takes nothing over from what the ranks have learnt, and says so.
    from_scratch = ("targeted.warm_start=false", "targeted.epochs=1")
    assert run_small("train_targeted", tmp_path, *from_scratch) == 0
    assert "click_articles: trained from scratch" in " ".join(capfd.readouterr().out.split())
