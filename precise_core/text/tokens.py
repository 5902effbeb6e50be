"""The text of an item (T_i, section III) and its tokens, over the catalog on Spark."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial

import pyarrow as pa
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from precise_core.text.config import TextConfig
from precise_core.text.language_model import language_model_folder, tokenize, tokenizer_id
from precise_core.warehouse.arrow_lists import float_lists
from schemas import columns as c

_TEXT = "text"


def item_text(fields: Sequence[str], max_characters: int) -> Column:
    """The fields joined by a space, white space collapsed, capped; empty where the item has no text.

    Args:
        fields: Any of title, description, categories, in the order in which the model reads them.
        max_characters: Longer texts are cut: a tokenizer given ten megabytes stalls a task.
    """
    parts = [F.concat_ws(" ", F.col(name)) if name == c.CATEGORIES else F.col(name) for name in fields]
    # Runs of white space other than a single space: most texts have none, and need no replacement.
    joined = F.regexp_replace(F.concat_ws(" ", *parts), r" \s+|[^\S ]\s*", " ")
    return F.substring(F.trim(joined), 1, max_characters)


def tokenize_items(
    items: DataFrame, vocabulary: DataFrame, config: TextConfig, known: DataFrame | None = None
) -> DataFrame:
    """`items` and `item_vocabulary` to `item_tokens`. A text shared by many items is tokenized once.

    Args:
        vocabulary: ``schemas.ITEM_VOCABULARY``; items that it lacks are left out.
        known: `item_tokens` of an earlier night; a text in it by the same tokenizer is not tokenized again.
    """
    language_model_folder(config.language_model)  # a wrong name fails here, not in a worker
    # Indexed first: the token ids, far wider than a hash, then go through one join only.
    texts = _texts(items, config).join(vocabulary.select(c.ITEM_ID, c.ITEM_INDEX), on=c.ITEM_ID, how="inner")
    tokens = tokenize_texts(unknown_texts(items, config, known), config)
    if known is not None:
        tokens = tokens.unionByName(_known_tokens(known, config))
    named = texts.join(tokens, on=c.TEXT_HASH, how="inner").withColumn(
        c.TOKENIZER_ID, F.lit(tokenizer_id(config.language_model))
    )
    return named.select(c.ITEM_ID, c.ITEM_INDEX, c.TOKEN_IDS, c.TOKEN_COUNT, c.TEXT_HASH, c.TOKENIZER_ID)


def tokenize_texts(texts: DataFrame, config: TextConfig) -> DataFrame:
    """(text_hash, text) to text_hash, token_ids and token_count."""
    schema = f"{c.TEXT_HASH} string, {c.TOKEN_IDS} array<int>, {c.TOKEN_COUNT} int"
    return texts.mapInArrow(partial(_tokenize, config), schema)


def unknown_texts(items: DataFrame, config: TextConfig, known: DataFrame | None) -> DataFrame:
    """The distinct texts (text_hash, text) of ``items`` that ``known`` tokens do not cover."""
    distinct = _texts(items, config).select(c.TEXT_HASH, _TEXT).distinct()
    if known is None:
        return distinct
    return distinct.join(_known_tokens(known, config), on=c.TEXT_HASH, how="left_anti")


def _texts(items: DataFrame, config: TextConfig) -> DataFrame:
    texts = items.select(c.ITEM_ID, item_text(config.fields, config.max_characters).alias(_TEXT))
    return texts.withColumn(c.TEXT_HASH, F.sha2(F.col(_TEXT), 256))


def _known_tokens(known: DataFrame, config: TextConfig) -> DataFrame:
    is_same_tokenizer = F.col(c.TOKENIZER_ID) == tokenizer_id(config.language_model)
    alike = known.where(is_same_tokenizer & (F.size(c.TOKEN_IDS) == config.max_tokens))
    return alike.select(c.TEXT_HASH, c.TOKEN_IDS, c.TOKEN_COUNT).dropDuplicates([c.TEXT_HASH])


def _tokenize(config: TextConfig, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        token_ids_NT, counts_N = tokenize(config.language_model, batch.column(_TEXT).to_pylist(), config.max_tokens)
        yield pa.RecordBatch.from_arrays(
            [batch.column(c.TEXT_HASH), float_lists(token_ids_NT), pa.array(counts_N)],
            names=[c.TEXT_HASH, c.TOKEN_IDS, c.TOKEN_COUNT],
        )
