"""Amazon 2014 reviews with item titles: Beauty, Toys and a sample of Books (docs/data_sets.md).

The data knows the day of a review and its place in the user's history, no clock. Inside a day the published order
ascends by item id, always, so that a model can learn "the next id is larger"; ``order_in_day`` says what is read:

- ``published``: midnight plus ``position`` seconds, the order that published figures are measured on;
- ``hashed``: midnight plus a second of the day that is a hash of user and item, an order without meaning;
- ``instant``: midnight. A day is one instant: what a model is trained to predict lies on a later day.
"""

from __future__ import annotations

import html
from pathlib import Path

import pyarrow.parquet as pq
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from precise_core.data_sets.known_files import KnownFile, known_content
from precise_core.sources.config import AmazonTitlesSource, OrderInDay
from precise_core.sources.raw import RAW_EVENT_TYPES, RAW_ITEM_TYPES, RawTables, raw_frame, row_as_json
from precise_core.sources.typed_formats import parquet_frame, parquet_time
from schemas import columns as c

ACTION = "review"
SCENE = "default"
_SECONDS_PER_DAY = 86_400


FILES = {
    "beauty.events.parquet": KnownFile(762_446, "e74442a75176b47a73e89e80bd9ba40b7b45da483ef6aff93195285efcbd95d2"),
    "beauty.items.parquet": KnownFile(298_355, "a26ba837d905da518f56c596ac559c646dcb676a6bb458a2de8c53bf273f804d"),
    "books_sample.events.parquet": KnownFile(
        2_042_301, "b1b3d3e6efff07b0252fcf67a9e2a588b4ad800858d91b945c19f2cd5e65accd"
    ),
    "books_sample.items.parquet": KnownFile(
        695_964, "bbb06650662b9bd85104aa035b5f2eaa4f1277807d567ed99bfed40c053e8f6f"
    ),
    "toys.events.parquet": KnownFile(678_751, "afe6e765704b2f6b2ee52e6883168fb399dddda95e087267ea3144ee4f618e26"),
    "toys.items.parquet": KnownFile(221_559, "5674eab420e9785d1b3803a043f62f304bfb4a4565fc7c9c669f1c7846eba21f"),
}


def input_files(source: AmazonTitlesSource) -> list[Path]:
    """The domain's two files, events first, checked byte by byte."""
    files = [Path(source.data) / f"{source.domain}.{part}.parquet" for part in ("events", "items")]
    for file in files:
        known_content(file, FILES[file.name])
    return files


def has_impressions(_source: AmazonTitlesSource) -> bool:
    return False


def describe(source: AmazonTitlesSource) -> str:
    order = {"published": "", "hashed": ", ordered by a hash inside it", "instant": ", which is one instant"}
    known = f"known to the day{order[source.order_in_day]}, no clock"
    return f"Amazon reviews of 2014, {source.domain}, 5-core, with item titles; {known}."


def read(spark: SparkSession, source: AmazonTitlesSource) -> RawTables:
    """Reviews (scene `default`, action `review`) and items with their title; no impressions."""
    events, items = input_files(source)
    return RawTables(events=_events(spark, events, source.order_in_day), items=_items(spark, items))


def _events(spark: SparkSession, file: Path, order_in_day: OrderInDay) -> DataFrame:
    rows = parquet_frame(spark, [file])
    # 32 hex digits of a hash: where instants are equal, event ids are what orders a user's events.
    drawn = F.left(F.sha2(F.concat_ws("-", c.USER_ID, c.ITEM_ID, "position"), 256), F.lit(32))
    second = {
        "published": F.col("position").cast("bigint"),
        "hashed": F.pmod(F.xxhash64(drawn), F.lit(_SECONDS_PER_DAY)),
        "instant": F.lit(0).cast("bigint"),
    }[order_in_day]
    id_in_history = F.col("position") if order_in_day == "published" else drawn
    return raw_frame(
        rows,
        RAW_EVENT_TYPES,
        {
            c.EVENT_ID: F.concat_ws("-", c.USER_ID, id_in_history),
            c.USER_ID: F.col(c.USER_ID),
            c.ITEM_ID: F.col(c.ITEM_ID),
            c.SCENE: F.lit(SCENE),
            c.ACTION: F.lit(ACTION),
            c.EVENT_TS: F.timestamp_seconds(F.unix_seconds(parquet_time(rows, c.EVENT_TS)) + second),
        },
        source_file=F.lit(file.name),
    )


def _items(spark: SparkSession, file: Path) -> DataFrame:
    # At most 38,519 titles: unescaping HTML entities (&amp;) here is simpler than a list of them in Spark.
    rows = pq.read_table(file).to_pandas()
    rows["readable"] = rows[c.TITLE].map(html.unescape)
    return raw_frame(
        spark.createDataFrame(rows),
        RAW_ITEM_TYPES,
        {c.ITEM_ID: F.col(c.ITEM_ID), c.TITLE: F.col("readable")},
        raw=row_as_json(F.col(c.ITEM_ID), F.col(c.TITLE)),
        source_file=F.lit(file.name),
    )
