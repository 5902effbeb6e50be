"""Gates of the lists: neighbours, features of candidates, and the recommendations themselves."""

from __future__ import annotations

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from schemas import CANDIDATE_FEATURES, ITEM_NEIGHBOURS, RECOMMENDATIONS
from schemas import columns as c
from schemas.recommendations import FEATURE_NAMES
from validation.checks import LARGEST, Check, between, holds, not_blank, one_of
from validation.derived import certainly
from validation.suites import TableSuite

_ARE_FINITE = "features_are_finite"
_HAS_SOURCE = "has_a_source"
_IS_ANOTHER = "is_another_item"


def _neighbour_facts(frame: DataFrame) -> DataFrame:
    return frame.withColumn(_IS_ANOTHER, certainly(F.col(c.ITEM_ID) != F.col(c.NEIGHBOUR_ID)))


def _neighbours() -> list[Check]:
    return [
        *not_blank(c.SOURCE, c.ITEM_ID, c.NEIGHBOUR_ID),
        between(c.RANK, 1, None, "is at least 1"),
        between(c.SCORE, 0, LARGEST, "is above 0 and finite", above=True),
        holds(_IS_ANOTHER, "no item is its own neighbour"),
    ]


def _feature_facts(frame: DataFrame) -> DataFrame:
    is_finite = F.lit(True)
    for name in FEATURE_NAMES:
        is_finite = is_finite & (F.abs(F.col(name)) <= LARGEST)
    return frame.withColumn(_ARE_FINITE, certainly(is_finite))


def _features() -> list[Check]:
    return [
        *not_blank(c.USER_ID, c.TASK, c.ITEM_ID),
        one_of(c.LABEL, [0, 1]),
        one_of(c.SPLIT, [c.TRAIN, c.VALIDATION]),
        holds(_ARE_FINITE, "every feature is finite"),
    ]


def _recommendation_facts(frame: DataFrame) -> DataFrame:
    return frame.withColumn(_HAS_SOURCE, certainly(F.size(c.SOURCES) > 0))


def _recommendations() -> list[Check]:
    return [
        *not_blank(c.USER_ID, c.TASK, c.LIST, c.ITEM_ID, c.REASON, c.MODEL_VERSION),
        between(c.RANK, 1, None, "is at least 1"),
        between(c.SCORE, -LARGEST, LARGEST, "is finite"),
        between(c.PROBABILITY, 0, 1, "is a probability"),
        holds(_HAS_SOURCE, "some source found it"),
    ]


SUITES = (
    TableSuite(ITEM_NEIGHBOURS, _neighbours, _neighbour_facts),
    TableSuite(CANDIDATE_FEATURES, _features, _feature_facts),
    TableSuite(RECOMMENDATIONS, _recommendations, _recommendation_facts),
)
