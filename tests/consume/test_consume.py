"""Own rows joined with published vectors: exact, blind to what came later, the same in pandas, Arrow and Spark."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from pyspark.sql import SparkSession

from precise_core import consume
from precise_core.consume.join_spark import join_vectors as join_in_spark
from precise_core.consume.join_spark import readable_publications
from precise_core.errors import CheckpointError, HistoryGoneError, MissingTableError, SchemaError, VersionMixError
from schemas import ITEM_EMBEDDINGS, PUBLISHED_MODELS, USER_EMBEDDINGS, Table
from schemas import columns as c

MONDAY = datetime(2024, 3, 4, tzinfo=UTC)
DAY, HOUR = timedelta(days=1), timedelta(hours=1)

Vectors = dict[tuple[str, str], tuple[datetime, list[float]]]  # (id, checkpoint) -> when it was computed, vector


class World:
    """Nights and hours that encode and publish; ``seen`` is what readers had after each of them."""

    def __init__(self, root: Path) -> None:
        self.root, self.draw = root, random.Random(3)
        self.users: Vectors = {}
        self.items: Vectors = {}
        self.seen: list[tuple[datetime, str, Vectors, Vectors]] = []

    def publish(
        self,
        at: datetime,
        version: str,
        users: Sequence[str],
        items: Sequence[str],
        as_of: datetime | None = None,
        *,
        valid_from: datetime | None = None,
        gone: Sequence[str] = (),
    ) -> None:
        """Encode these users and items, take out those ``gone``, and publish at ``at``, with events up to ``as_of``.

        ``as_of`` and ``valid_from`` are ``at`` by default.
        """
        self.users = {key: found for key, found in self.users.items() if key[0] not in gone}
        self.items = {key: found for key, found in self.items.items() if key[0] not in gone}
        self.users |= {(user, version): (as_of or at, self._vector()) for user in users}
        self.items |= {(item, version): (at, self._vector()) for item in items}
        common = {c.TASK: "all"}
        users_rows = [
            common | {c.USER_ID: name, c.MODEL_VERSION: of, c.AS_OF: when, c.EMBEDDING: vector}
            for (name, of), (when, vector) in self.users.items()
        ]
        item_rows = [
            {c.ITEM_ID: name, c.MODEL_VERSION: of, c.EMBEDDED_AT: when, c.EMBEDDING: vector}
            for (name, of), (when, vector) in self.items.items()
        ]
        versions = [
            (t.name, self._write(t, r)) for t, r in ((USER_EMBEDDINGS, users_rows), (ITEM_EMBEDDINGS, item_rows))
        ]
        row = {c.MODEL_VERSION: version, c.AS_OF: as_of or at, "table_versions": versions, "published_at": at}
        row |= {c.VALID_FROM: valid_from or at}
        self._write(PUBLISHED_MODELS, [common | row])
        self.seen.append((valid_from or at, version, dict(self.users), dict(self.items)))

    def expected(self, user: str, item: str, at: datetime) -> tuple[str, list[float] | None, list[float] | None]:
        """What a reader had at the instant."""
        known = [seen for seen in self.seen if seen[0] <= at]
        _, version, users, items = known[-1] if known else (at, self.seen[0][1], {}, {})
        pair = users.get((user, version)), items.get((item, version))
        return version, *(found[1] if found else None for found in pair)  # type: ignore[return-value]

    def _vector(self) -> list[float]:
        return [self.draw.choice((-1.0, 0.5, 2.0)) for _ in range(3)]

    def _write(self, table: Table, rows: list[dict[str, Any]]) -> int:
        schema = table.arrow_schema()
        plain = {"string": "", "int32": 0, "int64": 0, "bool": False, "timestamp[us, tz=UTC]": MONDAY}
        defaults = {field.name: None if field.nullable else plain.get(str(field.type), []) for field in schema}
        path = self.root / "tables" / table.name
        path.mkdir(parents=True, exist_ok=True)
        arrow = pa.Table.from_pylist([defaults | row for row in rows], schema=schema)
        write_deltalake(str(path), arrow, mode="overwrite", partition_by=list(table.partition_by) or None)
        return DeltaTable(str(path)).version()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    made = World(tmp_path_factory.mktemp("consume"))
    made.publish(MONDAY, "a", ["u1", "u2", "u3"], ["i1", "i2"])
    made.publish(MONDAY + DAY, "a", ["u1"], ["i3"])  # one user has new events, one item is new
    made.publish(MONDAY + DAY + 9 * HOUR, "a", [], ["i2", "i4"], MONDAY + DAY)  # the hourly run: a new text, a new item
    made.publish(MONDAY + 35 * HOUR, "a", ["u2"], [], gone=["i1", "u3"])  # the same checkpoint, without these
    # Published hours after the instant that its users know the world up to.
    made.publish(MONDAY + 2 * DAY, "b", ["u1", "u2"], ["i1", "i2", "i3", "i4"], MONDAY + 44 * HOUR)
    return made


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    """Every user with every item, before, at and after every publication; in no order."""
    hours = [-1, 0, 20, 24, 30, 33, 34, 36, 45, 47, 48, 90]
    triples = [(f"u{u}", f"i{i}", MONDAY + hour * HOUR) for u in range(1, 5) for i in range(1, 6) for hour in hours]
    random.Random(1).shuffle(triples)
    return pd.DataFrame(triples, columns=["who", "what", "shown"], index=range(1000, 1000 + len(triples)))


NAMES: dict[str, Any] = {"at": "shown", "user": "who", "item": "what"}


def plain(value: Any) -> list[float] | None:
    return None if value is None else list(value)


def test_each_row_has_what_readers_had_at_its_instant(world: World, rows: pd.DataFrame) -> None:
    joined = consume.join_vectors(rows, world.root, version=consume.AS_OF, **NAMES)
    pd.testing.assert_frame_equal(joined[rows.columns], rows)
    for row in joined.itertuples():
        version, user, item = world.expected(row.who, row.what, row.shown.to_pydatetime())
        assert (row.model_version, plain(row.user_embedding), plain(row.item_embedding)) == (version, user, item)
        expected = np.nan if user is None or item is None else np.dot(user, item)
        np.testing.assert_equal(row.precise_score, np.float32(expected))
    assert joined[c.PRECISE_SCORE].notna().sum() > 50 and joined[c.PRECISE_SCORE].isna().sum() > 50


def test_rows_that_a_join_would_overwrite_are_refused_in_spark_as_in_pandas(world: World, spark: SparkSession) -> None:
    taken = spark.createDataFrame(
        [("u1", "i1", MONDAY, "mine")], "who string, what string, shown timestamp, model_version string"
    )
    with pytest.raises(SchemaError, match=r"have \['model_version'\] already"):
        join_in_spark(taken, world.root, **NAMES)


def test_spark_and_arrow_give_what_pandas_gives(world: World, rows: pd.DataFrame, spark: SparkSession) -> None:
    gaps = [rows.head(4).assign(**{name: None}) for name in rows.columns]
    rows = pd.concat([rows, rows.tail(3), *gaps]).astype({"shown": "datetime64[us, UTC]"})
    expected = consume.join_vectors(rows, world.root, version=consume.AS_OF, **NAMES).reset_index(drop=True)
    table = pa.Table.from_pandas(rows, preserve_index=False)
    arrow = consume.join_vectors(table, world.root, version=consume.AS_OF, **NAMES)
    assert arrow.column_names == [*table.column_names, *expected.columns[3:]]
    numbered = table.append_column("n", pa.array(range(len(rows)))).to_pandas()
    schema = "who string, what string, shown timestamp, n bigint"
    frame = spark.createDataFrame(numbered.astype(object).where(numbered.notna(), None), schema)
    frame = frame.withColumnsRenamed({"who": "log.User", "shown": "at `1`"})  # names that Spark would take apart
    names = {"user": "log.user", "item": "what", "at": "at `1`"}
    found = join_in_spark(frame, world.root, **names).orderBy("n").toPandas()
    assert list(found.columns) == [*frame.columns, *expected.columns[3:]] and len(found) == len(rows)
    for other in (arrow.to_pandas(), found):
        for name in (c.USER_EMBEDDING, c.ITEM_EMBEDDING):
            assert [plain(value) for value in other[name]] == [plain(value) for value in expected[name]]
        np.testing.assert_array_equal(other[c.PRECISE_SCORE], expected[c.PRECISE_SCORE])
        assert other[c.MODEL_VERSION].tolist() == expected[c.MODEL_VERSION].tolist()


def test_what_is_computed_or_published_later_is_not_joined_to_an_earlier_instant(tmp_path: Path) -> None:
    """By default, too: neither an item encoded again since, nor a model that was published hours after its `as_of`."""
    world = World(tmp_path)
    world.publish(MONDAY + 4 * HOUR, "a", ["u1"], ["i1"], MONDAY)
    world.publish(MONDAY + 15 * HOUR, "a", [], ["i1"], MONDAY)  # another text
    (_, _, _, before), (_, _, _, after) = world.seen
    shown = pd.DataFrame({"who": "u1", "what": "i1", "shown": [MONDAY + hour * HOUR for hour in (1, 10, 16)]})
    expected = [None, before["i1", "a"][1], after["i1", "a"][1]]
    by_instant = consume.join_vectors(shown, tmp_path, version=consume.AS_OF, **NAMES)
    assert [plain(value) for value in by_instant[c.ITEM_EMBEDDING]] == expected
    of_now = consume.join_vectors(shown, tmp_path, **NAMES)
    assert [plain(value) for value in of_now[c.ITEM_EMBEDDING]] == [None, None, expected[2]]


def test_a_night_of_the_past_is_valid_from_its_own_instant(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.publish(MONDAY + 900 * DAY, "a", ["u1"], ["i1"], MONDAY, valid_from=MONDAY)  # encoded and published today
    shown = pd.DataFrame({"who": "u1", "what": "i1", "shown": [MONDAY - HOUR, MONDAY]})
    for version in (consume.PUBLISHED, consume.AS_OF):
        joined = consume.join_vectors(shown, tmp_path, version=version, **NAMES)
        assert joined[c.PRECISE_SCORE].notna().tolist() == [False, True]


def test_by_default_the_published_checkpoint_and_never_before_it(world: World, rows: pd.DataFrame) -> None:
    joined = consume.join_vectors(rows, world.root, **NAMES)
    assert set(joined[c.MODEL_VERSION]) == {"b"} and consume.published(world.root).model_version == "b"
    has_any = joined[c.USER_EMBEDDING].notna() | joined[c.ITEM_EMBEDDING].notna()
    assert joined.loc[has_any, "shown"].min() == MONDAY + 2 * DAY
    at_the_end = joined[joined["shown"] > MONDAY + 3 * DAY]
    for row in at_the_end.itertuples():
        _, user, item = world.expected(row.who, row.what, row.shown.to_pydatetime())
        assert (plain(row.user_embedding), plain(row.item_embedding)) == (user, item)


def test_a_checkpoint_can_be_named(world: World, rows: pd.DataFrame) -> None:
    joined = consume.join_vectors(rows, world.root, version="a", **NAMES)
    u1 = joined[joined["who"] == "u1"]
    assert u1.loc[u1[c.USER_EMBEDDING].notna(), "shown"].min() == MONDAY + DAY  # what it is now is of Tuesday
    with pytest.raises(VersionMixError, match=r"no vectors of 'z' for task 'all'; it has those of \['a', 'b'\]"):
        consume.join_vectors(rows, world.root, version="z", **NAMES)


def test_what_was_taken_back_counts_as_if_it_had_never_been(tmp_path: Path) -> None:
    world = World(tmp_path)
    for day, version in enumerate(["a", "b", "c"]):
        world.publish(MONDAY + day * DAY, version, ["u1"], ["i1"])
    world.publish(MONDAY, "a", [], [])  # back to Monday
    assert [was.model_version for was in consume.publication_history(tmp_path)] == ["a"]
    world.publish(MONDAY + 2 * DAY, "d", ["u1"], ["i1"])
    history = consume.publication_history(tmp_path)
    assert [(was.model_version, was.as_of) for was in history] == [("a", MONDAY), ("d", MONDAY + 2 * DAY)]


def test_publications_whose_files_are_gone_are_left_out(tmp_path: Path, rows: pd.DataFrame) -> None:
    world = World(tmp_path)
    for day, version in enumerate(["a", "b", "c"]):
        world.publish(MONDAY + day * DAY, version, ["u1"], ["i1"])
    history = consume.publication_history(tmp_path)
    assert readable_publications(tmp_path, history) == history
    path = str(tmp_path / "tables" / "user_embeddings")
    files = [set(DeltaTable(path, version=version).file_uris()) for version in range(3)]
    for file in files[1] - files[2]:
        Path(file).unlink()
    assert [was.model_version for was in readable_publications(tmp_path, history)] == ["c"]
    with pytest.raises(HistoryGoneError, match="files of version 1 are gone"):
        consume.join_vectors(rows, tmp_path, version=consume.AS_OF, **NAMES)
    for file in files[2]:
        Path(file).unlink()
    with pytest.raises(HistoryGoneError, match="the vectors that were published for 'all' are gone"):
        readable_publications(tmp_path, history)


def test_history_begins_where_the_log_does(tmp_path: Path) -> None:
    world = World(tmp_path)
    for day, version in enumerate(["a", "b", "c"]):
        world.publish(MONDAY + day * DAY, version, ["u1"], ["i1"])
    table = DeltaTable(str(tmp_path / "tables" / "published_models"))
    table.create_checkpoint()
    for entry in sorted((tmp_path / "tables" / "published_models" / "_delta_log").glob("*.json"))[:2]:
        entry.unlink()
    assert [was.model_version for was in consume.publication_history(tmp_path)] == ["c"]


def test_no_rows_are_no_fault(world: World, rows: pd.DataFrame) -> None:
    for version in (consume.PUBLISHED, consume.AS_OF):
        table = pa.Table.from_pandas(rows.head(0), preserve_index=False).cast(
            pa.schema([("who", pa.string()), ("what", pa.string()), ("shown", pa.timestamp("us", "UTC"))])
        )
        assert consume.join_vectors(table, world.root, version=version, **NAMES).num_rows == 0


def test_what_cannot_be_joined_is_named(world: World, rows: pd.DataFrame, tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match=r"rows lack \['user_id', 'item_id'\]"):
        consume.join_vectors(rows, world.root, at="shown")
    with pytest.raises(SchemaError, match=r"'shown' is timestamp\[ns\]; .*utc=True"):
        consume.join_vectors(rows.assign(shown=rows["shown"].dt.tz_localize(None)), world.root, **NAMES)
    with pytest.raises(SchemaError, match=r"'who' is int64; ids are text"):
        consume.join_vectors(rows.assign(who=1), world.root, **NAMES)
    with pytest.raises(SchemaError, match=r"have \['precise_score'\] already"):
        consume.join_vectors(rows.assign(precise_score=1.0), world.root, **NAMES)
    with pytest.raises(CheckpointError, match=r"no model is published for task 'buy'; published are \['all'\]"):
        consume.join_vectors(rows, world.root, task="buy", **NAMES)
    with pytest.raises(MissingTableError, match="published_models is not in .*: give the folder named `warehouse`"):
        consume.join_vectors(rows, tmp_path, **NAMES)


def test_importing_it_starts_neither_spark_nor_torch() -> None:
    code = "import sys, precise_core.consume; print(sorted({'pyspark', 'torch', 'delta'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_freshness_of_a_night(night: Path) -> None:
    as_of = datetime(2024, 2, 20, tzinfo=UTC)  # of conf/synthetic.yaml
    found = consume.freshness(night, now=as_of + 5 * HOUR).set_index("table")
    vectors = found.loc["user_embeddings"]
    assert (vectors["job"], vectors["last_status"], vectors["age"]) == ("embed_users", "succeeded", 5 * HOUR)
    assert vectors["rows"] > 0 and vectors["finished_at"] <= datetime.now(UTC)
    assert {"ranking_features", "published_models", "recall_candidates"} <= set(found.index)
