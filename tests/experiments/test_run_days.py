"""jobs/run_days.py on a small world: days that run by themselves, are left out when recorded, and refused when bad."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from pyspark.sql import SparkSession

from benchmarks.warm_up import draw
from precise_core.warehouse.tables import Warehouse
from schemas import ITEM_VOCABULARY, RUNS, TRAINING_DAYS
from schemas import columns as c
from tests.night import run

SMALL = (
    "source.users=60",
    "source.items=80",
    "source.days=12",
    "source.events_per_user=24",
    "source.impressions_per_user=12",
    "source.topics=2",
    "windows.validation_days=2",
    "model.fusion.token_init=random",
    "universal.epochs=2",
    "targeted.epochs=1",
)


def run_days(warehouse: Path, first: str, last: str, *more: str) -> int:
    settings = [part for override in SMALL for part in ("--set", override)]
    return run("run_days", warehouse, *settings, "--from", first, "--to", last, *more)


@pytest.fixture(scope="module")
def two_days(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    assert spark is not None  # the jobs find the running session
    warehouse = tmp_path_factory.mktemp("days") / "warehouse"
    assert run_days(warehouse, "2024-01-06", "2024-01-07", "--policy", "0") == 0
    return warehouse


def read_days(warehouse: Path) -> pd.DataFrame:
    tables = Warehouse(str(warehouse))
    return tables.read_arrow(TRAINING_DAYS, tables.version(TRAINING_DAYS)).to_pandas().sort_values([c.AS_OF, c.TASK])


@pytest.mark.faults  # minutes
def test_two_days_run_by_themselves(two_days: Path, tmp_path: Path) -> None:
    days = read_days(two_days)
    assert list(days[c.TASK]) == ["all", "click_articles", "share"] * 2
    assert set(days["exposed_by"]) == {"impressions"} and (days["exposed_items"] > 0).all()
    assert (days["untrained_items"] <= days["exposed_items"]).all()
    targeted = days[days[c.TASK] == "click_articles"]
    assert targeted["warm_up_as_of"].nunique() == 1 and targeted["universal_version"].nunique() == 1
    tables = Warehouse(str(two_days))
    runs = tables.read_arrow(RUNS, tables.version(RUNS)).to_pandas()["job"].value_counts()
    assert runs["ingest"] == 1 and runs["build_windows"] == 2 and runs["build_sequences"] == 1
    vocabulary = tables.read_arrow(ITEM_VOCABULARY, tables.version(ITEM_VOCABULARY)).to_pandas()
    assert vocabulary[c.FIRST_SEEN].nunique() == 2 and len(vocabulary) < 80  # some items are not published yet
    assert draw({0: days}, tmp_path / "figure.svg").read_text().count("warm-up after the first day") == 1


@pytest.mark.faults  # minutes
def test_recorded_days_are_left_out_and_another_policy_is_refused(two_days: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    before = read_days(two_days)
    assert run_days(two_days, "2024-01-06", "2024-01-07", "--policy", "0") == 0
    assert capsys.readouterr().out.count("recorded already, left out") == 2
    pd.testing.assert_frame_equal(read_days(two_days), before)
    assert run_days(two_days, "2024-01-06", "2024-01-08", "--policy", "7") == 2
    assert "take a warehouse per policy" in capsys.readouterr().out


@pytest.mark.faults  # minutes
def test_a_killed_run_goes_on_where_it_stopped(two_days: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    # The state a kill leaves between the last training and the figure of the second day.
    before, tables = read_days(two_days), Warehouse(str(two_days))
    first_day = [row for row in before.to_dict("records") if row[c.AS_OF].day == 6]
    tables.replace_records(TRAINING_DAYS, first_day)
    assert run_days(two_days, "2024-01-06", "2024-01-07", "--policy", "0") == 0
    out = capsys.readouterr().out
    assert out.count("recorded already, left out") == 1 and "train_targeted: up to date, left out" in out
    pd.testing.assert_frame_equal(read_days(two_days), before)


def test_bad_days_are_refused_before_anything_runs(tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    assert run_days(tmp_path / "warehouse", "2024-01-08", "2024-01-06") == 2
    assert "--from 2024-01-08 is after --to 2024-01-06" in capsys.readouterr().out
    assert run_days(tmp_path / "warehouse", "January", "2024-01-06") == 2
    assert "--from 'January'" in capsys.readouterr().out
    assert not (tmp_path / "warehouse" / "tables").exists()
