"""The tokenizer and the language model over the catalog, on Spark."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from precise_core.text.config import TextConfig
from precise_core.text.item_text import item_text
from precise_core.text.language_model import (
    language_model_folder,
    language_model_id,
    token_state_sums,
    tokenize,
    tokenizer_id,
)
from schemas import columns as c

_Batches = Iterable[pa.RecordBatch]

_TEXT = "text"
_PARTIAL = "partial"


def tokenize_items(items: DataFrame, vocabulary: DataFrame, config: TextConfig) -> DataFrame:
    """`items` and `item_vocabulary` to `item_tokens`. A text shared by many items is tokenized once."""
    language_model_folder(config.language_model)  # a wrong name fails here, not in a worker
    texts = items.select(c.ITEM_ID, item_text(config.fields, config.max_characters).alias(_TEXT))
    texts = texts.withColumn(c.TEXT_HASH, F.sha2(F.col(_TEXT), 256))
    distinct = texts.select(c.TEXT_HASH, _TEXT).distinct()
    tokens = distinct.mapInArrow(
        _tokenizer(config), f"{c.TEXT_HASH} string, {c.TOKEN_IDS} array<int>, {c.TOKEN_COUNT} int"
    )
    return (
        texts.join(tokens, on=c.TEXT_HASH, how="inner")
        .join(vocabulary.select(c.ITEM_ID, c.ITEM_INDEX), on=c.ITEM_ID, how="inner")
        .withColumn(c.TOKENIZER_ID, F.lit(tokenizer_id(config.language_model)))
        .select(c.ITEM_ID, c.ITEM_INDEX, c.TOKEN_IDS, c.TOKEN_COUNT, c.TEXT_HASH, c.TOKENIZER_ID)
    )


def embed_tokens(item_tokens: DataFrame, config: TextConfig, partitions: int) -> DataFrame:
    """`item_tokens` to `token_embeddings`: the mean last hidden state of every token over its occurrences.

    A text shared by many items counts once: nineteen pack sizes of one product say nothing new about its words.
    """
    distinct = item_tokens.where(F.col(c.TOKEN_COUNT) > 0).dropDuplicates([c.TEXT_HASH])
    # Same partitions in the same order on every run: floating-point sums must not depend on scheduling.
    ordered = distinct.repartition(partitions, c.TEXT_HASH).sortWithinPartitions(c.TEXT_HASH)
    partials = ordered.select(c.TOKEN_IDS, c.TOKEN_COUNT).mapInArrow(
        _state_summer(config), f"{c.TOKEN_ID} int, {_PARTIAL} int, {c.VECTOR} array<double>, {c.COUNT} bigint"
    )
    partials = partials.withColumn(_PARTIAL, F.spark_partition_id() * 1_000_000 + F.col(_PARTIAL))
    grouped = partials.repartition(partitions, c.TOKEN_ID).sortWithinPartitions(c.TOKEN_ID, _PARTIAL)
    means = grouped.select(c.TOKEN_ID, c.VECTOR, c.COUNT).mapInArrow(
        _mean_vectors, f"{c.TOKEN_ID} int, {c.VECTOR} array<float>, {c.COUNT} bigint"
    )
    return means.select(
        c.TOKEN_ID, c.VECTOR, c.COUNT, F.lit(language_model_id(config.language_model)).alias(c.LANGUAGE_MODEL)
    )


def float_lists(values_ND: np.ndarray) -> pa.ListArray:
    """Rows of a matrix as an Arrow list column, without a Python object per row."""
    rows, width = values_ND.shape
    offsets = pa.array(np.arange(0, (rows + 1) * width, max(width, 1), dtype=np.int32)[: rows + 1])
    return pa.ListArray.from_arrays(offsets, pa.array(np.ascontiguousarray(values_ND).reshape(-1)))


def fixed_lists(column: pa.ListArray, width: int) -> np.ndarray:
    """An Arrow list column whose lists all have ``width`` elements, as a matrix; honours the offsets of a slice."""
    return column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), width)


def _tokenizer(config: TextConfig) -> Callable[[_Batches], _Batches]:
    def apply(batches: _Batches) -> _Batches:
        for batch in batches:
            token_ids_NT, counts_N = tokenize(config.language_model, batch.column(_TEXT).to_pylist(), config.max_tokens)
            yield pa.RecordBatch.from_arrays(
                [batch.column(c.TEXT_HASH), float_lists(token_ids_NT), pa.array(counts_N)],
                names=[c.TEXT_HASH, c.TOKEN_IDS, c.TOKEN_COUNT],
            )

    return apply


def _state_summer(config: TextConfig) -> Callable[[_Batches], _Batches]:
    def apply(batches: _Batches) -> _Batches:
        for number, batch in enumerate(batches):
            ids_NT = fixed_lists(batch.column(c.TOKEN_IDS), config.max_tokens)
            counts_N = batch.column(c.TOKEN_COUNT).to_numpy()
            for start in range(0, len(counts_N), config.batch_size):
                rows = slice(start, start + config.batch_size)
                token_ids_K, sums_KH, counts_K = token_state_sums(config.language_model, ids_NT[rows], counts_N[rows])
                partial = np.full(len(token_ids_K), number * 1000 + start // config.batch_size, dtype=np.int32)
                yield pa.RecordBatch.from_arrays(
                    [pa.array(token_ids_K), pa.array(partial), float_lists(sums_KH), pa.array(counts_K)],
                    names=[c.TOKEN_ID, _PARTIAL, c.VECTOR, c.COUNT],
                )

    return apply


def _mean_vectors(batches: _Batches) -> _Batches:
    """Add up the partial sums of each token; all partials of a token lie in one partition, in a fixed order."""
    sums: dict[int, np.ndarray] = {}
    counts: dict[int, int] = {}
    for batch in batches:
        token_ids = batch.column(c.TOKEN_ID).to_numpy()
        if not len(token_ids):
            continue
        vectors = batch.column(c.VECTOR).flatten().to_numpy().reshape(len(token_ids), -1)
        for token, vector, count in zip(token_ids, vectors, batch.column(c.COUNT).to_numpy(), strict=True):
            sums[token] = sums[token] + vector if token in sums else vector.copy()
            counts[token] = counts.get(token, 0) + int(count)
    if sums:
        token_ids_K = np.array(sorted(sums), dtype=np.int32)
        counts_K = np.array([counts[token] for token in token_ids_K], dtype=np.int64)
        means_KH = (np.stack([sums[token] for token in token_ids_K]) / counts_K[:, None]).astype(np.float32)
        yield pa.RecordBatch.from_arrays(
            [pa.array(token_ids_K), float_lists(means_KH), pa.array(counts_K)], names=[c.TOKEN_ID, c.VECTOR, c.COUNT]
        )
