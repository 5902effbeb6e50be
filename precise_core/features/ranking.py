"""Ranking features: one impression with everything the ranking model may know at its instant (section VI-C, Fig. 7).

Everything counted lies strictly before the impression's instant; popularity is counted up to the end of the day before.
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

from datetime import datetime

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from precise_core.features.config import RankingFeaturesConfig
from precise_core.sources.times import instant
from schemas import RANKING_FEATURES
from schemas import columns as c

TRAIN, VALIDATION, TEST = "train", "validation", "test"

_CATEGORY = "category"
_MICROS = "micros"
_EVENT_MICROS = "event_micros"
_DAY = "day"
_EVENTS = "events"
_RECENT = "item_recent_events"
_USER_AS_OF = "user_as_of"
_MICROS_PER_DAY = 86_400_000_000


def build_ranking_features(
    impressions: DataFrame,
    events: DataFrame,
    items: DataFrame,
    item_embeddings: DataFrame,
    user_embeddings: DataFrame,
    *,
    task: str,
    model_version: str,
    as_of: datetime,
    config: RankingFeaturesConfig,
) -> DataFrame:
    """``schemas.RANKING_FEATURES``: exactly one row per impression.

    Args:
        impressions: ``schemas.IMPRESSIONS``.
        events: ``schemas.EVENTS``.
        items: ``schemas.ITEMS``.
        item_embeddings: ``schemas.ITEM_EMBEDDINGS``; only rows of ``model_version`` are joined.
        user_embeddings: ``schemas.USER_EMBEDDINGS``; only rows of ``task`` and ``model_version`` are joined.
        task: Whose user vector is injected.
        model_version: The checkpoint of both vectors.
        as_of: The instant up to which that checkpoint knows the world: no impression before it gets a vector.
        config: Split and popularity days.
    """
    categories = _item_categories(items)
    shown = impressions.join(categories, on=c.ITEM_ID, how="left").fillna("", subset=[_CATEGORY])
    counted = _with_history(shown, events, categories)
    counted = _with_popularity(counted, events, config.popularity_days)
    joined = _with_vectors(counted, item_embeddings, user_embeddings, task, model_version, as_of)
    columns = {
        c.SPLIT: _split(config),
        c.SPARSE_FEATURES: _sparse_features(),
        c.DENSE_FEATURES: _dense_features(),
        c.PRECISE_SCORE: _dot(F.col(c.USER_EMBEDDING), F.col(c.ITEM_EMBEDDING)),
        c.MODEL_VERSION: F.lit(model_version),
    }
    rows = joined.crossJoin(F.broadcast(_time_span(impressions)))
    return rows.select(*[columns.get(name, F.col(name)).alias(name) for name in RANKING_FEATURES.column_names])


def _item_categories(items: DataFrame) -> DataFrame:
    first = F.coalesce(F.try_element_at(c.CATEGORIES, F.lit(1)), F.lit(""))
    return items.select(c.ITEM_ID, first.alias(_CATEGORY))


def _with_history(shown: DataFrame, events: DataFrame, categories: DataFrame) -> DataFrame:
    """Impressions with counts over the same user's earlier events.

    Impressions and events of a user are put on one time line and a window looks back over it, which needs one shuffle
    by user and no join of impressions with events.
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
    asked = by_day.select(c.ITEM_ID, _DAY).distinct().withColumn(_EVENTS, F.lit(0).cast("bigint"))
    happened = events.select(c.ITEM_ID, F.unix_date(F.to_date(c.EVENT_TS)).alias(_DAY))
    daily = happened.join(asked.select(c.ITEM_ID).distinct(), on=c.ITEM_ID, how="left_semi")
    daily = daily.groupBy(c.ITEM_ID, _DAY).agg(F.count("*").alias(_EVENTS))
    both = asked.unionByName(daily).groupBy(c.ITEM_ID, _DAY).agg(F.sum(_EVENTS).alias(_EVENTS))
    before = Window.partitionBy(c.ITEM_ID).orderBy(_DAY).rangeBetween(-days, -1)
    recent = both.withColumn(_RECENT, F.coalesce(F.sum(_EVENTS).over(before), F.lit(0)))
    return by_day.join(recent.select(c.ITEM_ID, _DAY, _RECENT), on=[c.ITEM_ID, _DAY], how="left")


def _with_vectors(
    shown: DataFrame,
    item_embeddings: DataFrame,
    user_embeddings: DataFrame,
    task: str,
    model_version: str,
    as_of: datetime,
) -> DataFrame:
    """Adds the two vectors, null where the entity has none or the vector knows more than the impression may."""
    of_version = F.col(c.MODEL_VERSION) == model_version
    item = item_embeddings.where(of_version).select(c.ITEM_ID, F.col(c.EMBEDDING).alias(c.ITEM_EMBEDDING))
    user = user_embeddings.where(of_version & (F.col(c.TASK) == task)).select(
        c.USER_ID, F.col(c.EMBEDDING).alias(c.USER_EMBEDDING), F.col(c.AS_OF).alias(_USER_AS_OF)
    )
    joined = shown.join(item, on=c.ITEM_ID, how="left").join(user, on=c.USER_ID, how="left")
    checkpoint_existed = instant(as_of) <= F.col(c.IMPRESSION_TS)
    user_existed = checkpoint_existed & (F.col(_USER_AS_OF) <= F.col(c.IMPRESSION_TS))
    return joined.withColumns(
        {
            c.ITEM_EMBEDDING: F.when(checkpoint_existed, F.col(c.ITEM_EMBEDDING)),
            c.USER_EMBEDDING: F.when(user_existed, F.col(c.USER_EMBEDDING)),
        }
    )


def _dot(left: Column, right: Column) -> Column:
    products = F.zip_with(left, right, lambda a, b: a.cast("double") * b.cast("double"))
    return F.aggregate(products, F.lit(0.0), lambda total, product: total + product).cast("float")


def _time_span(impressions: DataFrame) -> DataFrame:
    first, last = F.min(c.IMPRESSION_TS), F.max(c.IMPRESSION_TS)
    return impressions.agg(F.unix_micros(first).alias("first_micros"), F.unix_micros(last).alias("last_micros"))


def _split(config: RankingFeaturesConfig) -> Column:
    """By the impression's place in the time span of all impressions; a span of no length trains."""
    span = F.col("last_micros") - F.col("first_micros")
    place = F.coalesce(F.try_divide(F.col(_MICROS) - F.col("first_micros"), span), F.lit(0.0))
    is_validation = place < config.train_share + config.validation_share
    return F.when(place < config.train_share, TRAIN).when(is_validation, VALIDATION).otherwise(TEST)


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
