"""The language model over the catalog, on Spark: `text_states`, and their means per token, `token_embeddings`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from precise_core.errors import DataError
from precise_core.text.config import TextConfig
from precise_core.text.language_model import (
    check_language_model,
    hidden_states,
    input_vectors,
    language_model_id,
    lower_states,
    states_id,
    token_state_sums,
    tokenizer_id,
    vectors_id,
)
from precise_core.warehouse.arrow_lists import fixed_lists, float_lists
from schemas import columns as c

_Batches = Iterable[pa.RecordBatch]

_PARTIAL = "partial"
_VECTORS = f"{c.TOKEN_ID} int, {c.VECTOR} array<float>, {c.COUNT} bigint"


def embed_tokens(item_tokens: DataFrame, config: TextConfig, partitions: int) -> DataFrame:
    """`item_tokens` to `token_embeddings`: the mean last hidden state of every token over its occurrences.

    A text shared by many items counts once: further pack sizes of one product add nothing about its words.
    """
    _require_fit(item_tokens, config)
    # Same partitions in the same order on every run: floating-point sums must not depend on scheduling.
    ordered = _in_fixed_order(_distinct_texts(item_tokens), partitions)
    partials = ordered.select(c.TOKEN_IDS, c.TOKEN_COUNT).mapInArrow(
        partial(_sum_states, config), f"{c.TOKEN_ID} int, {_PARTIAL} int, {c.VECTOR} array<double>, {c.COUNT} bigint"
    )
    partials = partials.withColumn(_PARTIAL, F.spark_partition_id() * 1_000_000 + F.col(_PARTIAL))
    grouped = partials.repartition(partitions, c.TOKEN_ID).sortWithinPartitions(c.TOKEN_ID, _PARTIAL)
    means = grouped.select(c.TOKEN_ID, c.VECTOR, c.COUNT).mapInArrow(_mean_vectors, _VECTORS)
    return _named_vectors(means, config, is_input=False)


def embed_token_inputs(item_tokens: DataFrame, config: TextConfig) -> DataFrame:
    """`item_tokens` to `token_embeddings`: the row of the model's input embedding table of every token."""
    _require_fit(item_tokens, config)
    real = F.slice(c.TOKEN_IDS, 1, F.col(c.TOKEN_COUNT))
    tokens = _distinct_texts(item_tokens).select(F.explode(real).alias(c.TOKEN_ID))
    counted = tokens.groupBy(c.TOKEN_ID).agg(F.count(c.TOKEN_ID).alias(c.COUNT))
    vectors = counted.mapInArrow(partial(_read_inputs, config), _VECTORS)
    return _named_vectors(vectors, config, is_input=True)


def embed_texts(
    item_tokens: DataFrame,
    known: DataFrame | None,
    config: TextConfig,
    partitions: int,
    trained_layers: int | None = None,
) -> DataFrame:
    """`item_tokens` to `text_states`: the last hidden state of every token of every distinct text.

    Args:
        item_tokens: Texts without a token are left out.
        known: The table of an earlier night; its states are kept, and the model reads only texts that are not in it.
        trained_layers: The states below so many last layers instead, with those of special tokens (`top_layers`).
    """
    _require_fit(item_tokens, config)
    columns = (c.TEXT_HASH, c.STATES, c.TOKEN_COUNT, c.TOKENIZER_ID, c.LANGUAGE_MODEL)
    name = config.language_model
    model = language_model_id(name) if trained_layers is None else states_id(name, trained_layers)
    texts = _distinct_texts(item_tokens)
    new = texts
    if known is not None:
        # The same texts in another tokenization or model are other states.
        known = known.where(F.col(c.LANGUAGE_MODEL) == model)
        same = [c.TEXT_HASH, c.TOKEN_COUNT, c.TOKENIZER_ID]
        known = known.join(texts.select(*same), on=same, how="left_semi").select(*columns)
        new = texts.join(known, on=same, how="left_anti")
    read = _in_fixed_order(new, partitions).select(c.TEXT_HASH, c.TOKEN_IDS, c.TOKEN_COUNT, c.TOKENIZER_ID)
    states = read.mapInArrow(
        partial(_read_states, config, trained_layers),
        f"{c.TEXT_HASH} string, {c.STATES} array<float>, {c.TOKEN_COUNT} int, {c.TOKENIZER_ID} string",
    )
    states = states.withColumn(c.LANGUAGE_MODEL, F.lit(model)).select(*columns)
    return states if known is None else known.unionByName(states)


def _require_fit(item_tokens: DataFrame, config: TextConfig) -> None:
    """Refuse a language model that cannot be used, or another tokenizer than the items' own."""
    check_language_model(config.language_model, config.max_tokens)
    expected = tokenizer_id(config.language_model)
    found = sorted(row[0] for row in item_tokens.select(c.TOKENIZER_ID).distinct().collect())
    if found and found != [expected]:
        raise DataError(
            f"table item_tokens was tokenized by {', '.join(found)}, text.language_model has tokenizer {expected}; "
            f"run jobs/tokenize_items.py first"
        )


def _distinct_texts(item_tokens: DataFrame) -> DataFrame:
    return item_tokens.where(F.col(c.TOKEN_COUNT) > 0).dropDuplicates([c.TEXT_HASH])


def _in_fixed_order(texts: DataFrame, partitions: int) -> DataFrame:
    return texts.repartition(partitions, c.TEXT_HASH).sortWithinPartitions(c.TEXT_HASH)


def _named_vectors(vectors: DataFrame, config: TextConfig, is_input: bool) -> DataFrame:
    name = vectors_id(language_model_id(config.language_model), is_input)
    return vectors.select(c.TOKEN_ID, c.VECTOR, c.COUNT, F.lit(name).alias(c.LANGUAGE_MODEL))


def _parts(config: TextConfig, batches: _Batches) -> Iterator[tuple[int, pa.RecordBatch, np.ndarray, np.ndarray]]:
    """What the model reads at once: its place in the partition, the rows, token ids [N, T] and token counts [N]."""
    for number, batch in enumerate(batches):
        for start in range(0, batch.num_rows, config.batch_size):
            rows = batch.slice(start, config.batch_size)
            ids_NT = fixed_lists(rows.column(c.TOKEN_IDS), config.max_tokens)
            yield number * 1000 + start // config.batch_size, rows, ids_NT, rows.column(c.TOKEN_COUNT).to_numpy()


def _sum_states(config: TextConfig, batches: _Batches) -> Iterator[pa.RecordBatch]:
    for place, _, ids_NT, counts_N in _parts(config, batches):
        token_ids_K, sums_KH, counts_K = token_state_sums(config.language_model, ids_NT, counts_N)
        places_K = np.full(len(token_ids_K), place, dtype=np.int32)
        yield pa.RecordBatch.from_arrays(
            [pa.array(token_ids_K), pa.array(places_K), float_lists(sums_KH), pa.array(counts_K)],
            names=[c.TOKEN_ID, _PARTIAL, c.VECTOR, c.COUNT],
        )


def _read_inputs(config: TextConfig, batches: _Batches) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        vectors_KH = input_vectors(config.language_model, batch.column(c.TOKEN_ID).to_numpy())
        yield pa.RecordBatch.from_arrays(
            [batch.column(c.TOKEN_ID), float_lists(vectors_KH), batch.column(c.COUNT)],
            names=[c.TOKEN_ID, c.VECTOR, c.COUNT],
        )


def _read_states(config: TextConfig, trained_layers: int | None, batches: _Batches) -> Iterator[pa.RecordBatch]:
    for _, rows, ids_NT, counts_N in _parts(config, batches):
        if trained_layers is None:
            states_SH, special_tokens = hidden_states(config.language_model, ids_NT, counts_N)[1], 0
        else:
            states_SH = lower_states(config.language_model, ids_NT, counts_N, trained_layers)
            special_tokens = (len(states_SH) - int(counts_N.sum())) // len(counts_N)
        ends_N = np.cumsum(counts_N + special_tokens, dtype=np.int64) * states_SH.shape[1]
        offsets = pa.array(np.concatenate([[0], ends_N]).astype(np.int32))
        states = pa.ListArray.from_arrays(offsets, pa.array(states_SH.reshape(-1)))
        yield pa.RecordBatch.from_arrays(
            [rows.column(c.TEXT_HASH), states, rows.column(c.TOKEN_COUNT), rows.column(c.TOKENIZER_ID)],
            names=[c.TEXT_HASH, c.STATES, c.TOKEN_COUNT, c.TOKENIZER_ID],
        )


def _mean_vectors(batches: _Batches) -> Iterator[pa.RecordBatch]:
    """Add up the partial sums of each token; all partials of a token lie in one partition, in a fixed order."""
    sums: dict[int, np.ndarray] = {}
    counts: dict[int, int] = {}
    for batch in batches:
        token_ids = batch.column(c.TOKEN_ID).to_numpy()
        if not len(token_ids):
            continue
        vectors = fixed_lists(batch.column(c.VECTOR))
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
