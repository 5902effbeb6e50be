"""Gates of item and user vectors: one width, usable numbers, one checkpoint."""

from __future__ import annotations

from collections.abc import Collection

from great_expectations import expectations as gxe
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from schemas import ITEM_EMBEDDINGS, USER_EMBEDDINGS
from schemas import columns as c
from validation.checks import LARGEST, Check, between, holds, not_blank, one_of
from validation.derived import HAS_NO_NULL_ELEMENT, NORM, WIDTH, has_no_null_element, maximum_norm
from validation.suites import TableSuite

_QUERY_WIDTH = "query_width"
_QUERY_NORM = "query_norm"
_QUERY_HAS_NO_NULL_ELEMENT = "query_has_no_null_element"


def _vector_facts(frame: DataFrame) -> DataFrame:
    return frame.withColumns(
        {
            WIDTH: F.coalesce(F.size(c.EMBEDDING), F.lit(-1)),
            NORM: maximum_norm(c.EMBEDDING),
            HAS_NO_NULL_ELEMENT: has_no_null_element(frame, [c.EMBEDDING]),
        }
    )


def _item_facts(frame: DataFrame) -> DataFrame:
    """Null where a row is older than its query vector: such a row is encoded again before anything reads it."""
    facts = {
        _QUERY_WIDTH: F.size(c.QUERY_EMBEDDING),
        _QUERY_NORM: maximum_norm(c.QUERY_EMBEDDING),
        _QUERY_HAS_NO_NULL_ELEMENT: has_no_null_element(frame, [c.QUERY_EMBEDDING]),
    }
    has_query = F.col(c.QUERY_EMBEDDING).isNotNull()
    return _vector_facts(frame).withColumns({name: F.when(has_query, fact) for name, fact in facts.items()})


def _vectors(width: int) -> list[Check]:
    one_version = gxe.ExpectColumnUniqueValueCountToBeBetween(column=c.MODEL_VERSION, max_value=1)
    return [
        between(WIDTH, width, width, f"{c.EMBEDDING} has {width} components"),
        between(NORM, 0, LARGEST, f"{c.EMBEDDING} is finite and not all zero", above=True),
        holds(HAS_NO_NULL_ELEMENT, f"no component of {c.EMBEDDING} is null"),
        Check(one_version, "all rows come from one checkpoint"),
    ]


def _item_vectors(*, width: int) -> list[Check]:
    return [
        *not_blank(c.ITEM_ID, c.MODEL_VERSION),
        between(c.ITEM_INDEX, 1, None, "is a row of the vocabulary, not padding"),
        *_vectors(width),
        between(_QUERY_WIDTH, width, width, f"{c.QUERY_EMBEDDING} has {width} components"),
        between(_QUERY_NORM, 0, LARGEST, f"{c.QUERY_EMBEDDING} is finite and not all zero", above=True),
        holds(_QUERY_HAS_NO_NULL_ELEMENT, f"no component of {c.QUERY_EMBEDDING} is null"),
    ]


def _user_vectors(*, width: int, tasks: Collection[str] | None = None) -> list[Check]:
    checks = [*not_blank(c.USER_ID, c.TASK, c.MODEL_VERSION), *_vectors(width)]
    return checks if tasks is None else [*checks, one_of(c.TASK, tasks)]


SUITES = (
    TableSuite(ITEM_EMBEDDINGS, _item_vectors, _item_facts),
    TableSuite(USER_EMBEDDINGS, _user_vectors, _vector_facts),
)
