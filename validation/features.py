"""Gates of the tables that a trainer reads."""

from __future__ import annotations

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from schemas import ITEM_TOKENS, ITEM_VOCABULARY, RANKING_FEATURES, TOKEN_EMBEDDINGS, TRAINING_WINDOWS
from schemas import columns as c
from validation import derived
from validation.checks import LARGEST, Check, between, declared, holds, not_blank, one_of
from validation.suites import TableSuite

_ROWS_WITH_THIS_INDEX = "rows_with_this_index"
_HAS_ALL_TOKENS = "has_all_tokens"
_ARRAYS_ARE_PARALLEL = "arrays_are_parallel"
_IS_LEFT_PADDED = "is_left_padded"
_TARGETS_FIT = "targets_fit"
_SCORE_IS_THERE = "score_is_there"
_VECTORS_ARE_ALIKE = "vectors_are_alike"
_DENSE_IS_FINITE = "dense_is_finite"


def _vocabulary_facts(frame: DataFrame) -> DataFrame:
    rows = F.count(F.lit(1)).over(Window.partitionBy(c.ITEM_INDEX))
    return frame.withColumn(_ROWS_WITH_THIS_INDEX, rows)


def _vocabulary() -> list[Check]:
    return [
        *declared(ITEM_VOCABULARY),
        *not_blank(c.ITEM_ID),
        between(c.ITEM_INDEX, 2, None, "is the row of an item: 0 is padding, 1 is unknown"),
        between(_ROWS_WITH_THIS_INDEX, 1, 1, "no index is given twice"),
    ]


def _token_facts(frame: DataFrame) -> DataFrame:
    return frame.withColumns(
        {
            derived.WIDTH: F.size(c.TOKEN_IDS),
            _HAS_ALL_TOKENS: derived.certainly(F.col(c.TOKEN_COUNT).between(0, F.size(c.TOKEN_IDS))),
            derived.HAS_NO_NULL_ELEMENT: derived.has_no_null_element(frame, [c.TOKEN_IDS]),
        }
    )


def _tokens(*, max_tokens: int) -> list[Check]:
    return [
        *declared(ITEM_TOKENS),
        *not_blank(c.ITEM_ID, c.TEXT_HASH, c.TOKENIZER_ID),
        between(c.ITEM_INDEX, 2, None, "is the row of an item"),
        between(derived.WIDTH, max_tokens, max_tokens, f"{c.TOKEN_IDS} has {max_tokens} elements"),
        holds(_HAS_ALL_TOKENS, f"{c.TOKEN_COUNT} fits into {c.TOKEN_IDS}"),
        holds(derived.HAS_NO_NULL_ELEMENT, "no token is null"),
    ]


def _token_vectors() -> list[Check]:
    return [
        *declared(TOKEN_EMBEDDINGS),
        between(c.TOKEN_ID, 0, None, "is at least 0"),
        between(c.COUNT, 1, None, "is at least 1"),
        between(derived.NORM, 0, LARGEST, f"{c.VECTOR} is finite and not all zero", above=True),
    ]


def _window_facts(frame: DataFrame) -> DataFrame:
    size, items, times = F.size(c.ITEM_INDICES), F.col(c.ITEM_INDICES), F.col(c.EVENT_TS)
    targets, count = F.col(c.TARGET_INDICES), F.col(c.TARGET_COUNT)
    real = F.slice(items, size - F.col(c.LENGTH) + 1, F.col(c.LENGTH))
    padding = F.slice(items, 1, size - F.col(c.LENGTH))
    filled = F.coalesce(F.array_min(real), F.lit(1)) > 0
    empty = F.coalesce(F.array_max(padding), F.lit(0)) == 0
    return frame.withColumns(
        {
            derived.WIDTH: size,
            _ARRAYS_ARE_PARALLEL: derived.certainly(size == F.size(times)),
            _IS_LEFT_PADDED: derived.certainly(filled & empty),
            derived.IS_IN_TIME_ORDER: derived.certainly(times == F.sort_array(times)),
            _TARGETS_FIT: derived.certainly(count.between(0, F.size(targets))),
        }
    )


def _windows(*, length: int) -> list[Check]:
    return [
        *declared(TRAINING_WINDOWS),
        *not_blank(c.WINDOW_ID, c.TASK),
        one_of(c.SPLIT, c.SPLITS),
        between(c.LENGTH, 0, length, f"lies between 0 and {length}"),
        between(derived.WIDTH, length, length, f"{c.ITEM_INDICES} has {length} elements"),
        holds(_ARRAYS_ARE_PARALLEL, f"{c.ITEM_INDICES} and {c.EVENT_TS} are parallel"),
        holds(_IS_LEFT_PADDED, f"0 stands left of the last `{c.LENGTH}` items and nowhere else"),
        holds(derived.IS_IN_TIME_ORDER, f"{c.EVENT_TS} never decreases"),
        holds(_TARGETS_FIT, f"{c.TARGET_COUNT} fits into {c.TARGET_INDICES}"),
    ]


def _ranking_facts(frame: DataFrame) -> DataFrame:
    user, item = F.col(c.USER_EMBEDDING), F.col(c.ITEM_EMBEDDING)
    has_both = user.isNotNull() & item.isNotNull()
    is_odd = F.exists(F.map_values(c.DENSE_FEATURES), lambda x: F.isnull(x) | F.isnan(x) | (F.abs(x) > LARGEST))
    return frame.withColumns(
        {
            _SCORE_IS_THERE: derived.certainly(has_both == F.col(c.PRECISE_SCORE).isNotNull()),
            _VECTORS_ARE_ALIKE: derived.certainly(~has_both | (F.size(user) == F.size(item))),
            _DENSE_IS_FINITE: derived.certainly(~is_odd),
        }
    )


def _ranking() -> list[Check]:
    return [
        *declared(RANKING_FEATURES),
        *not_blank(c.IMPRESSION_ID, c.USER_ID, c.ITEM_ID, c.MODEL_VERSION),
        one_of(c.SPLIT, c.SPLITS),
        one_of(c.LABEL, [0, 1]),
        holds(_VECTORS_ARE_ALIKE, "both vectors have one width"),
        holds(_SCORE_IS_THERE, f"{c.PRECISE_SCORE} is there exactly where both vectors are"),
        holds(_DENSE_IS_FINITE, f"no value of {c.DENSE_FEATURES} is null or not finite"),
        between(c.PRECISE_SCORE, -LARGEST, LARGEST, "is finite"),
    ]


SUITES = (
    TableSuite(ITEM_VOCABULARY, _vocabulary, _vocabulary_facts),
    TableSuite(ITEM_TOKENS, _tokens, _token_facts),
    TableSuite(TOKEN_EMBEDDINGS, _token_vectors, derived.vector_facts),
    TableSuite(TRAINING_WINDOWS, _windows, _window_facts),
    TableSuite(RANKING_FEATURES, _ranking, _ranking_facts),
)
