"""A log that was sorted by item, or has one instant for all, is called by its name."""

from __future__ import annotations

import hashlib
import random
from itertools import pairwise
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyspark.sql import SparkSession

from precise_core.data_sets import amazon_sequences
from precise_core.data_sets.known_files import KnownFile
from precise_core.errors import DataError
from precise_core.intake.event_order import order_finding
from precise_core.intake.read import read_source
from precise_core.sources.config import AmazonSequencesSource
from tests.experiments.test_experiment import BY_ID, results, run_experiment
from tests.ingest_world import Shop, told


def log(histories: dict[str, list[tuple[int, str]]]) -> pd.DataFrame:
    """Per user (instant, item) pairs."""
    rows = [
        (user, item, instant, f"{user}-{n:03}")
        for user, history in histories.items()
        for n, (instant, item) in enumerate(history)
    ]
    return pd.DataFrame(rows, columns=["user_id", "item_id", "event_ts", "event_id"])


def histories(order: str, users: int = 40, seed: int = 1) -> dict[str, list[str]]:
    """Random items per user in the order of time, or as the withdrawn Amazon files had them."""
    rng = random.Random(seed)
    drawn = {f"u{user}": rng.sample(range(1000), rng.randint(3, 9)) for user in range(users)}
    sign = {"time": 0, "ascending": 1, "descending": -1}[order]
    return {user: [f"B{item:05}" for item in sorted(items, key=lambda i: sign * i)] for user, items in drawn.items()}


def timed(of_user: dict[str, list[str]], step: int = 1) -> dict[str, list[tuple[int, str]]]:
    return {user: [(step * n, item) for n, item in enumerate(items)] for user, items in of_user.items()}


@pytest.mark.parametrize(
    ("order", "says"), [("ascending", "100% of the 40 users.*ascend by item id"), ("descending", "descend by item id")]
)
def test_a_log_sorted_by_item_is_found(order: str, says: str) -> None:
    found = order_finding(log(timed(histories(order))))
    assert found is not None
    assert pd.Series([found]).str.contains(says).all()


def test_a_log_in_the_order_of_time_is_not() -> None:
    assert order_finding(log(timed(histories("time")))) is None


def test_a_few_users_in_another_order_hide_nothing() -> None:
    mixed = histories("ascending", users=38) | {"x": ["B9", "B1", "B5"], "y": ["B9", "B1", "B5"]}
    found = order_finding(log(timed(mixed)))
    assert found is not None and "95% of the 40 users" in found


def test_numbers_are_compared_as_numbers() -> None:
    rng = random.Random(3)
    by_number = {f"u{user}": [str(item) for item in sorted(rng.sample(range(2000), 9))] for user in range(20)}
    assert order_finding(log(timed(by_number))) is not None  # as text, "1000" is before "9"


def test_what_sorted_baskets_say_of_the_order_inside_them_does_not_count() -> None:
    rng = random.Random(5)
    baskets = {
        f"u{user}": [(day, f"B{item:05}") for day in range(4) for item in sorted(rng.sample(range(1000), 4))]
        for user in range(30)
    }
    assert order_finding(log(baskets)) is None


def test_one_instant_for_all_is_found_and_one_bucket_a_user_in_some_is_not() -> None:
    frozen = {user: [(7, item) for item in items] for user, items in histories("time").items()}
    found = order_finding(log(frozen))
    assert found is not None and "at one instant" in found
    half = {user: ([(7, i) for i in items] if n % 2 else list(enumerate(items))) for n, (user, items) in
            enumerate(histories("time").items())}  # fmt: skip
    assert order_finding(log(half)) is None


@pytest.mark.parametrize(
    "few",
    [
        {},
        {"u": [(1, "a"), (2, "b"), (3, "c")]},
        {f"u{n}": [(1, "a"), (2, "b")] for n in range(99)},
        {f"u{n}": [(1, "a"), (2, "a"), (3, "a")] for n in range(99)},  # the same item again and again
    ],
)
def test_what_tells_nothing_is_not_blamed(few: dict[str, list[tuple[int, str]]]) -> None:
    assert order_finding(log(few)) is None


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.lists(st.tuples(st.integers(0, 6), st.sampled_from("abcdefg")), min_size=1, max_size=6),
        min_size=10,
        max_size=16,
    )
)
def test_the_finding_is_that_of_a_plain_loop(users: list[list[tuple[int, str]]]) -> None:
    of_user = {f"u{n}": sorted(events, key=lambda event: event[0]) for n, events in enumerate(users)}
    many = [events for events in of_user.values() if len(events) >= 3]
    timed_users = [events for events in of_user.values() if len({instant for instant, _ in events}) >= 3]

    def is_sorted(events: list[tuple[int, str]], sign: int) -> bool:
        first = list(dict(reversed(events)).items())[::-1]  # of every instant
        steps = [sign * ((b[1] > a[1]) - (b[1] < a[1])) for a, b in pairwise(first)]
        return min(steps) >= 0 and max(steps) > 0

    frozen = [events for events in many if len({instant for instant, _ in events}) == 1]
    expected = len(many) >= 10 and len(frozen) >= 0.9 * len(many)
    if len(timed_users) >= 10:
        for sign in (1, -1):
            expected |= sum(is_sorted(events, sign) for events in timed_users) >= 0.9 * len(timed_users)
    assert (order_finding(log(of_user)) is not None) == expected


def put_files(folder: Path, order: str, monkeypatch: pytest.MonkeyPatch) -> AmazonSequencesSource:
    """The Amazon files in an order of items, taken for the known ones."""
    folder.mkdir()
    of_user = histories(order, users=30)
    items = sorted({item for row in of_user.values() for item in row})
    contents = {
        "Toys.user_sequence.txt": "".join(f"{user} {' '.join(row)}\n" for user, row in of_user.items()),
        "Toys.item_generative_indexing_phase_0.txt": "".join(f"{item} some words\n" for item in items),
    }
    for name, text in contents.items():
        (folder / name).write_text(text)
        known = KnownFile(len(text), hashlib.sha256(text.encode()).hexdigest())
        monkeypatch.setitem(amazon_sequences._FILES, name, known)
    return AmazonSequencesSource(kind="amazon_sequences", data=str(folder), domain="Toys")


def test_the_withdrawn_files_are_refused_with_the_reason(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert set(amazon_sequences._REFUSED) == {  # Sports and Toys of agiresearch/IDGenRec @ a297185
        "771ce98798c545aab4b48b30ecc1b7ebd045c41d287b87f07abbd773e11b6042",
        "cf2dfd59149a603b8fb3e84bc3c2fc21df0b3332ce62ac4453133fb730f6adf3",
    }
    source = put_files(tmp_path / "old", "ascending", monkeypatch)
    name = "Toys.user_sequence.txt"
    old_sum = amazon_sequences._FILES[name].sha256
    monkeypatch.setitem(amazon_sequences._FILES, name, KnownFile(1, "0"))
    monkeypatch.setitem(amazon_sequences._REFUSED, old_sum, amazon_sequences._WHY_REFUSED)
    with pytest.raises(DataError, match=r"Toys\.user_sequence\.txt: its items are sorted by item id.*IDGenRec#7.*GRAM"):
        read_source(spark, source)


def test_an_experiment_refuses_the_old_order_and_ingest_warns_of_it(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert spark is not None
    source = put_files(tmp_path / "data", "ascending", monkeypatch).model_dump()
    experiment = {"reference": "SASRec", "systems": {"SASRec": {"changes": BY_ID}}}
    sections = {
        "source": source,
        "as_of": "2030-01-01T00:00:00Z",
        "tasks": {},
        "windows": {"split": "leave_one_out", "length": 12, "stride": 12, "max_targets": 1},
    }
    assert run_experiment(tmp_path, experiment, **sections) == 2
    said = "".join(capsys.readouterr().out.split())
    assert "warning:events:theitemsof100%ofthe30userswith3instantsormoreascendbyitemid" in said
    assert "nothingiscomparedonit" in said
    assert not (tmp_path / "results.json").exists()
    assert run_experiment(tmp_path, {**experiment, "accept_doubtful_order": True}, **sections) == 0
    assert {row["user_filter"] for row in results(tmp_path)["tasks"]["all"]["figures"]} == {"all", "new"}


def test_own_files_in_the_order_of_items_are_warned_of_and_taken(
    spark: SparkSession, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert spark is not None
    shop = Shop(tmp_path)
    rows = [(f"{user}-{n}", f"u{user}", item, f"2024-03-0{n + 1}", "view") for user in range(12)
            for n, item in enumerate("abc")]  # fmt: skip
    shop.day("1", *rows)
    assert shop.run("ingest") == 0
    assert told(capsys, "the items of 100% of the 12 users with 3 instants or more ascend by item id")
    assert len(shop.rows("events")) == 36
