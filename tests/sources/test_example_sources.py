"""Example sources: the grocery data, Amazon and MovieLens files, and the synthetic world against its declared truth."""

from __future__ import annotations

import hashlib
from collections import Counter
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from precise_core.data_sets import amazon_sequences, amazon_titles, completejourney, movielens
from precise_core.data_sets.known_files import KnownFile
from precise_core.errors import DataError
from precise_core.intake.cleaning import clean_events, clean_impressions, clean_items
from precise_core.intake.read import describe_source, read_source
from precise_core.sources.config import (
    AmazonSequencesSource,
    AmazonTitlesSource,
    CompleteJourneySource,
    MovieLensSource,
    OrderInDay,
    SyntheticSource,
)
from precise_core.sources.listing import sha256_of
from precise_core.sources.raw import RawTables

NOW = datetime(2030, 1, 1, tzinfo=UTC)
WORLD = SyntheticSource(kind="synthetic", users=150, items=60, days=30, topics=4, share_rate=0.2)


def rows_of(tables: RawTables) -> list[list[Any]]:
    assert tables.impressions is not None
    return [
        sorted(row["raw"] for row in frame.collect()) for frame in (tables.events, tables.items, tables.impressions)
    ]


def test_a_synthetic_world_is_the_same_twice_and_another_with_another_seed(spark: SparkSession) -> None:
    first = rows_of(read_source(spark, WORLD))
    assert rows_of(read_source(spark, WORLD)) == first
    other = rows_of(read_source(spark, WORLD.model_copy(update={"seed": 18})))
    assert all(mine != theirs for mine, theirs in zip(first, other, strict=True))


def test_a_synthetic_world_is_clean_and_has_its_declared_truth(spark: SparkSession) -> None:
    tables = read_source(spark, WORLD)
    assert tables.impressions is not None
    items = clean_items(tables.items)
    events = clean_events(tables.events, items.accepted, not_after=NOW)
    impressions = clean_impressions(tables.impressions, items.accepted, not_after=NOW)
    assert sum(cleaned.rejected.count() for cleaned in (items, events, impressions)) == 0
    published = items.accepted.select("item_id", "published_ts", "categories")
    log = events.accepted.join(published, on="item_id", how="inner").toPandas()
    assert (log.event_ts >= log.published_ts).all()  # nothing happens on an item that is not there yet
    assert 0.15 < (log.action == "share").mean() < 0.25
    assert set(log.scene) == set(WORLD.scenes)
    start, end = pd.Timestamp(WORLD.start), pd.Timestamp(WORLD.start) + pd.Timedelta(days=WORLD.days)
    assert log.event_ts.between(start, end).all()
    counts = log.item_id.value_counts()
    assert counts.iloc[:6].sum() > 0.3 * len(log)  # a tenth of the items has a third of the events
    new_days = (
        items.accepted.where(F.col("published_ts") > F.lit(WORLD.start)).select(F.to_date("published_ts")).distinct()
    )
    assert new_days.count() > WORLD.days / 3
    # A user's favourite topic is the same in every scene, and impressions of it are taken far more often.
    log["topic"] = log.categories.str[0]
    favourite = log.groupby("user_id").topic.agg(lambda topics: topics.mode()[0])
    assert (log.topic == log.user_id.map(favourite)).mean() > 0.5
    shown = impressions.accepted.join(published, on="item_id", how="inner").toPandas()
    is_favourite = shown.categories.str[0] == shown.user_id.map(favourite)
    assert shown[is_favourite].label.mean() > shown[~is_favourite].label.mean() + 0.2


@pytest.fixture(scope="module")
def journey_files() -> dict[str, Path]:
    pytest.importorskip(completejourney.PACKAGE)
    return {file.stem: file for file in completejourney.input_files(CompleteJourneySource(kind="completejourney"))}


JOURNEY = CompleteJourneySource(kind="completejourney", households=80, impressions_from=date(2017, 12, 18))


@pytest.fixture(scope="module")
def journey(spark: SparkSession, journey_files: dict[str, Path]) -> RawTables:
    assert journey_files
    tables = read_source(spark, JOURNEY)
    return RawTables(events=tables.events.persist(), items=tables.items.persist(), impressions=tables.impressions)


def test_grocery_events_are_purchases_and_redemptions(journey: RawTables, journey_files: dict[str, Path]) -> None:
    events = journey.events.select("*", F.unix_micros("event_ts").alias("micros")).toPandas()
    households = events.user_id.unique()
    assert len(households) == JOURNEY.households
    bought = pd.read_parquet(journey_files["transactions"])
    bought = bought[bought.household_id.astype(str).isin(households)]
    products = pd.read_parquet(journey_files["products"]).set_index("product_id")
    purchases = events[events.action == "purchase"].set_index("event_id")
    assert len(purchases) == len(bought)
    bought.index = pd.Index(bought.basket_id.astype(str) + "-" + bought.product_id.astype(str))
    aligned = purchases.loc[bought.index]
    assert (aligned.micros == bought.transaction_timestamp.astype("datetime64[us]").astype("int64")).all()
    assert (aligned.scene.fillna("") == bought.product_id.map(products.department).fillna("")).all()
    assert (aligned.value == bought.sales_value).all()

    redemptions = pd.read_parquet(journey_files["coupon_redemptions"])
    redemptions = redemptions[redemptions.household_id.astype(str).isin(households)].reset_index()
    bought = bought.assign(redemption_date=bought.transaction_timestamp.dt.normalize())
    matched = redemptions.merge(pd.read_parquet(journey_files["coupons"]), on=["coupon_upc", "campaign_id"])
    matched = matched.merge(bought, on=["household_id", "product_id", "redemption_date"])
    redeemed = events[events.action == "redeem"]
    distinct = matched.drop_duplicates(["household_id", "product_id", "transaction_timestamp"])
    assert len(redeemed[redeemed.item_id.notna()]) == len(distinct) > 0
    assert len(redeemed[redeemed.item_id.isna()]) == len(redemptions) - matched["index"].nunique() > 0


def test_grocery_rows_that_do_not_fit_are_counted(journey: RawTables) -> None:
    items = clean_items(journey.items)
    events = clean_events(journey.events, items.accepted, not_after=NOW)
    reasons = Counter(row["reason"] for row in events.rejected.collect())
    assert set(reasons) == {"missing_item_id", "unknown_item"}
    assert events.accepted.count() + sum(reasons.values()) == journey.events.count()
    example = items.accepted.where("item_id = '1029743'").collect()  # the product bought most often
    assert [(row["title"], row["description"], row["categories"]) for row in example] == [
        ("Fluid Milk White Only", "Private brand, 1 GA", ["Grocery", "Fluid Milk Products"])
    ]


def test_grocery_impressions_are_promotions_of_the_visit(journey: RawTables, journey_files: dict[str, Path]) -> None:
    assert journey.impressions is not None
    shown = journey.impressions.toPandas()
    bought = pd.read_parquet(journey_files["transactions"])
    households = {row["user_id"] for row in journey.events.select("user_id").distinct().collect()}
    bought = bought[bought.household_id.astype(str).isin(households) & (bought.transaction_timestamp >= "2017-12-18")]
    catalog = {row["item_id"] for row in journey.items.select("item_id").collect()}
    promoted = pd.read_parquet(journey_files["promotions"], filters=[("week", ">=", 51)])
    promoted = promoted[(promoted.display_location != "0") | (promoted.mailer_location != "0")]
    promoted = promoted[promoted.product_id.astype(str).isin(catalog)]
    key = ["store_id", "week", "product_id"]
    positives = bought.merge(promoted[key].drop_duplicates(), on=key)
    expected = set(positives.basket_id.astype(str) + "-" + positives.product_id.astype(str))
    assert set(shown[shown.label == 1].impression_id) == expected and expected
    negatives = shown[shown.label == 0].copy()
    assert not set(negatives.impression_id) & set(bought.basket_id.astype(str) + "-" + bought.product_id.astype(str))
    negatives["basket_id"] = negatives.impression_id.str.split("-").str[0].astype("int64")
    assert negatives.groupby("basket_id").size().max() <= JOURNEY.negatives_per_visit
    negatives["product_id"] = negatives.item_id.astype("int64")
    visits = bought[["basket_id", "store_id", "week"]].drop_duplicates()
    assert len(negatives.merge(visits, on="basket_id").merge(promoted[key].drop_duplicates(), on=key)) == len(negatives)
    assert shown.impression_id.is_unique
    assert set(shown.context.iloc[0]) == {"store_id", "display_location", "mailer_location"}


def test_a_folder_without_the_grocery_files_is_refused(spark: SparkSession, tmp_path: Path) -> None:
    source = CompleteJourneySource(kind="completejourney", data=str(tmp_path))
    with pytest.raises(DataError, match=r"transactions\.parquet: no such file; the folder needs"):
        read_source(spark, source)


def test_amazon_titles_keep_the_order_inside_a_day(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    day = pd.Timestamp("2014-01-01", tz="UTC")
    events = {"user_id": "u", "item_id": ["b", "a"], "event_ts": day, "position": pd.array([0, 1], dtype="int32")}
    pd.DataFrame(events).to_parquet(tmp_path / "toys.events.parquet")
    pd.DataFrame({"item_id": ["a", "b"], "title": ["Salt &amp; Pepper", "B"]}).to_parquet(
        tmp_path / "toys.items.parquet"
    )
    source = AmazonTitlesSource(kind="amazon_titles", data=str(tmp_path), domain="toys")
    with pytest.raises(
        DataError, match=r"toys\.events\.parquet: holds \d+ bytes.*; toys\.events\.parquet of 678751 bytes"
    ):
        read_source(spark, source)
    for file in tmp_path.iterdir():
        known = KnownFile(file.stat().st_size, sha256_of(file))
        monkeypatch.setitem(amazon_titles.FILES, file.name, known)
    tables = read_source(spark, source)
    in_order = tables.events.orderBy("event_ts").select("item_id", "event_id", F.unix_seconds("event_ts")).collect()
    start = int(day.timestamp())
    assert [tuple(row) for row in in_order] == [("b", "u-0", start), ("a", "u-1", start + 1)]
    assert {row["title"] for row in tables.items.collect()} == {"Salt & Pepper", "B"}


@pytest.mark.parametrize("mode", ["published", "hashed", "instant"])
def test_the_order_inside_a_day_can_be_taken_out(
    spark: SparkSession,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mode: OrderInDay,
) -> None:
    days = pd.to_datetime(["2014-01-01"] * 4 + ["2014-01-03"] * 4, utc=True)
    users = [f"u{user}" for user in range(50)]
    history = {"event_ts": days, "item_id": [str(item) for item in range(11, 19)], "position": range(8)}
    published = pd.concat([pd.DataFrame({"user_id": user, **history}) for user in users], ignore_index=True)
    published.astype({"position": "int32"}).to_parquet(tmp_path / "toys.events.parquet")
    pd.DataFrame({"item_id": history["item_id"], "title": "t"}).to_parquet(tmp_path / "toys.items.parquet")
    for file in tmp_path.iterdir():
        monkeypatch.setitem(amazon_titles.FILES, file.name, KnownFile(file.stat().st_size, sha256_of(file)))
    source = AmazonTitlesSource(kind="amazon_titles", data=str(tmp_path), domain="toys", order_in_day=mode)
    seconds = F.unix_seconds("event_ts").alias("seconds")
    read = read_source(spark, source).events.select("user_id", "item_id", "event_id", seconds).toPandas()
    assert len(read) == len(published) and read.event_id.is_unique
    of_day = published.set_index(["user_id", "item_id"]).event_ts.map(pd.Timestamp.timestamp)
    assert (read.set_index(["user_id", "item_id"]).seconds // 86_400 * 86_400 == of_day.reindex(
        pd.MultiIndex.from_frame(read[["user_id", "item_id"]]))).all()  # fmt: skip
    ordered = read.sort_values(["user_id", "seconds", "event_id"])
    is_same_day = ordered.user_id.eq(ordered.user_id.shift()) & (ordered.seconds // 86_400).diff().eq(0)
    ascending = (ordered.item_id.astype(int).diff() > 0)[is_same_day].mean()
    if mode == "published":
        assert ascending == 1.0
    else:
        assert 0.35 < ascending < 0.65
    assert read.groupby("user_id").seconds.nunique().max() == (2 if mode == "instant" else 8)


def test_movielens_reads_both_forms_and_refuses_another_file(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ratings = b"userId,movieId,rating,timestamp\r\n1,11,4.5,964982703\r\n2,12,2.5,964982704\r\n"
    movies = (
        b'movieId,title,genres\r\n11,"American President, The (1995)",Comedy|Drama\r\n12,Plain,(no genres listed)\r\n'
    )
    (tmp_path / "ratings.csv").write_bytes(ratings)
    with pa.CompressedOutputStream(pa.OSFile(str(tmp_path / "movies.csv.zst"), "wb"), "zstd") as stream:
        stream.write(movies)
    source = MovieLensSource(kind="movielens_small", data=str(tmp_path))
    with pytest.raises(DataError, match=r"ratings\.csv: holds 73 bytes.*ratings\.csv of 2483723 bytes"):
        read_source(spark, source)
    for name, content in (("ratings.csv", ratings), ("movies.csv", movies)):
        (tmp_path / "copy").write_bytes(content)
        monkeypatch.setitem(movielens._FILES, name, KnownFile(len(content), sha256_of(tmp_path / "copy")))
    tables = read_source(spark, source)
    rated = tables.events.select("user_id", "item_id", "value", "action", F.unix_seconds("event_ts")).collect()
    assert [tuple(row) for row in rated] == [
        ("1", "11", 4.5, "rating", 964982703),
        ("2", "12", 2.5, "rating", 964982704),
    ]
    liked = source.model_copy(update={"min_rating": 3.0})
    assert [row["item_id"] for row in read_source(spark, liked).events.select("item_id").collect()] == ["11"]
    assert describe_source(liked) == f"{describe_source(source)} Ratings below 3 are left out."
    found = {row["item_id"]: (row["title"], row["categories"]) for row in tables.items.collect()}
    assert found == {"11": ("The American President", ["Comedy", "Drama"]), "12": ("Plain", [])}
    (tmp_path / "movies.csv.zst").unlink()
    with pytest.raises(DataError, match=r"movies\.csv: no such file, nor movies\.csv\.zst"):
        read_source(spark, source)


def test_amazon_sequences_keep_the_order_of_every_user_and_items_without_words(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sequences = b"ann B2 B1 B3\nbob B1\n"
    words = b"B1 gel nail polish\nB2\nB3 brush\n"
    (tmp_path / "Toys.item_generative_indexing_phase_0.txt").write_bytes(words)
    with pa.CompressedOutputStream(pa.OSFile(str(tmp_path / "Toys.user_sequence.txt.zst"), "wb"), "zstd") as stream:
        stream.write(sequences)
    source = AmazonSequencesSource(kind="amazon_sequences", data=str(tmp_path), domain="Toys")
    with pytest.raises(DataError, match=r"zst: holds 20 bytes.*Toys\.user_sequence\.txt of 2129679 bytes"):
        read_source(spark, source)
    for name, content in (("user_sequence", sequences), ("item_generative_indexing_phase_0", words)):
        known = KnownFile(len(content), hashlib.sha256(content).hexdigest())
        monkeypatch.setitem(amazon_sequences._FILES, f"Toys.{name}.txt", known)
    tables = read_source(spark, source)
    in_order = tables.events.orderBy("user_id", "event_ts").select("user_id", "item_id", "event_id").collect()
    assert [tuple(row) for row in in_order] == [
        ("ann", "B2", "ann-0"),
        ("ann", "B1", "ann-1"),
        ("ann", "B3", "ann-2"),
        ("bob", "B1", "bob-0"),
    ]
    assert {row["day"] for row in tables.events.selectExpr("to_date(event_ts) as day").collect()} == {date(2014, 1, 1)}
    accepted = clean_items(tables.items).accepted.collect()
    assert {row["item_id"]: row["title"] for row in accepted} == {"B1": "gel nail polish", "B2": "", "B3": "brush"}
    source = source.model_copy(update={"domain": "Beauty"})
    with pytest.raises(DataError, match=r"Beauty\.user_sequence\.txt: no such file, nor Beauty\.user_sequence"):
        read_source(spark, source)


def test_descriptions_say_what_the_data_is() -> None:
    assert "simulated" in describe_source(JOURNEY)
    assert "no real people" in describe_source(WORLD)
