"""Damaged files and hostile text, as a platform team meets them: the file is named, the tables stay as they were."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from tests.ingest_world import Shop, told

pytestmark = pytest.mark.usefixtures("spark")


def parquet_day(spark: SparkSession, shop: Shop, name: str, first: int, rows: int = 2000) -> Path:
    """A file as Spark writes it, with a checksum per page, and values that can be found in it."""
    event_id = F.format_string("event-%06d", F.col("id"))
    frame = spark.range(first, first + rows).select(
        event_id.alias("id"),
        *[F.lit(value).alias(key) for key, value in (("who", "ann"), ("what", "a"), ("did", "click"))],
        F.lit("2024-03-01T08:00:00Z").alias("at"),
    )
    written = shop.folder / f"day-{name}"
    plain = {"compression": "none", "parquet.enable.dictionary": "false"}
    frame.coalesce(1).write.options(**plain).parquet(str(written))
    (part,) = written.glob("part-*.parquet")
    return part.rename(shop.folder / "log" / f"{name}.parquet")


@pytest.mark.faults
def test_a_damaged_parquet_file_is_named_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], spark: SparkSession
) -> None:
    shop = Shop(tmp_path)
    shop.spec["path"] = str(shop.folder / "log" / "*.parquet")
    parquet_day(spark, shop, "1", 0)
    assert shop.run("ingest") == 0
    before = shop.version("events")

    flipped = parquet_day(spark, shop, "2", 2000)
    whole = flipped.read_bytes()
    at = whole.index(b"event-002900") + 8
    flipped.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    assert shop.run("ingest") == 2
    assert told(capsys, "2.parquet: cannot be read, the checksum of a page does not hold")

    flipped.write_bytes(whole[:-30])
    assert shop.run("ingest") == 2
    assert told(capsys, "2.parquet: not a Parquet file, or cut off")
    assert shop.version("events") == before

    flipped.write_bytes(whole)
    assert shop.run("ingest") == 0
    assert len(shop.rows("events")) == 4000


@pytest.mark.faults
def test_hostile_text_comes_through_or_is_cut_and_counted(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    titles = {
        "emoji": "🍷👩‍👩‍👧 wine",
        "hebrew": "שלום \u202eabc",
        "nul": "a\u0000b",
        "long": "x" * 10_000_000,
        "surrogate": "a\ud800b",
    }
    catalog = shop.folder / "items.jsonl"
    lines = [json.dumps({"item": item, "name": title}) for item, title in titles.items()]
    catalog.write_text("\n".join(lines), encoding="ascii")  # escapes, so that even the surrogate is in the file
    shop.source["items"] = {"path": str(catalog), "item": "item", "title": "name"}
    shop.day("1", ("1", "ann", "emoji", "2024-03-01T08:00:00Z", "click"))
    assert shop.run("ingest") == 0
    stored = shop.rows("items").set_index("item_id")["title"].to_dict()
    assert set(stored) == set(titles)
    assert (stored["emoji"], stored["hebrew"], stored["nul"]) == (titles["emoji"], titles["hebrew"], "ab")
    assert len(stored["long"]) == 10_000
    assert stored["surrogate"].startswith("a") and stored["surrogate"].endswith("b")
    stored["surrogate"].encode("utf-8")
    metrics = shop.metrics()
    assert metrics["items/texts_cut"] == 1 and metrics["items/texts_repaired"] >= 1


@pytest.mark.faults  # minutes
def test_a_night_of_items_tokenizes_only_texts_that_changed_and_keeps_every_index(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    shop.source["items"]["deleted"] = "gone"

    def catalog(*rows: tuple[str, str, str]) -> None:
        pd.DataFrame(rows, columns=["item", "name", "gone"]).assign(changed="").to_csv(shop.folder / "items.csv")

    shop.day("1", ("1", "ann", "b", "2024-03-01T08:00:00Z", "click"))
    catalog(("b", "Bread", "no"), ("c", "Cheese", "no"), ("d", "Bread", "no"))
    assert shop.run("ingest") == 0 and shop.run("tokenize_items") == 0
    assert shop.metrics()["texts_tokenized"] == 2
    first = shop.rows("item_vocabulary").set_index("item_id")["item_index"].to_dict()
    tokens = shop.rows("item_tokens").set_index("item_id")["token_ids"].map(list).to_dict()
    assert shop.run("ingest") == 0 and shop.run("tokenize_items") == 0
    assert shop.metrics()["texts_tokenized"] == 0

    # b is deleted, c has another text, a is new although it comes first in the alphabet; d is left out of the catalog.
    catalog(("a", "Apple", "no"), ("b", "Bread", "yes"), ("c", "Chalk and cheese", "no"))
    assert shop.run("ingest") == 0 and shop.run("tokenize_items") == 0
    assert shop.metrics()["texts_tokenized"] == 2
    grown = shop.rows("item_vocabulary").set_index("item_id")["item_index"].to_dict()
    assert grown == {**first, "a": max(first.values()) + 1}
    assert shop.rows("items").set_index("item_id")["is_deleted"].to_dict() == {
        "a": False,
        "b": True,
        "c": False,
        "d": False,
    }
    now = shop.rows("item_tokens").set_index("item_id")["token_ids"].map(list).to_dict()
    assert now["b"] == tokens["b"] == now["d"] and now["c"] != tokens["c"] and set(now) == set(grown)
