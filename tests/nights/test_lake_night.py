"""The tiny example with sources, tables, models and report on S3: a night, what follows it, and faults of the store."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession
from starlette.testclient import TestClient

from precise_core import consume
from precise_core.artefacts import artefacts_in_use
from precise_core.config import load_config
from precise_core.serving.app import create_app
from precise_core.serving.keeper import Keeper
from precise_core.serving.prepare import prepare
from precise_core.serving.served import Served
from precise_core.settings import Settings
from precise_core.store import Store, remote, store_at
from precise_core.warehouse.care import live_files
from precise_core.warehouse.tables import Warehouse
from schemas import RUNS, TABLES
from tests.code_blocks import blocks_of, file_that_runs
from tests.night import ROOT, run, said
from tests.s3_proxy import Harm, harmful_proxy
from tests.serving.world import wait_for

pytestmark = pytest.mark.lake

EXAMPLE = ROOT / "examples" / "your_data"
CONFIG = EXAMPLE / "mine.yaml"
PAGE = "docs/object_store.md"
SHOP = "s3a://lake/shop"
WAREHOUSE = f"{SHOP}/warehouse"
SOURCES = ("--set", f"source.events.path={SHOP}/in/log/*.csv", "--set", f"source.items.path={SHOP}/in/catalog.csv")
HISTORY = {"runs", "validation_results"}


@dataclass(frozen=True)
class Shop:
    """A bucket's folder with sources and a warehouse; ``rest`` of the log has not come yet."""

    store: Store
    rest: str

    def run(self, job: str, *arguments: str) -> int:
        return run(job, WAREHOUSE, *SOURCES, *arguments, config=CONFIG)

    def content(self) -> dict[str, Any]:
        """The live files of every table but the history, and what is in use."""
        tables = [table for table in TABLES if Warehouse(WAREHOUSE).exists(table) and table.name not in HISTORY]
        files = {table.name: live_files(Warehouse(WAREHOUSE).path(table)) for table in tables}
        return {name: found for name, found in files.items() if found} | {"in use": artefacts_in_use(WAREHOUSE)}


@pytest.fixture(scope="module")
def shop(s3: str, s3_spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """After one night; nothing is written where the jobs are started, no folder `s3a:` either."""
    assert s3 and s3_spark
    work, store = tmp_path_factory.mktemp("work"), store_at(SHOP)
    header, *lines = (EXAMPLE / "clicks.csv").read_text(encoding="utf-8").splitlines(keepends=True)
    store.put("in/catalog.csv", (EXAMPLE / "catalog.csv").read_bytes())
    store.put("in/log/1.csv", "".join([header, *lines[:-20]]))
    store.put("in/log/_SUCCESS", "")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(work)
        patch.setenv("PRECISE_CACHE", str(tmp_path_factory.mktemp("cache")))
        shop = Shop(store, "".join([header, *lines[-20:]]))
        assert shop.run("run_night") == 0
        yield shop
    assert list(work.iterdir()) == []


def runs_of(warehouse: str) -> list[dict[str, Any]]:
    house = Warehouse(warehouse)
    return sorted(house.read_arrow(RUNS, house.version(RUNS)).to_pylist(), key=lambda row: row["started_at"])


def test_a_night_is_whole(shop: Shop) -> None:
    runs = runs_of(WAREHOUSE)
    assert {row["status"] for row in runs} == {"succeeded"}
    last = {"publish_models", "recall", "score_pairs", "recommend", "evaluate", "build_report", "run_night"}
    assert {"ingest", "train_targeted", "embed_users", "build_index"} | last <= {row["job"] for row in runs}
    report = shop.store.get("report.html")
    assert report is not None and "NDCG@10 of the published lists" in report.text
    assert consume.read_table(WAREHOUSE, "events").num_rows > 500
    lists = consume.read_table(WAREHOUSE, "recommendations", ["user_id", "task"])
    assert set(lists["task"].to_pylist()) == {"all", "open_in_search", "save"}
    assert not consume.freshness(WAREHOUSE).empty


def test_the_page_reads_it_with_every_library(shop: Shop) -> None:
    assert shop
    (block,) = [block for block in blocks_of(PAGE) if block.language == "python"]
    assert file_that_runs(block.marker) == "tests/nights/test_lake_night.py"
    names: dict[str, Any] = {}
    exec(compile(block.text.replace("s3a://bucket/lake", WAREHOUSE), PAGE, "exec"), names)
    rows = consume.read_table(WAREHOUSE, "recommendations").num_rows
    assert rows == len(names["by_pandas"]) == len(names["by_polars"]) == names["by_duckdb"]["items"].sum() > 0


def test_a_server_answers_from_it(shop: Shop) -> None:
    assert shop
    settings = load_config(CONFIG, Settings, [])
    served = Served(warehouse=WAREHOUSE, tasks=settings.tasks, recall=settings.recall)
    user = consume.read_table(WAREHOUSE, "user_embeddings", ["user_id"])["user_id"][0].as_py()
    with TestClient(create_app(served, None, Keeper(served, prepare)), base_url="http://127.0.0.1") as client:
        wait_for(client, "/ready", "ready", True)
        found = client.get("/recommend", params={"user_id": user, "k": 5}).json()["items"]
        expected = consume.recommendations(WAREHOUSE, [user], task="all").to_pylist()
        assert found and [item["item_id"] for item in found] == [row["item_id"] for row in expected][:5]
        similar = client.get("/similar", params={"item_id": found[0]["item_id"]}).json()["items"]
        assert len(similar) == 10
        assert client.get("/health").json()["status"] == "ok"


def test_objects_are_taken_once_and_a_changed_one_is_refused(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    before = consume.read_table(WAREHOUSE, "events").num_rows
    shop.store.put("in/log/.2.csv", shop.rest)  # hidden
    assert shop.run("ingest") == 0 and "events: 0 to read, 1 taken before" in said(capsys)
    first = shop.store.get("in/log/1.csv")
    assert first is not None
    shop.store.put("in/log/1.csv", first.content[:-1])
    assert shop.run("ingest") == 2
    assert f"{SHOP}/in/log/1.csv: has changed since run ingest-" in said(capsys)
    shop.store.put("in/log/1.csv", first.content)  # another time, and the same etag
    assert shop.run("ingest") == 0 and "events: 0 to read, 1 taken before" in said(capsys)
    assert consume.read_table(WAREHOUSE, "events").num_rows == before


def test_a_second_night_adds_what_is_new_and_is_gone_back_from(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    before = shop.content()
    (first,) = [row["run_id"] for row in runs_of(WAREHOUSE) if row["job"] == "run_night"]
    shop.store.put("in/log/2.csv", shop.rest)
    assert shop.run("run_night", "--set", "as_of=2024-03-30T00:00:00Z") == 0
    assert "events: 1 to read, 1 taken before" in said(capsys)
    assert shop.run("maintain_tables") == 0
    assert shop.content() != before
    assert shop.run("rollback", "--to-run", first) == 0
    assert shop.content() == before


def test_an_erased_user_is_nowhere(shop: Shop) -> None:
    user = consume.read_table(WAREHOUSE, "user_sequences", ["user_id"])["user_id"][0].as_py()
    assert shop.run("erase_user", "--user-id", user, "--purge-history") == 0
    (report,) = [entry.name for entry in shop.store.list("warehouse/erasures") if "erase_user" in entry.name]
    proof = shop.store.get(report)
    assert proof is not None and json.loads(proof.text)["values_left"] == 0
    assert set(json.loads(proof.text)["trained_with_them"].values()) <= {"yes", "no"}
    for name in ("events", "user_sequences", "user_embeddings", "recommendations"):
        assert user not in consume.read_table(WAREHOUSE, name, ["user_id"])["user_id"].to_pylist()
    assert shop.store.get("report.html") is None
    assert shop.run("ingest", "--full") == 0  # the files still have the user
    assert user not in consume.read_table(WAREHOUSE, "events", ["user_id"])["user_id"].to_pylist()


@pytest.mark.parametrize(
    ("harm", "code", "told"),
    [
        (Harm(status=503, code="SlowDown", seconds=3), 0, "build_report: done in"),
        (Harm(status=400, code="ExpiredToken"), 2, "build_report failed: .*ExpiredToken"),
        (Harm(requests="^(PUT|POST)"), 2, "build_report failed: .*cannot be written .*AccessDenied"),
    ],
)
def test_a_store_that_refuses_costs_time_or_ends_the_job_in_one_line(
    shop: Shop, s3: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], harm: Harm, code: int,
    told: str,
) -> None:  # fmt: skip
    before = shop.content()
    with harmful_proxy(s3) as proxy:
        proxy.do(harm)
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        monkeypatch.setattr(remote, "_opened", lru_cache(remote._opened.__wrapped__))  # as in a new process
        ended, harmed = shop.run("build_report"), proxy.harmed
    monkeypatch.undo()
    assert (ended, bool(re.search(told, said(capsys)))) == (code, True) and harmed
    assert shop.content() == before


def test_a_lost_cache_is_filled_again(shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert shop
    monkeypatch.setenv("PRECISE_CACHE", str(tmp_path))
    assert shop.run("recall") == 0
    assert any(tmp_path.rglob("SHA256SUMS"))
