"""consume.join_vectors with any frame that has the three columns: as many rows as came in, each with what is its own.

What a row must get is counted by plain loops over what was published; test_consume.py has the meaning of a publication.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from dateutil.tz import tzoffset
from hypothesis import given, settings
from hypothesis import strategies as st

from precise_core import consume
from precise_core.consume.keys import ADDED
from precise_core.errors import SchemaError
from tests.consume.test_consume import DAY, HOUR, MONDAY, World

Triple = tuple[str | None, str | None, datetime | None]

MICRO = timedelta(microseconds=1)
SHIFTS = (-HOUR, -MICRO, 0 * HOUR, MICRO, HOUR, DAY - MICRO, DAY, DAY + MICRO, 9 * DAY)
FAR = [datetime(1970, 1, 1, tzinfo=UTC) - MICRO, datetime(1, 1, 2, tzinfo=UTC), datetime(9999, 12, 30, tzinfo=UTC)]
USERS, ITEMS = st.sampled_from(["u1", "u2", "stranger", "", None]), st.sampled_from(["i1", "i2", "nothing", None])
FRAMES = st.lists(
    st.tuples(USERS, ITEMS, st.sampled_from([*(MONDAY + shift for shift in SHIFTS), *FAR, None])), max_size=12
)
WHOLE = st.tuples(USERS, ITEMS, st.sampled_from([MONDAY - HOUR, MONDAY, MONDAY + DAY, MONDAY + 9 * DAY, None]))
VERSIONS = pytest.mark.parametrize("version", [consume.PUBLISHED, consume.AS_OF, "b"])


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    made = World(tmp_path_factory.mktemp("any-frame"))
    made.publish(MONDAY, "a", ["u1", "u2"], ["i1"])
    made.publish(MONDAY + DAY, "b", ["u1"], ["i1", "i2"])
    return made


def expected(world: World, rows: list[Triple], version: str) -> list[tuple[Any, ...]]:
    """user and item vector, score, checkpoint and space of every row, by a loop."""
    result: list[tuple[Any, ...]] = []
    for user, item, at in rows:
        if at is None:
            result.append((None,) * 5)
            continue
        name, left, right = world.expected(str(user), str(item), at)
        if version != consume.AS_OF:  # what is there now, for rows since then
            since, name, users, items = world.seen[-1]
            of_now = users.get((str(user), name)), items.get((str(item), name))
            left, right = (pair[1] if pair and since <= at else None for pair in of_now)
        score = None if left is None or right is None else sum(a * b for a, b in zip(left, right, strict=True))
        result.append((left, right, score, name, name))
    return result


def added(joined: pd.DataFrame | pa.Table) -> list[tuple[Any, ...]]:
    table = joined if isinstance(joined, pa.Table) else pa.Table.from_pandas(joined[list(ADDED)], preserve_index=False)
    return list(zip(*(table[name].to_pylist() for name in ADDED), strict=True))


def arrow(rows: list[Triple], unit: str = "us", zone: str = "UTC", ids: str = "string") -> pa.Table:
    users, items, times = ([row[place] for row in rows] for place in range(3))
    at = pa.array(times, pa.timestamp("us", "UTC")).cast(pa.timestamp(unit, "UTC")).cast(pa.timestamp(unit, zone))
    texts = [pa.array(values, ids.removesuffix(" dictionary")) for values in (users, items)]
    texts = [text.dictionary_encode() for text in texts] if ids.endswith("dictionary") else texts
    return pa.table([pa.array(range(len(rows)), pa.int64()), *texts, at], ["n", "user_id", "item_id", "at"])


@VERSIONS
@given(rows=FRAMES)
@settings(max_examples=40, deadline=None)
def test_as_many_rows_as_came_in_each_with_its_own(world: World, version: str, rows: list[Triple]) -> None:
    table = arrow(rows)
    joined = consume.join_vectors(table, world.root, at="at", version=version)
    assert joined.select(table.column_names).equals(table)
    assert added(joined) == expected(world, rows, version)


@VERSIONS
@given(
    rows=st.lists(WHOLE, max_size=8),
    unit=st.sampled_from(["s", "ms", "us", "ns"]),
    zone=st.sampled_from(["UTC", "Europe/Berlin", "+05:30", "America/St_Johns"]),
    ids=st.sampled_from(["large_string", "string dictionary", "large_string dictionary"]),
)
@settings(max_examples=30, deadline=None)
def test_units_zones_and_encodings_change_nothing(
    world: World, version: str, rows: list[Triple], unit: str, zone: str, ids: str
) -> None:
    halves = [arrow(part, unit, zone, ids) for part in (rows[:1], rows[1:])]
    for table in (arrow(rows, unit, zone, ids), pa.concat_tables(halves)):
        joined = consume.join_vectors(table, world.root, at="at", version=version)
        assert joined.num_rows == len(rows) and added(joined) == expected(world, rows, version)
    frame = table.to_pandas()
    joined = consume.join_vectors(frame, world.root, at="at", version=version)
    pd.testing.assert_frame_equal(joined[frame.columns], frame)
    assert added(joined) == expected(world, rows, version)


ROWS: list[Triple] = [
    ("u1", "i1", MONDAY + 2 * DAY), ("u1", "i1", MONDAY + 2 * DAY), ("u1", "i2", None), (None, "i1", MONDAY + DAY),
    ("u1", None, MONDAY + DAY), ("u2", "i1", MONDAY + HOUR), ("u1", "i1", MONDAY - HOUR), (None, None, None),
]  # fmt: skip


def objects(frame: pd.DataFrame) -> pd.DataFrame:
    zones = [UTC, tzoffset("here", 3600), None]
    times = [None if pd.isna(at) else at.to_pydatetime().astimezone(zones[n % 2]) for n, at in enumerate(frame["at"])]
    return frame.assign(at=pd.Series(times, dtype=object, index=frame.index))


FORMS: dict[str, Callable[[pd.DataFrame], pd.DataFrame]] = {
    "nanoseconds": lambda frame: frame.assign(at=frame["at"].astype("datetime64[ns, UTC]")),
    "seconds": lambda frame: frame.assign(at=frame["at"].astype("datetime64[s, Asia/Tokyo]")),
    "a zone of dateutil": lambda frame: frame.assign(at=frame["at"].dt.tz_convert(tzoffset("here", 3600))),
    "Python's datetimes of several zones": objects,
    "columns of Arrow": lambda frame: pa.Table.from_pandas(frame).to_pandas(types_mapper=pd.ArrowDtype),
    "text of pandas": lambda frame: frame.astype({"user_id": "string", "item_id": "string[pyarrow]"}),
    "categories": lambda frame: frame.astype({"user_id": "category", "item_id": "category"}),
    "NaN for None": lambda frame: frame.assign(user_id=frame["user_id"].fillna(np.nan)),
    "an index with repetitions": lambda frame: frame.set_axis([7] * len(frame)),
    "an index of two levels": lambda frame: frame.set_index(["n", "user_id"], drop=False),
    "no rows": lambda frame: frame.head(0),
    "no rows and no types": lambda frame: pd.DataFrame(columns=frame.columns),
    "one row": lambda frame: frame.tail(1),
    "no user at all": lambda frame: frame.assign(user_id=np.nan),
    "no item at all": lambda frame: frame.assign(item_id=None),
    "no time at all": lambda frame: frame.assign(at=pd.NaT),
}


@pytest.mark.parametrize("version", [consume.PUBLISHED, consume.AS_OF])
@pytest.mark.parametrize("form", FORMS)
def test_a_frame_of_pandas_may_have_any_form(world: World, version: str, form: str) -> None:
    plain = pd.DataFrame(ROWS, columns=["user_id", "item_id", "at"])
    plain = plain.assign(n=range(len(ROWS)), other=[[1, 2]] * len(ROWS))
    frame = FORMS[form](plain)
    joined = consume.join_vectors(frame, world.root, at="at", version=version)
    pd.testing.assert_frame_equal(joined[frame.columns], frame)
    columns = ([None if pd.isna(value) else value for value in frame[name]] for name in ("user_id", "item_id", "at"))
    assert added(joined) == expected(world, list(zip(*columns, strict=True)), version)


@pytest.mark.parametrize("version", [consume.PUBLISHED, consume.AS_OF])
def test_a_nanosecond_lies_in_its_microsecond(world: World, version: str) -> None:
    nanoseconds = [pd.Timestamp(MONDAY + DAY).value + shift for shift in (-1, 0, 1, 999)] + [-1, -999, -1001]
    at = pa.array(nanoseconds).cast(pa.timestamp("ns", "UTC"))
    table = pa.table({"user_id": ["u2"] * 7, "item_id": ["i2"] * 7, "at": at})
    joined = consume.join_vectors(table, world.root, at="at", version=version)
    is_joined = [vector is not None for vector in joined["item_embedding"].to_pylist()]
    assert is_joined == [False, True, True, True, False, False, False]
    assert joined["at"].equals(table["at"])


def test_a_frame_of_polars_goes_through_arrow(world: World) -> None:
    frame = pl.from_arrow(arrow(ROWS))
    joined = pl.from_arrow(consume.join_vectors(frame.to_arrow(), world.root, at="at"))
    assert joined["precise_score"].to_list() == [row[2] for row in expected(world, ROWS, consume.PUBLISHED)]
    with pytest.raises(SchemaError, match="a pandas DataFrame or a pyarrow Table is needed .of Polars: rows.to_arrow"):
        consume.join_vectors(frame, world.root, at="at")  # type: ignore[type-var]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"at": [MONDAY, MONDAY.replace(tzinfo=None)]}, r"'at' holds datetime.datetime\(2024, 3, 4, 0, 0\); a "),
        ({"at": [MONDAY, MONDAY.date()]}, r"'at' holds datetime.date\(2024, 3, 4\); a timestamp with a time zone"),
        ({"at": ["2024-03-04", None]}, "'at' holds '2024-03-04'; a timestamp with a time zone"),
        ({"at": [1.7e9, None]}, "'at' is double; a timestamp with a time zone"),
        ({"at": pd.to_datetime([MONDAY, None]).tz_localize(None)}, r"'at' is timestamp\[ns\]; a timestamp with a"),
        ({"user_id": [1, 2]}, r"'user_id' is int64; ids are text, e.g. rows\['user_id'\].astype\(str\)"),
        ({"user_id": [1, None]}, "'user_id' is double; ids are text"),
        ({"item_id": [b"i1", None]}, "'item_id' is binary; ids are text"),
        ({"item_id": ["i1", 2]}, "'item_id' holds values of several kinds: "),
        ({"item_id": [1j, 2j]}, "'item_id' holds complex values, which Arrow cannot take: "),
    ],
)  # fmt: skip
def test_what_cannot_be_joined_is_named_in_one_line(world: World, changes: dict[str, Any], message: str) -> None:
    frame = pd.DataFrame({"user_id": ["u1", "u2"], "item_id": "i1", "at": [MONDAY, MONDAY]}).assign(**changes)
    with pytest.raises(SchemaError, match=message) as error:
        consume.join_vectors(frame, world.root, at="at")
    assert "\n" not in str(error.value)


def test_a_column_that_is_there_twice_is_refused(world: World) -> None:
    frame = pd.DataFrame([["u1", "i1", MONDAY, "u2"]], columns=["user_id", "item_id", "at", "user_id"])
    with pytest.raises(SchemaError, match=r"rows have \['user_id'\] twice"):
        consume.join_vectors(frame, world.root, at="at")
    with pytest.raises(SchemaError, match=r"rows have \['user_id'\] twice"):
        consume.join_vectors(pa.table([["u1"], ["i1"], [MONDAY], ["u2"]], list(frame.columns)), world.root, at="at")
