"""Sizes by the log: every log gets some that go together, what is written stays, and a warehouse keeps what it has."""

from __future__ import annotations

import json
from argparse import Namespace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyspark.sql import SparkSession

from precise_core.config import validated
from precise_core.errors import ConfigError
from precise_core.intake.chosen_sizes import (
    ChosenSizes,
    awaits_sizes,
    kept_line,
    read_sizes,
    size_lines,
    sized,
    with_sizes,
    write_sizes,
)
from precise_core.intake.log_profile import profile_of
from precise_core.intake.night import settle_sizes
from precise_core.intake.sizes import LogProfile, choose_sizes
from precise_core.run.job import Job
from precise_core.settings import Settings
from schemas import EVENTS
from tests.ingest_world import Shop

AS_OF = datetime(2024, 3, 1, tzinfo=UTC)
NOW = datetime(2024, 3, 2, 4, 5, 6, tzinfo=UTC)


def profile(events: int = 50_000, users: int = 2_000, days: float = 100.0, **more: Any) -> LogProfile:
    """A log of users who have about as many events each, a hundredth of whom were there lately."""
    each = max(events // users, 1)
    known: dict[str, Any] = {
        "as_of": AS_OF,
        "rows": events,
        "events": events,
        "users": users,
        "items": 500,
        "first": AS_OF - timedelta(days=days),
        "last": AS_OF - timedelta(days=days / 1000),
        "median_events": each,
        "q90_events": each * 2,
        "q99_events": each * 3,
        "idle_days": {"0.01": 0.0, "0.05": days / 500, "0.1": days / 200, "0.25": days / 20, "0.5": days / 4},
    }
    return LogProfile.model_validate(known | more)


def values(log: LogProfile) -> dict[str, Any]:
    return {key: value for group in choose_sizes(log).values() for key, value in group.values.items()}


def written(warehouse: Path, **sections: Any) -> Settings:
    config = {"name": "x", "warehouse": str(warehouse), "as_of": "2024-03-01", "source": {"kind": "synthetic"}}
    return validated(Settings, config | sections)


def chosen(log: LogProfile) -> ChosenSizes:
    return ChosenSizes(chosen_at=NOW, profile=log, groups=choose_sizes(log))


# The choice


def test_a_larger_log_gets_a_larger_model_and_fewer_epochs() -> None:
    logs = [profile(events, users) for events, users in ((500, 40), (50_000, 2_000), (10**6, 20_000), (10**8, 10**6))]
    found = [values(log) for log in logs]
    for key in ("model.fusion.id_width", "model.encoder.ffn_width", "universal.batch_size", "universal.max_minutes"):
        assert [one[key] for one in found] == sorted(one[key] for one in found), key
    epochs = [one["universal.epochs"] for one in found]
    assert epochs == sorted(epochs, reverse=True) and epochs[0] >= 20 and epochs[-1] >= 3


def test_windows_are_as_long_as_histories_are() -> None:
    assert values(profile(q99_events=41))["windows.length"] == 50
    assert values(profile(q99_events=1))["windows.length"] == 16
    long = values(profile(q99_events=5_000))
    assert (long["windows.length"], long["sequences.max_length"]) == (100, 200)
    assert values(profile(q99_events=21, days=7.0))["windows.length"] == 50  # a week old: they will be longer


def test_the_periods_are_a_part_of_the_log() -> None:
    month = values(profile(days=35.0))
    assert month["evaluation.test_days"] == month["windows.validation_days"] == 7
    assert values(profile(days=400.0))["windows.validation_days"] == 28
    ahead = values(profile(days=60.0, last_after=AS_OF + timedelta(days=9.7)))
    assert (ahead["evaluation.test_days"], ahead["windows.validation_days"]) == (9, 12)
    today = values(profile(days=60.0, last_after=AS_OF + timedelta(hours=3)))  # a night in production
    assert today["evaluation.test_days"] == 12


def test_a_log_of_rare_visitors_is_validated_on_a_longer_period() -> None:
    """Of 200 held-out users 30 must have been there, which takes the days in which a quarter of all was there."""
    rare = profile(users=2_000, days=4000.0, idle_days={"0.01": 9.0, "0.05": 40.0, "0.1": 90.0, "0.25": 300.0})
    assert values(rare)["windows.validation_days"] == 300
    ended = profile(days=4000.0, idle_days=dict.fromkeys(("0.01", "0.5"), 900.0))  # as_of long after the last event
    assert values(ended)["windows.validation_days"] == 900


EXTREMES = {
    "one event": profile(1, 1, days=0.0),
    "a billion events": profile(10**9, 10**7, items=10**6, days=3000.0),
    "every user has one event": profile(10_000, 10_000, q90_events=1, q99_events=1),
    "one hour": profile(days=1 / 24),
    "one user": profile(10**6, 1),
}


@pytest.mark.parametrize("log", EXTREMES.values(), ids=EXTREMES)
def test_extreme_logs_get_sizes(log: LogProfile, tmp_path: Path) -> None:
    sizes = chosen(log)
    found = with_sizes(written(tmp_path), sizes)
    assert found.evaluation.test_days >= 1 and found.universal.epochs >= 3
    assert 16 <= found.windows.length <= 100 and 16 <= found.universal.batch_size <= 128
    assert len(size_lines(written(tmp_path), sizes)) == 5


LOGS = st.builds(
    lambda events, users, days, q99, last_after: profile(
        max(events, users), users, days, q99_events=q99, last_after=last_after
    ),
    st.integers(1, 10**10),
    st.integers(1, 10**8),
    st.floats(0, 10_000),
    st.integers(1, 10**6),
    st.none() | st.floats(0, 4_000).map(lambda days: AS_OF + timedelta(days=days)),
)
# What a person may have written, each valid beside the defaults.
SECTIONS = st.fixed_dictionaries(
    {},
    optional={
        "windows": st.fixed_dictionaries({}, optional={"stride": st.integers(1, 100), "max_targets": st.just(5)})
        | st.integers(2, 100).map(lambda length: {"length": length, "stride": length}),
        "sequences": st.integers(1, 200).map(lambda length: {"max_lengths": {"all": length}}),
        "model": st.fixed_dictionaries(
            {},
            optional={
                "fusion": st.sampled_from([{}, {"id_width": 24}, {"token_width": 100}, {"mode": "id", "id_width": 60}]),
                "encoder": st.sampled_from(
                    [{}, {"heads": 1}, {"heads": 2}, {"max_length": 100}, {"max_length": 150}, {"layers": 3}]
                ),
                "late_fusion": st.booleans(),
            },
        ).filter(lambda model: not (model.get("late_fusion") and model.get("fusion", {}).get("mode") == "id")),
        "universal": st.sampled_from([{}, {"epochs": 0}, {"max_minutes": None}, {"optimizer": {"beta1": 0.8}}]),
    },
)


@settings(max_examples=60, deadline=None)
@given(LOGS, SECTIONS)
def test_any_log_goes_with_whatever_is_written(tmp_path_factory, log: LogProfile, sections: dict[str, Any]) -> None:  # type: ignore[no-untyped-def]
    plain = written(tmp_path_factory.getbasetemp(), **sections)
    sizes = ChosenSizes.model_validate_json(chosen(log).model_dump_json())
    found = with_sizes(plain, sizes)
    assert Settings.model_validate(found.model_dump()) == found  # every rule across keys holds
    assert found.model_dump(exclude_unset=True) == plain.model_dump(exclude_unset=True)  # what is written stays
    assert with_sizes(found, sizes) == found
    # A chosen size is in use for every key that is left out: nothing had to be left at the defaults.
    assert found.windows.validation_days == sizes.values["windows.validation_days"]
    assert found.windows.length <= found.model.encoder.max_length
    if "windows" not in sections:
        assert found.windows.length <= sizes.values["windows.length"]


def test_what_is_written_stays_and_the_rest_is_made_to_fit(tmp_path: Path) -> None:
    sizes = chosen(profile(q99_events=5_000))
    plain = written(tmp_path, model={"encoder": {"max_length": 100, "heads": 1}}, windows={"stride": 7})
    found = with_sizes(plain, sizes)
    assert (found.model.encoder.heads, found.windows.stride, found.windows.length) == (1, 7, 100)
    narrow = with_sizes(written(tmp_path, model={"fusion": {"id_width": 30, "token_width": 34}}), sizes)
    assert (narrow.model.fusion.id_width, narrow.model.encoder.heads) == (30, 2)
    lines = " ".join(size_lines(plain, sizes))
    assert "model.encoder.layers 2" in lines and "windows.stride" not in lines and "encoder.heads" not in lines


# The file


def test_the_sizes_of_a_warehouse_are_those_of_its_file(tmp_path: Path) -> None:
    plain = written(tmp_path, universal={"epochs": 4})
    assert awaits_sizes(plain) and sized(plain) == plain
    sizes = write_sizes(plain.warehouse, profile(), NOW)
    assert read_sizes(plain.warehouse) == sizes and not awaits_sizes(plain)
    found = sized(plain)
    assert found == sized(found) and found.universal.epochs == 4
    assert found.model.fusion.id_width == sizes.values["model.fusion.id_width"] != plain.model.fusion.id_width
    off = written(tmp_path, sizes="defaults")
    assert sized(off) == off and not awaits_sizes(off)


def test_later_nights_say_what_is_kept_and_when_the_log_has_outgrown_it(tmp_path: Path) -> None:
    sizes = chosen(profile(events=50_000))
    line = kept_line(written(tmp_path), sizes, 60_000)
    assert line.startswith(
        "sizes as chosen on 2024-03-02 by 50,000 events: sequences.max_length 80, windows.length 80,"
    )
    assert "delete" not in line and "delete sizes.json" in kept_line(written(tmp_path), sizes, 200_000)


@pytest.mark.parametrize("text", ["", "[]", '{"format": 2}', '{"format": 1, "groups": 3}'])
def test_a_damaged_file_is_named_in_one_line(tmp_path: Path, text: str) -> None:
    plain = written(tmp_path)
    (tmp_path / "sizes.json").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"sizes\.json: cannot be used .*; delete it, and ingest chooses sizes again"):
        sized(plain)


# The log, and the nights


def test_a_log_is_counted_before_as_of(spark: SparkSession) -> None:
    def at(days: float) -> datetime:
        return AS_OF + timedelta(days=days)

    rows = [("u1", "a", at(-10)), ("u1", "b", at(-4)), ("u1", "a", at(-4)), ("u2", "c", at(-1)), ("u2", "d", at(0))]
    rows.append(("u3", "a", at(2)))
    events = spark.createDataFrame(pd.DataFrame(rows, columns=["user_id", "item_id", "event_ts"]))
    found = profile_of(events, AS_OF)
    assert found is not None
    assert (found.rows, found.events, found.users, found.items) == (6, 4, 2, 3)
    assert (found.first, found.last, found.last_after) == (at(-10), at(-1), at(2))
    assert (found.median_events, found.q90_events, found.q99_events) == (1, 3, 3)
    assert (found.idle_days["0.01"], found.idle_days["0.5"], found.span_days, found.days_after) == (1, 1, 10, 2)
    assert profile_of(events, at(-20)) is None


class TalkingJob(Job):
    """`ingest` that has just written `events`, and remembers what it says."""

    def __init__(self, warehouse: Path, as_of: str, **sections: Any) -> None:
        super().__init__("ingest", sized(written(warehouse, as_of=as_of, **sections)), Namespace())
        self.output_versions = {"events": self.warehouse.version(EVENTS)}
        self.said: list[str] = []

    def say(self, message: str) -> None:
        self.said.append(message)

    def settle(self) -> str:
        settle_sizes(self, NOW)
        return "\n".join(self.said)


def test_a_warehouse_keeps_its_sizes_until_their_file_is_deleted(spark: SparkSession, tmp_path: Path) -> None:
    assert spark is not None
    shop = Shop(tmp_path)
    shop.day("1", *((f"{n}", f"u{n % 5}", "a", f"2024-03-{n + 1:02}", "buy") for n in range(20)))
    assert shop.run("ingest") == 0
    file = shop.warehouse / "sizes.json"
    assert not file.exists()  # by `sizes: defaults`

    early = TalkingJob(shop.warehouse, "2024-02-01")
    assert "no event before as_of" in early.settle() and not file.exists()

    first = TalkingJob(shop.warehouse, "2024-03-06", universal={"epochs": 4})
    said = first.settle()
    assert "sizes, lengths: sequences.max_length 16, windows.length 16" in said and "universal.epochs" not in said
    assert first.settings.windows.length == 16 and first.settings.universal.epochs == 4  # what the run records
    content = file.read_text(encoding="utf-8")
    assert json.loads(content)["profile"]["events"] == 5

    later = TalkingJob(shop.warehouse, "2024-03-20", universal={"epochs": 4})
    assert "sizes as chosen on 2024-03-02 by 5 events: sequences.max_length 16" in later.settle()
    assert file.read_text(encoding="utf-8") == content and later.settings.model == first.settings.model

    file.unlink()
    assert "sizes, periods: evaluation.test_days 3" in TalkingJob(shop.warehouse, "2024-03-20").settle()
    assert json.loads(file.read_text(encoding="utf-8"))["profile"]["events"] == 19

    off = TalkingJob(shop.warehouse, "2024-03-20", sizes="defaults")
    assert not off.settle() and off.settings.windows.length == 100
