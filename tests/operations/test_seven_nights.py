"""Seven nights, of one more day of files or of the demo, leave the tables that one run of the seventh night leaves."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from deltalake import DeltaTable
from pyspark.sql import SparkSession

from schemas import columns as c
from tests.night import ROOT, run
from tests.nights.test_night import read

pytestmark = pytest.mark.faults

FIRST_DAY = datetime(2024, 3, 1, tzinfo=UTC)
DAYS, USERS, ITEMS_A_DAY = 7, 40, 6
JOBS = ("ingest", "tokenize_items", "build_sequences", "build_windows")
# When, and in which file, a row came in is not what it says.
BOOKKEEPING = {c.RUN_ID, c.REJECTED_AT, c.FIRST_SEEN, c.FILE_SEQUENCE}


def day_files(folder: Path, day: int, rng: np.random.Generator, earlier: list[pd.DataFrame]) -> None:
    """New recipes, the day's clicks, some of yesterday that come late, and some of yesterday again."""
    folder.mkdir(parents=True, exist_ok=True)
    start = FIRST_DAY + timedelta(days=day)
    first = day * ITEMS_A_DAY
    # Later items have larger ids: a night's new items come into the vocabulary in the order of their ids.
    names = [f"n{number:03d}" for number in range(first + ITEMS_A_DAY)]
    recipes = pd.DataFrame({"recipe no": names[first:], "out": start.isoformat()})
    recipes["name"] = [f"Dish of day {day} with herb {number}" for number in range(ITEMS_A_DAY)]
    recipes.to_csv(folder / f"catalog-{day}.csv", index=False)
    rows, known = 150, names[:first] or names
    is_late = rng.random(rows) < (0.1 if day else 0)
    seconds = rng.integers(0, 86_400, rows) - 86_400 * is_late
    clicks = pd.DataFrame(
        {
            "reader": [f"r{user:02d}" for user in rng.zipf(1.5, rows) % USERS],
            "recipe no": rng.choice(known, rows),
            "clicked at": [(start + timedelta(seconds=int(second))).isoformat() for second in seconds],
            "page.area": rng.choice(["home", "search"], rows),
            "did": rng.choice(["open", "save"], rows, p=[0.8, 0.2]),
        }
    )
    again = earlier[-1].sample(10, random_state=day) if earlier else clicks.head(0)
    earlier.append(clicks)
    pd.concat([clicks, again]).to_csv(folder / f"clicks-{day}.csv", index=False)


def configuration(folder: Path) -> Path:
    settings = yaml.safe_load((ROOT / "examples" / "your_data" / "mine.yaml").read_text(encoding="utf-8"))
    settings["sizes"] = "defaults"  # the first night would choose others than the seventh
    events, items = settings["source"]["events"], settings["source"]["items"]
    events |= {"path": str(folder / "clicks-*.csv")}
    events.pop("time_reading")
    settings["source"]["items"] = {
        "path": str(folder / "catalog-*.csv"), "item": items["item"], "title": "name", "published": "out"
    }  # fmt: skip
    settings["windows"] |= {"validation_days": 2}
    settings["sequences"] = {"max_length": 10, "buckets": 2}
    file = folder.parent / f"{folder.name}.yaml"
    file.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return file


def night_of(warehouse: Path, config: Path, day: int) -> None:
    as_of = FIRST_DAY + timedelta(days=day + 1)
    for job in JOBS:
        assert run(job, warehouse, "--set", f"as_of={as_of:%Y-%m-%dT%H:%M:%SZ}", config=config) == 0


def rows_of(warehouse: Path, table: str) -> list[str]:
    frame = read(warehouse, table)
    kept = [name for name in sorted(frame.columns) if name not in BOOKKEEPING]
    return sorted(repr([_plain(value) for value in row]) for row in frame[kept].itertuples(index=False))


def _plain(value: object) -> object:
    return value.tolist() if isinstance(value, np.ndarray) else value


def test_seven_nights_equal_one_run_of_the_seventh(spark: SparkSession, tmp_path: Path) -> None:
    assert spark is not None
    rng, earlier = np.random.default_rng(7), []  # type: ignore[var-annotated]
    folder = tmp_path / "files"
    nightly, at_once = tmp_path / "nightly" / "warehouse", tmp_path / "at_once" / "warehouse"
    for day in range(DAYS):
        day_files(folder, day, rng, earlier)
        config = configuration(folder)
        night_of(nightly, config, day)
    night_of(at_once, config, DAYS - 1)
    assert len(read(at_once, "events")) == len(pd.concat(earlier).drop_duplicates())
    for table in ("events", "items", "item_vocabulary", "item_tokens", "user_sequences", "training_windows"):
        assert rows_of(nightly, table) == rows_of(at_once, table), table
    # What comes again is stored already, and counted as that: nothing is refused, and the tables have no file.
    for table in ("events_rejected", "items_rejected"):
        assert not DeltaTable(str(nightly / "tables" / table)).file_uris()


def test_seven_days_of_the_demo_equal_one_run_of_the_seventh(
    spark: SparkSession, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert spark is not None
    demo, some = ROOT / "conf" / "demo.yaml", ("--set", "source.households=300")  # every job of every day, in minutes
    nightly, at_once = tmp_path / "nightly" / "warehouse", tmp_path / "at_once" / "warehouse"
    for day in range(28, 35):
        as_of = datetime(2017, 11, 1, tzinfo=UTC) + timedelta(days=day - 1)
        capsys.readouterr()
        for job in JOBS:
            assert run(job, nightly, "--set", f"as_of={as_of:%Y-%m-%dT%H:%M:%SZ}", *some, config=demo) == 0
        assert ("full build" in capsys.readouterr().out) == (day == 28)
    for job in JOBS:
        assert run(job, at_once, *some, config=demo) == 0  # as of the seventh night
    for table in ("events", "items", "item_vocabulary", "item_tokens", "user_sequences", "training_windows"):
        assert rows_of(nightly, table) == rows_of(at_once, table), table
