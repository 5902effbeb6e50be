"""Vectors as they stood at an instant: exact against looking at every vector, blind to whatever comes later."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pyspark.sql import SparkSession

from precise_core.consume.join_spark import PUBLICATION, PublishedVersion, join_as_of
from precise_core.errors import DataError

START = datetime(2024, 3, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
VERSIONS = [PublishedVersion("a", START, "s"), PublishedVersion("b", START + 30 * HOUR, "s")]
VERSIONS += [PublishedVersion("c", START + 60 * HOUR, "t")]

Vector = tuple[str, str, datetime, list[float]]


def random_vectors(draw: random.Random, prefix: str) -> list[Vector]:
    """Several vectors per entity and version, some from before the version was in use, some after it was."""
    keys = {
        (f"{prefix}{draw.randrange(6)}", version.model_version, version.since + draw.randrange(-20, 50) * HOUR)
        for version in VERSIONS
        for _ in range(14)
    }
    return [(*key, [draw.choice((-1.0, 0.5, 2.0)) for _ in range(3)]) for key in sorted(keys)]


DRAW = random.Random(5)
USERS, ITEMS = random_vectors(DRAW, "u"), random_vectors(DRAW, "i")
# Half of the instants are those of a vector.
ROWS = [
    (number, f"u{DRAW.randrange(7)}", f"i{DRAW.randrange(7)}",
     DRAW.choice(USERS + ITEMS)[2] if number % 2 else START + DRAW.randrange(-10, 100) * HOUR)
    for number in range(150)
]  # fmt: skip


def joined(spark: SparkSession, users: list[Vector], items: list[Vector], versions: list[PublishedVersion]) -> Any:
    shape = f"{{}} string, {PUBLICATION} int, since timestamp, embedding array<float>"
    places = {of.model_version: place for place, of in enumerate(sorted(versions, key=lambda of: of.since))}
    users, items = ([(key, places[of], *rest) for key, of, *rest in rows if of in places] for rows in (users, items))
    frame = join_as_of(
        spark.createDataFrame(ROWS, "n int, user_id string, what string, at timestamp"),
        spark.createDataFrame(users, shape.format("user_id")),
        spark.createDataFrame(items, shape.format("item_id")),
        versions,
        at="at",
        item="what",
    )
    rows = frame.collect()
    assert len(rows) == len(ROWS)
    return {row["n"]: row for row in rows}


def newest(vectors: list[Vector], key: str, version: str, at: datetime) -> list[float] | None:
    known = [(since, vector) for name, of, since, vector in vectors if (name, of) == (key, version) and since <= at]
    return max(known)[1] if known else None


def test_each_row_gets_the_newest_pair_of_the_version_in_use(spark: SparkSession) -> None:
    found, pairs = joined(spark, USERS, ITEMS, VERSIONS[::-1]), 0
    for number, user, item, at in ROWS:
        version = [version for version in VERSIONS if version.since <= at or version is VERSIONS[0]][-1]
        row, name = found[number], version.model_version
        assert (row["model_version"], row["vector_space"]) == (name, version.space)
        expected = newest(USERS, user, name, at), newest(ITEMS, item, name, at)
        assert (row["user_embedding"], row["item_embedding"]) == expected
        if None in expected:
            assert row["precise_score"] is None
        else:
            pairs += 1
            assert row["precise_score"] == pytest.approx(sum(a * b for a, b in zip(*expected, strict=True)))
    assert pairs > 20


def test_nothing_that_comes_later_changes_a_row(spark: SparkSession) -> None:
    at = START + 45 * HOUR
    poisoned = []
    for vectors in (USERS, ITEMS):
        later = [(key, of, at + HOUR, [9.0, 9.0, 9.0]) for key, of, _, _ in vectors]
        poisoned.append([row for row in vectors if row[2] <= at] + sorted({row[:3]: row for row in later}.values()))
    versions = [*VERSIONS[:2], PublishedVersion("poison", at + HOUR, "p")]
    clean, other = joined(spark, USERS, ITEMS, VERSIONS), joined(spark, *poisoned, versions)
    before = [row[0] for row in ROWS if row[3] <= at]
    assert len(before) > 40
    assert [clean[number] for number in before] == [other[number] for number in before]


def test_two_versions_of_one_instant_are_refused(spark: SparkSession) -> None:
    with pytest.raises(DataError, match="a and x are both in use since"):
        joined(spark, USERS, ITEMS, [*VERSIONS, PublishedVersion("x", START, "s")])
    with pytest.raises(DataError, match="no published version"):
        joined(spark, USERS, ITEMS, [])
