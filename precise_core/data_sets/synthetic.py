"""A world with known truth, of any size, generated row by row.

Every draw is a hash of (seed, name of the draw, row), so the same configuration gives the same rows whatever the
partitioning, and nothing is held in the driver.

- A user has a first and a second interest (topics), the same in every scene. Four events in a row are one session and
  share a topic: the first interest with 60 %, the second with 25 %, any topic with 15 %.
- An item has a topic (its number modulo the number of topics) and a rank in it; its popularity falls as 1 / rank.
- Half of the items exist from the start, the others appear evenly over the days; the first of a topic always exists.
- An item is at home in a scene (its rank modulo the number of scenes); 80 % of a scene's events are with items at home
  there.
- An event is a share with ``share_rate``, else a click; 70 % of the shares are of the second interest.
- With ``drift_share``, some users' two interests move to other topics on a day of their own.
- With ``heavy_user_share``, `user-0` has that share of all events, in expectation.
- An event is delivered at its own time; with ``late_share`` some deliveries come days later, with ``duplicate_share``
  some events are delivered once more within a day, identically. ``delivered_before`` leaves out all later deliveries:
  what it leaves out of the past is what a later night finds new.
- An impression is taken with 60 % where the item is of the first interest, 35 % of the second, 5 % otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, time, timedelta
from pathlib import Path

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from precise_core.sources.config import SyntheticSource
from precise_core.sources.raw import RAW_EVENT_TYPES, RAW_IMPRESSION_TYPES, RAW_ITEM_TYPES, RawTables, raw_frame
from precise_core.warehouse.instants import instant
from schemas import columns as c

# Raised whenever the same configuration gives other rows: it is part of the source's fingerprint.
GENERATOR = "synthetic-2"
CLICK = "click"
SHARE = "share"

_TOPICS = (
    ("cooking", "recipe oven bread soup garlic dinner spice baking sauce kitchen pasta knife"),
    ("travel", "island train hotel passport beach mountain airport luggage museum coast village map"),
    ("football", "goal striker league penalty coach stadium keeper transfer midfield trophy derby referee"),
    ("gardening", "seed soil rose compost pruning tulip greenhouse hedge watering orchard lawn bulb"),
    ("astronomy", "planet telescope orbit comet galaxy eclipse nebula rocket moon asteroid star probe"),
    ("music", "guitar melody concert drum choir album piano rhythm singer violin festival jazz"),
    ("finance", "interest savings stock mortgage budget pension bond inflation dividend tax credit market"),
    ("fitness", "running yoga squat stretching marathon cycling muscle swimming protein treadmill plank sprint"),
)
EVENTS_PER_SESSION = 4
FIRST_INTEREST, SECOND_INTEREST = 0.6, 0.25  # of the sessions; the rest is any topic
AT_HOME, SHARES_OF_SECOND = 0.8, 0.7
CANDIDATES = 6  # draws until an item is found that exists already
_SECONDS_PER_DAY = 86_400


def input_files(_source: SyntheticSource) -> list[Path]:
    return []


def has_impressions(source: SyntheticSource) -> bool:
    return source.impressions_per_user > 0


def describe(source: SyntheticSource) -> str:
    return (
        f"A synthetic world of {source.users} users, {source.items} items and {source.topics} topics over "
        f"{source.days} days, seed {source.seed}; no real people or items."
    )


def read(spark: SparkSession, source: SyntheticSource) -> RawTables:
    """Events, items and impressions of the world; impressions are None where none are configured."""
    impressions = _impressions(spark, source) if has_impressions(source) else None
    return RawTables(events=_events(spark, source), items=_items(spark, source), impressions=impressions)


def _uniform(source: SyntheticSource, name: str, *row: Column | str) -> Column:
    """A number in [0, 1) that depends on the seed, the draw's name and the row only."""
    bits = F.xxhash64(
        F.lit(source.seed).cast("bigint"), F.lit(name), *[F.col(r) if isinstance(r, str) else r for r in row]
    )
    return F.pmod(bits, F.lit(1 << 52)).cast("double") / F.lit(float(1 << 52))


def _pick(uniform: Column, count: int) -> Column:
    return F.floor(uniform * F.lit(count)).cast("int")


def _computed(rows: DataFrame, **columns: Column) -> DataFrame:
    """Adds columns that are computed once per row, however often they are used.

    Through a plain projection Spark would push a predicate on such a column and copy its whole expression into it,
    until the generated code is too large to compile; it does not push through a generator.
    """
    fields = [column.alias(name) for name, column in columns.items()]
    return rows.select("*", F.inline(F.array(F.struct(*fields))))


def days_after_start(source: SyntheticSource, when: datetime) -> float:
    """How many days after the start ``when`` (with a time zone) is."""
    return (when - datetime.combine(source.start, time(), UTC)) / timedelta(days=1)


def _at(source: SyntheticSource, day: Column) -> Column:
    """The instant ``day`` days (a fraction is fine) after the start, to the second."""
    seconds = F.floor(day * F.lit(_SECONDS_PER_DAY)).cast("bigint")
    start = instant(datetime.combine(source.start, time(), UTC))
    return F.timestamp_seconds(F.unix_seconds(start) + seconds)


def _published_day(source: SyntheticSource, item: Column) -> Column:
    """Days after the start; negative for the half that exists from the start."""
    day = (_uniform(source, "published", item) * 2 - 1) * F.lit(source.days)
    return F.when(item < source.topics, F.lit(-float(source.days))).otherwise(day)


def _items(spark: SparkSession, source: SyntheticSource) -> DataFrame:
    names, words = _words(source.topics)
    topic = (F.col("id") % source.topics).cast("int")
    topic_words = F.element_at(words, topic + 1)

    def text(name: str, count: int) -> Column:
        draws = [_uniform(source, name, F.col("id"), F.lit(position)) for position in range(count)]
        return F.concat_ws(" ", *[F.element_at(F.col("words"), _pick(draw, 12) + 1) for draw in draws])

    rows = spark.range(source.items).select("id", topic.alias("topic"), topic_words.alias("words"))
    rows = rows.select(
        _item_id(F.col("id")).alias(c.ITEM_ID),
        F.initcap(text("title", 3)).alias(c.TITLE),
        text("description", 8).alias(c.DESCRIPTION),
        F.array(F.element_at(names, F.col("topic") + 1)).alias(c.CATEGORIES),
        _at(source, _published_day(source, F.col("id"))).alias(c.PUBLISHED_TS),
    )
    return _as_raw(rows, RAW_ITEM_TYPES)


def _words(topics: int) -> tuple[Column, Column]:
    """Names of the topics, and twelve words of each; beyond eight topics the words carry a number."""
    names, words = [], []
    for topic in range(topics):
        name, vocabulary = _TOPICS[topic % len(_TOPICS)]
        suffix = str(topic // len(_TOPICS)) if topic >= len(_TOPICS) else ""
        names.append(F.lit(name + suffix))
        words.append(F.array(*[F.lit(word + suffix) for word in vocabulary.split()]))
    return F.array(*names), F.array(*words)


def _item_id(number: Column) -> Column:
    return F.concat(F.lit("item-"), number.cast("string"))


def _user_id(number: Column) -> Column:
    return F.concat(F.lit("user-"), number.cast("string"))


def _events(spark: SparkSession, source: SyntheticSource) -> DataFrame:
    rows = _event_numbers(spark, source)
    day = (F.col("number") + _uniform(source, "moment", "user", "number")) / F.col("events") * source.days
    session = F.floor(F.col("number") / EVENTS_PER_SESSION)
    is_share = _uniform(source, "share", "user", "number") < source.share_rate
    is_of_second = is_share & (_uniform(source, "share-second", "user", "number") < SHARES_OF_SECOND)
    topic = F.when(is_of_second, F.col("second")).otherwise(_topic(source, "session", session))
    home = _pick(F.pow(_uniform(source, "scene", "user", "number"), 2), len(source.scenes))
    rows = _with_drift(_computed(rows, day=day), source)
    rows = _computed(rows, topic=topic, home=home)
    rows = _computed(rows, item=_item(source, "event", F.col("topic"), F.col("home")))
    scene = F.element_at(F.array(*map(F.lit, source.scenes)), F.col("home") + 1)
    rows = _delivered(rows, source).select(
        F.concat(F.lit("event-"), F.concat_ws("-", "user", "number")).alias(c.EVENT_ID),
        _user_id(F.col("user")).alias(c.USER_ID),
        _item_id(F.col("item")).alias(c.ITEM_ID),
        scene.alias(c.SCENE),
        F.when(is_share, F.lit(SHARE)).otherwise(F.lit(CLICK)).alias(c.ACTION),
        _at(source, F.col("day")).alias(c.EVENT_TS),
    )
    return _as_raw(rows, RAW_EVENT_TYPES)


def _event_numbers(spark: SparkSession, source: SyntheticSource) -> DataFrame:
    """A row per event: user, the two interests, how many ``events`` the user has, and the event's ``number``."""
    # Exponentially distributed: many users with few events, few with many.
    count = F.greatest(
        F.lit(1), F.round(-F.log(1 - _uniform(source, "activity", "user")) * source.events_per_user).cast("int")
    )
    users = _users(spark, source).withColumn("events", count)
    rows = users.select("*", F.explode(F.sequence(F.lit(0), F.col("events") - 1)).alias("number"))
    if not source.heavy_user_share:
        return rows
    others = (source.users - 1) * source.events_per_user
    events = max(1, round(others * source.heavy_user_share / (1 - source.heavy_user_share)))
    # A range of its own: no task holds a list of the user's events, and all cores share them.
    numbers = spark.range(events).select(F.lit(0).cast("bigint").alias("user"), F.col("id").cast("int").alias("number"))
    heavy = _with_interests(numbers, source).withColumn("events", F.lit(events))
    return rows.where(F.col("user") != 0).unionByName(heavy)


def _delivered(rows: DataFrame, source: SyntheticSource) -> DataFrame:
    """Each row as often as it is delivered, without the deliveries that are still to come."""
    if source.duplicate_share:
        is_again = _uniform(source, "again", "user", "number") < source.duplicate_share
        copies = F.sequence(F.lit(0), is_again.cast("int"))
        rows = rows.select("*", F.explode(copies).alias("copy"))
    else:
        rows = rows.withColumn("copy", F.lit(0))
    if source.delivered_before is None:
        return rows
    is_late = _uniform(source, "late", "user", "number", "copy") < source.late_share
    delay = -F.log(1 - _uniform(source, "delay", "user", "number", "copy")) * source.late_days
    # What is sent again is sent within a day.
    again = F.col("copy") * _uniform(source, "sent-again", "user", "number")
    delivered = _at(source, F.col("day") + again + F.when(is_late, delay).otherwise(0.0))
    return rows.where(delivered < instant(source.delivered_before))


def interests(spark: SparkSession, source: SyntheticSource, day: float = 0.0) -> DataFrame:
    """The truth behind a user's events: user_id, first and second interest ``day`` days after the start."""
    users = _with_drift(_users(spark, source).withColumn("day", F.lit(day)), source)
    return users.select(_user_id(F.col("user")).alias(c.USER_ID), "first", "second")


def _users(spark: SparkSession, source: SyntheticSource) -> DataFrame:
    """user, first and second interest (two different topics)."""
    return _with_interests(spark.range(source.users).select(F.col("id").alias("user")), source)


def _with_interests(rows: DataFrame, source: SyntheticSource) -> DataFrame:
    first = _pick(_uniform(source, "first", "user"), source.topics)
    step = _pick(_uniform(source, "second", "user"), source.topics - 1) + 1
    return rows.select("*", first.alias("first"), ((first + step) % source.topics).alias("second"))


def _with_drift(rows: DataFrame, source: SyntheticSource) -> DataFrame:
    """The interests as they are on ``day``; both move by the same step, so that they stay two."""
    if not source.drift_share:
        return rows
    has_moved = (_uniform(source, "drift", "user") < source.drift_share) & (
        F.col("day") >= _uniform(source, "drift-day", "user") * source.days
    )
    step = F.when(has_moved, _pick(_uniform(source, "drift-step", "user"), source.topics - 1) + 1).otherwise(0)
    moved = {name: (F.col(name) + step) % source.topics for name in ("first", "second")}
    return rows.withColumns(moved)


def _topic(source: SyntheticSource, name: str, row: Column) -> Column:
    draw = _uniform(source, name, F.col("user"), row)
    anything = _pick(_uniform(source, f"{name}-any", F.col("user"), row), source.topics)
    return (
        F.when(draw < FIRST_INTEREST, F.col("first"))
        .when(draw < FIRST_INTEREST + SECOND_INTEREST, F.col("second"))
        .otherwise(anything)
    )


def _item(source: SyntheticSource, name: str, topic: Column, home: Column) -> Column:
    """The first of a few draws from the topic that is published by ``day``; the topic's first item otherwise.

    A draw moves to the item of scene ``home`` among its neighbours in rank where it is to be one at home there.
    """
    # Items topic, topic + topics, topic + 2 * topics, ...: rank r is drawn with probability ~ 1 / r.
    ranks = F.floor((F.lit(source.items - 1) - topic) / source.topics) + 1
    item = None
    for attempt in reversed(range(CANDIDATES)):
        draw = _uniform(source, f"{name}-item", F.col("user"), F.col("number"), F.lit(attempt))
        drawn = F.least(F.floor(F.pow(ranks + 1, draw)) - 1, ranks - 1)
        is_at_home = _uniform(source, f"{name}-home", F.col("user"), F.col("number"), F.lit(attempt)) < AT_HOME
        moved = F.least(F.floor(drawn / len(source.scenes)) * len(source.scenes) + home, ranks - 1)
        rank = F.when(is_at_home, moved).otherwise(drawn)
        candidate = (rank * source.topics + topic).cast("bigint")
        exists = _published_day(source, candidate) <= F.col("day")
        item = F.when(exists, candidate).otherwise(topic.cast("bigint") if item is None else item)
    assert item is not None
    return item


def _impressions(spark: SparkSession, source: SyntheticSource) -> DataFrame:
    numbers = F.explode(F.sequence(F.lit(0), F.lit(source.impressions_per_user - 1))).alias("number")
    rows = _users(spark, source).select("*", numbers)
    day = _uniform(source, "shown", "user", "number") * source.days
    # Every second impression shows something of the user's interests, the others anything.
    anything = _pick(_uniform(source, "shown-any", "user", "number"), source.topics)
    topic = F.when(F.col("number") % 2 == 0, _topic(source, "shown-topic", F.col("number"))).otherwise(anything)
    rows = _computed(_with_drift(_computed(rows, day=day), source), topic=topic)
    home = _pick(_uniform(source, "shown-home", "user", "number"), len(source.scenes))
    rows = _computed(rows, item=_item(source, "shown", F.col("topic"), home))
    affinity = (
        F.when(F.col("topic") == F.col("first"), 0.6).when(F.col("topic") == F.col("second"), 0.35).otherwise(0.05)
    )
    is_taken = _uniform(source, "taken", "user", "number") < affinity
    device = F.when(_uniform(source, "device", "user") < 0.7, F.lit("phone")).otherwise(F.lit("desktop"))
    rows = rows.select(
        F.concat(F.lit("impression-"), F.concat_ws("-", "user", "number")).alias(c.IMPRESSION_ID),
        _user_id(F.col("user")).alias(c.USER_ID),
        _item_id(F.col("item")).alias(c.ITEM_ID),
        _at(source, F.col("day")).alias(c.IMPRESSION_TS),
        is_taken.cast("int").alias(c.LABEL),
        F.create_map(F.lit("device"), device).alias(c.CONTEXT),
    )
    return _as_raw(rows, RAW_IMPRESSION_TYPES)


def _as_raw(rows: DataFrame, types: Mapping[str, str]) -> DataFrame:
    columns = {name: F.col(name) for name in rows.columns}
    return raw_frame(rows, types, columns, source_file=F.lit(GENERATOR))
