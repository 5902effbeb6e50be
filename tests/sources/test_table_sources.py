"""Delta tables and databases as sources, mapped by the same YAML as files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pytest
from deltalake import write_deltalake
from pydantic import ValidationError

from precise_core.sources.config import FileInput
from tests.ingest_world import Shop, told
from tests.postgres import PASSWORD, Postgres, running, server_programs

pytestmark = pytest.mark.usefixtures("spark")

NOON = datetime(2024, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)


@pytest.fixture(scope="module")
def database() -> Iterator[Postgres]:
    programs = server_programs()
    if programs is None and not os.environ.get("CI"):
        pytest.skip("no PostgreSQL server on this machine (Debian: apt-get install postgresql)")
    assert programs is not None, "continuous integration must have a PostgreSQL server: see .ci/run"
    with running(programs) as server:
        yield server


def test_a_delta_table_is_read_again_when_it_has_a_new_version(tmp_path: Path) -> None:
    shop = Shop(tmp_path, path=str(tmp_path / "clicks"), format="delta")
    rows = pd.DataFrame(
        {"id": [1, 2], "who": ["ann", "bob"], "what": ["a", "b"], "at": [NOON, NOON], "did": ["x", "y"]}
    )
    write_deltalake(str(tmp_path / "clicks"), rows)
    assert shop.run("ingest") == 0
    assert shop.rows("events").set_index("event_id").loc["1", "event_ts"].to_pydatetime() == NOON
    before = shop.version("events")
    assert shop.run("ingest") == 0 and shop.version("events") == before
    write_deltalake(str(tmp_path / "clicks"), rows.assign(id=[2, 3], what=["zzz", "c"]), mode="append")
    assert shop.run("ingest") == 0
    assert set(shop.events()) == {"1", "2", "3"}
    assert shop.metrics()["events/new"] == 1 and shop.reasons() == {"unknown_item": 1}
    shop.catalog(("zzz", "Sleep", ""))
    assert shop.run("ingest") == 0 and shop.run("replay_rejected") == 0
    assert shop.reasons() == {"duplicate_event": 1}  # another version of event 2 is stored


def test_a_database_is_read_every_night_and_only_what_is_new_is_added(
    tmp_path: Path, database: Postgres, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    database.sql(
        "CREATE TABLE clicks"
        " (id bigint, who uuid, what text, at timestamp, did varchar(9), v numeric(9,2), tags jsonb);"
        "INSERT INTO clicks VALUES"
        " (1, 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', 'a', '2024-03-01 12:00:00.123456', 'click', 1.50, '{\"k\": 1}'),"
        " (2, 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', 'later', '2024-03-01 13:00:00', 'click', NULL, NULL);"
        "CREATE TABLE catalog (item text, name text, changed timestamptz);"
        "INSERT INTO catalog VALUES ('a', 'Äpfel 🍎', '2024-01-01 01:00+01'), ('b', NULL, NULL)"
    )
    login = {"url": database.url, "user_env": "SHOP_USER", "password_env": "SHOP_PASSWORD"}
    shop = Shop(tmp_path, jdbc={**login, "query": "SELECT * FROM clicks WHERE at > '2024-02-28'"}, value="v")
    del shop.spec["path"]
    shop.source["items"] = {
        "jdbc": {**login, "table": "catalog"},
        "item": "item",
        "title": "name",
        "updated": "changed",
    }
    monkeypatch.setenv("SHOP_USER", "shop")
    assert shop.run("ingest") == 2
    assert told(capsys, "environment variable SHOP_PASSWORD is not set")
    monkeypatch.setenv("SHOP_PASSWORD", PASSWORD)
    assert shop.run("ingest") == 0
    event = shop.rows("events").iloc[0]
    assert (event["event_id"], event["value"], event["event_ts"].to_pydatetime()) == ("1", 1.5, NOON)
    items = shop.rows("items").set_index("item_id")
    assert items["title"].to_dict() == {"a": "Äpfel 🍎", "b": ""}
    assert items.loc["a", "updated_ts"].to_pydatetime() == datetime(2024, 1, 1, tzinfo=UTC)
    assert shop.reasons() == {"unknown_item": 1}

    before = shop.version("events"), shop.version("items")
    database.sql("INSERT INTO catalog VALUES ('later', 'Later', NULL)")
    assert shop.run("ingest") == 0
    assert set(shop.events()) == {"1", "2"} and shop.reasons() == {}
    assert (shop.version("events"), shop.version("items")) == (before[0] + 1, before[1] + 1)
    assert PASSWORD not in shop.rows("runs").to_csv()

    database.sql("ALTER TABLE clicks ALTER COLUMN id TYPE text")
    assert shop.run("ingest") == 2
    assert told(capsys, "column 'id' was bigint and is string")
    monkeypatch.setenv("SHOP_PASSWORD", "wrong")
    assert shop.run("ingest") == 2
    assert told(capsys, "password authentication failed")


def test_a_password_in_the_address_is_refused() -> None:
    with pytest.raises(ValidationError, match="password_env"):
        FileInput(jdbc={"url": "jdbc:postgresql://h/d?user=u&password=p", "table": "t"})  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match="exactly one of `path` and `jdbc`"):
        FileInput()
