"""Gates of item text: vocabulary, tokens, and their vectors by the language model."""

from __future__ import annotations

from great_expectations import expectations as gxe
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from schemas import ITEM_TOKENS, ITEM_VOCABULARY, TEXT_STATES, TOKEN_EMBEDDINGS
from schemas import columns as c
from validation import derived
from validation.checks import LARGEST, Check, between, holds, not_blank
from validation.suites import TableSuite

_ROWS_WITH_THIS_INDEX = "rows_with_this_index"
_HAS_ALL_TOKENS = "has_all_tokens"


def _vocabulary_facts(frame: DataFrame) -> DataFrame:
    rows = F.count(F.lit(1)).over(Window.partitionBy(c.ITEM_INDEX))
    return frame.withColumn(_ROWS_WITH_THIS_INDEX, rows)


def _vocabulary() -> list[Check]:
    return [
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
        *not_blank(c.ITEM_ID, c.TEXT_HASH, c.TOKENIZER_ID),
        between(c.ITEM_INDEX, 2, None, "is the row of an item"),
        between(derived.WIDTH, max_tokens, max_tokens, f"{c.TOKEN_IDS} has {max_tokens} elements"),
        holds(_HAS_ALL_TOKENS, f"{c.TOKEN_COUNT} fits into {c.TOKEN_IDS}"),
        holds(derived.HAS_NO_NULL_ELEMENT, "no token is null"),
    ]


def _token_vector_facts(frame: DataFrame) -> DataFrame:
    return frame.withColumn(derived.NORM, derived.maximum_norm(c.VECTOR))


def _token_vectors() -> list[Check]:
    return [
        between(c.TOKEN_ID, 0, None, "is at least 0"),
        between(c.COUNT, 1, None, "is at least 1"),
        between(derived.NORM, 0, LARGEST, f"{c.VECTOR} is finite and not all zero", above=True),
    ]


def _state_facts(frame: DataFrame) -> DataFrame:
    special_tokens = F.coalesce(F.regexp_extract(c.LANGUAGE_MODEL, r"#\d+\+(\d+)$", 1).try_cast("int"), F.lit(0))
    width = F.try_divide(F.size(c.STATES), F.col(c.TOKEN_COUNT) + special_tokens)
    return frame.withColumns(
        {
            derived.WIDTH: F.coalesce(width, F.lit(-1.0)),
            derived.NORM: derived.maximum_norm(c.STATES),
            derived.HAS_NO_NULL_ELEMENT: derived.has_no_null_element(frame, [c.STATES]),
        }
    )


def _states(*, width: int, max_tokens: int) -> list[Check]:
    """``width`` is the hidden size of the language model."""
    one_model = gxe.ExpectColumnUniqueValueCountToBeBetween(column=c.LANGUAGE_MODEL, max_value=1)
    return [
        *not_blank(c.TEXT_HASH, c.TOKENIZER_ID, c.LANGUAGE_MODEL),
        between(c.TOKEN_COUNT, 1, max_tokens, "is between one token and the most that are kept"),
        between(derived.WIDTH, width, width, f"{c.STATES} has {width} components per token"),
        between(derived.NORM, 0, LARGEST, f"{c.STATES} is finite and not all zero", above=True),
        holds(derived.HAS_NO_NULL_ELEMENT, f"no component of {c.STATES} is null"),
        Check(one_model, "all rows come from one language model"),
    ]


SUITES = (
    TableSuite(ITEM_VOCABULARY, _vocabulary, _vocabulary_facts),
    TableSuite(ITEM_TOKENS, _tokens, _token_facts),
    TableSuite(TOKEN_EMBEDDINGS, _token_vectors, _token_vector_facts),
    TableSuite(TEXT_STATES, _states, _state_facts),
)
