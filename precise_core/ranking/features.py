"""Ranking features: one impression with all that the ranking model may read at its instant (section VI-C, Fig. 7).

All counted events are strictly before the impression's instant; popularity is counted up to the end of the day before.
Counts and days are log1p-scaled.

dense_features:
    user_events           events of the user so far
    user_item_events      events of the user on this very item so far
    user_category_events  events of the user on items of this item's first category so far
    user_category_share   the same as a share of the user's events, in [0, 1]
    user_idle_days        days since the user's last event; 0 where there was none
    user_item_idle_days   days since the user's last event on this item; 0 where there was none
    has_user_event        1 where the user had an event before, else 0
    has_user_item_event   1 where the user had an event on this item before, else 0
    item_recent_events    events on the item in the last ``popularity_days`` days before the impression's day
sparse_features:
    user_id, item_id, category (the item's first; empty where it has none), hour (0-23), day_of_week (1 = Sunday), all
    UTC, and ``context_<name>`` for every context entry of the impression
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from precise_core.consume.join_spark import PublishedVersion, join_as_of, version_at
from precise_core.ranking.config import RankingFeaturesConfig
from precise_core.warehouse.instants import instant
from schemas import RANKING_FEATURES
from schemas import columns as c

_CATEGORY = "category"
_MICROS = "micros"
_EVENT_MICROS = "event_micros"
_DAY = "day"
_EVENTS = "events"
_RECENT = "item_recent_events"
_FIRST, _LAST = "first_micros", "last_micros"
_MICROS_PER_DAY = 86_400_000_000


@dataclass(frozen=True)
class FeatureInputs:
    """What the rows of one task are joined from: tables at the versions that the run reads.

    Attributes:
        versions: Published checkpoints of the task by instant, oldest first, as far as vectors can be read.
        user_vectors: Every vector of the task's users in these publications (``join_as_of``).
        stored: `ranking_features` of every task; None where it was never written.
    """

    task: str
    versions: Sequence[PublishedVersion]
    impressions: DataFrame
    events: DataFrame
    items: DataFrame
    user_vectors: DataFrame
    item_vectors: DataFrame
    stored: DataFrame | None = None


def ranking_features(inputs: FeatureInputs, config: RankingFeaturesConfig) -> tuple[DataFrame, int]:
    """The whole content of the table for a task, and how many rows that must be.

    Impressions since the oldest publication that can still be read are joined again; the stored rows of earlier ones
    stay.
    """
    newest = F.max(c.IMPRESSION_TS) - F.expr(f"INTERVAL {config.days} DAYS")
    oldest = F.broadcast(inputs.impressions.agg(newest.alias("oldest")))
    shown = inputs.impressions.join(oldest, on=F.col(c.IMPRESSION_TS) >= F.col("oldest"), how="left_semi")
    first = instant(inputs.versions[0].since)
    joined_now, earlier = shown.where(F.col(c.IMPRESSION_TS) >= first), None
    number = joined_now.count()
    if inputs.stored is not None:
        of_task = inputs.stored.where((F.col(c.TASK) == inputs.task) & (F.col(c.IMPRESSION_TS) < first))
        earlier = of_task.join(shown.select(c.IMPRESSION_ID), on=c.IMPRESSION_ID, how="left_semi")
        number += earlier.count()
    return build_ranking_features(replace(inputs, impressions=joined_now), config, earlier), number


def build_ranking_features(
    inputs: FeatureInputs, config: RankingFeaturesConfig, earlier: DataFrame | None = None
) -> DataFrame:
    """``schemas.RANKING_FEATURES``: exactly one row per impression, and those of ``earlier`` with a new split."""
    categories = _item_categories(inputs.items)
    shown = inputs.impressions.join(categories, on=c.ITEM_ID, how="left").fillna("", subset=[_CATEGORY])
    counted = _with_history(shown, inputs.events, categories)
    counted = _with_popularity(counted, inputs.events, config.popularity_days)
    joined = join_as_of(counted, inputs.user_vectors, inputs.item_vectors, inputs.versions, at=c.IMPRESSION_TS)
    columns = {
        c.TASK: F.lit(inputs.task),
        c.SPLIT: F.lit(c.TRAIN),
        c.SPARSE_FEATURES: _sparse_features(),
        c.DENSE_FEATURES: _dense_features(),
    }
    rows = joined.select(*[columns.get(name, F.col(name)).alias(name) for name in RANKING_FEATURES.column_names])
    space = version_at(c.IMPRESSION_TS, inputs.versions)[c.VECTOR_SPACE].alias(c.VECTOR_SPACE)
    instants = inputs.impressions.select(c.IMPRESSION_TS, space)
    if earlier is not None:
        rows = rows.unionByName(earlier)
        instants = instants.unionByName(earlier.select(c.IMPRESSION_TS, c.VECTOR_SPACE))
    return _with_split(rows, instants, config)


def _item_categories(items: DataFrame) -> DataFrame:
    first = F.coalesce(F.try_element_at(c.CATEGORIES, F.lit(1)), F.lit(""))
    return items.select(c.ITEM_ID, first.alias(_CATEGORY))


def _with_history(shown: DataFrame, events: DataFrame, categories: DataFrame) -> DataFrame:
    """Impressions with counts over the same user's earlier events.

    Impressions and events of a user are put on one time line with a window over the past, which needs one shuffle by
    user and no join of impressions with events.
    """
    users = shown.select(c.USER_ID).distinct()
    past = events.join(users, on=c.USER_ID, how="left_semi").join(categories, on=c.ITEM_ID, how="left")
    past = past.select(c.USER_ID, c.ITEM_ID, _CATEGORY, F.unix_micros(c.EVENT_TS).alias(_MICROS))
    past = past.withColumn(_EVENT_MICROS, F.col(_MICROS))
    now = shown.withColumn(_MICROS, F.unix_micros(c.IMPRESSION_TS))
    line = now.unionByName(past, allowMissingColumns=True)
    columns: dict[str, Column] = {}
    for name, keys in _HISTORIES.items():
        # One microsecond is Spark's resolution, so the frame ends strictly before the row's instant.
        before = Window.partitionBy(*keys).orderBy(_MICROS).rangeBetween(Window.unboundedPreceding, -1)
        columns[f"{name}_events"] = F.count(_EVENT_MICROS).over(before)
        columns[f"{name}_last"] = F.max(_EVENT_MICROS).over(before)
    return line.withColumns(columns).where(F.col(c.IMPRESSION_ID).isNotNull())


_HISTORIES = {
    "user": (c.USER_ID,),
    "user_item": (c.USER_ID, c.ITEM_ID),
    "user_category": (c.USER_ID, _CATEGORY),
}


def _with_popularity(shown: DataFrame, events: DataFrame, days: int) -> DataFrame:
    """Adds the events on the item in the ``days`` days before the impression's day, from daily counts."""
    by_day = shown.withColumn(_DAY, F.unix_date(F.to_date(c.IMPRESSION_TS)))
    needed = by_day.select(c.ITEM_ID, _DAY).distinct().withColumn(_EVENTS, F.lit(0).cast("bigint"))
    happened = events.select(c.ITEM_ID, F.unix_date(F.to_date(c.EVENT_TS)).alias(_DAY))
    daily = happened.join(needed.select(c.ITEM_ID).distinct(), on=c.ITEM_ID, how="left_semi")
    daily = daily.groupBy(c.ITEM_ID, _DAY).agg(F.count("*").alias(_EVENTS))
    both = needed.unionByName(daily).groupBy(c.ITEM_ID, _DAY).agg(F.sum(_EVENTS).alias(_EVENTS))
    before = Window.partitionBy(c.ITEM_ID).orderBy(_DAY).rangeBetween(-days, -1)
    recent = both.withColumn(_RECENT, F.coalesce(F.sum(_EVENTS).over(before), F.lit(0)))
    return by_day.join(recent.select(c.ITEM_ID, _DAY, _RECENT), on=[c.ITEM_ID, _DAY], how="left")


def _with_split(rows: DataFrame, instants: DataFrame, config: RankingFeaturesConfig) -> DataFrame:
    """By a row's place in the time span of its vector space; a span of no length trains."""
    micros = F.unix_micros(c.IMPRESSION_TS)
    spans = instants.groupBy(c.VECTOR_SPACE).agg(F.min(micros).alias(_FIRST), F.max(micros).alias(_LAST))
    place = F.coalesce(F.try_divide(micros - F.col(_FIRST), F.col(_LAST) - F.col(_FIRST)), F.lit(0.0))
    is_validation = place < config.train_share + config.validation_share
    split = F.when(place < config.train_share, c.TRAIN).when(is_validation, c.VALIDATION).otherwise(c.TEST)
    placed = rows.join(F.broadcast(spans), on=c.VECTOR_SPACE, how="left").withColumn(c.SPLIT, split)
    return placed.select(*RANKING_FEATURES.column_names)


def _sparse_features() -> Column:
    own = F.create_map(
        *[F.lit(c.USER_ID), F.col(c.USER_ID)],
        *[F.lit(c.ITEM_ID), F.col(c.ITEM_ID)],
        *[F.lit(_CATEGORY), F.col(_CATEGORY)],
        *[F.lit("hour"), F.hour(c.IMPRESSION_TS).cast("string")],
        *[F.lit("day_of_week"), F.dayofweek(c.IMPRESSION_TS).cast("string")],
    )
    context = F.transform_keys(c.CONTEXT, lambda name, _: F.concat(F.lit("context_"), name))
    return F.map_concat(own, context)


def _dense_features() -> Column:
    category_share = F.coalesce(F.try_divide(F.col("user_category_events"), F.col("user_events")), F.lit(0.0))
    features = {
        "user_events": F.log1p("user_events"),
        "user_item_events": F.log1p("user_item_events"),
        "user_category_events": F.log1p("user_category_events"),
        "user_category_share": category_share,
        "user_idle_days": _idle_days("user_last"),
        "user_item_idle_days": _idle_days("user_item_last"),
        "has_user_event": F.col("user_last").isNotNull().cast("double"),
        "has_user_item_event": F.col("user_item_last").isNotNull().cast("double"),
        _RECENT: F.log1p(_RECENT),
    }
    return F.create_map(*[part for name, value in features.items() for part in (F.lit(name), value.cast("double"))])


def _idle_days(last: str) -> Column:
    days = (F.col(_MICROS) - F.col(last)) / F.lit(_MICROS_PER_DAY)
    return F.coalesce(F.log1p(days), F.lit(0.0))
