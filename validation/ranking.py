"""Gates of the ranking model's features and scores."""

from __future__ import annotations

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from schemas import RANKING_FEATURES, RANKING_SCORES
from schemas import columns as c
from validation.checks import LARGEST, Check, between, holds, not_blank, one_of
from validation.derived import certainly
from validation.suites import TableSuite

_SCORE_IS_THERE = "score_is_there"
_VECTORS_ARE_ALIKE = "vectors_are_alike"
_DENSE_IS_FINITE = "dense_is_finite"


def _feature_facts(frame: DataFrame) -> DataFrame:
    user, item = F.col(c.USER_EMBEDDING), F.col(c.ITEM_EMBEDDING)
    has_both = user.isNotNull() & item.isNotNull()
    is_odd = F.exists(F.map_values(c.DENSE_FEATURES), lambda x: F.isnull(x) | F.isnan(x) | (F.abs(x) > LARGEST))
    return frame.withColumns(
        {
            _SCORE_IS_THERE: certainly(has_both == F.col(c.PRECISE_SCORE).isNotNull()),
            _VECTORS_ARE_ALIKE: certainly(~has_both | (F.size(user) == F.size(item))),
            _DENSE_IS_FINITE: certainly(~is_odd),
        }
    )


def _features() -> list[Check]:
    return [
        *not_blank(c.IMPRESSION_ID, c.USER_ID, c.ITEM_ID, c.MODEL_VERSION),
        one_of(c.SPLIT, c.SPLITS),
        one_of(c.LABEL, [0, 1]),
        holds(_VECTORS_ARE_ALIKE, "both vectors have one width"),
        holds(_SCORE_IS_THERE, f"{c.PRECISE_SCORE} is there exactly where both vectors are"),
        holds(_DENSE_IS_FINITE, f"no value of {c.DENSE_FEATURES} is null or not finite"),
        between(c.PRECISE_SCORE, -LARGEST, LARGEST, "is finite"),
    ]


def _scores() -> list[Check]:
    return [*not_blank(c.RANKER_VERSION), between(c.SCORE, 0, 1, "is a probability")]


SUITES = (TableSuite(RANKING_FEATURES, _features, _feature_facts), TableSuite(RANKING_SCORES, _scores))
