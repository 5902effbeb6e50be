"""Item tokens, text states and initial token vectors, from their Delta tables to tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from precise_core.errors import ConfigError, DataError
from precise_core.models.catalog import ItemCatalog, TextStates, TokenInit
from precise_core.models.text_layers import LayersInit, LayerSizes
from precise_core.text.language_model import (
    INPUT_SUFFIX,
    language_model_id,
    special_tokens_of,
    states_id,
    top_layers,
)
from precise_core.text.reduction import principal_components
from precise_core.warehouse.arrow_lists import fixed_lists, list_lengths
from precise_core.warehouse.reader import DeltaSnapshot
from schemas import columns as c


def load_item_catalog(item_tokens: DeltaSnapshot, text_states: DeltaSnapshot | None = None) -> ItemCatalog:
    """The token ids of every vocabulary row; with ``text_states`` for models that read hidden states.

    Raises:
        DataError: The table is empty, has one ``item_index`` twice, token lists of several lengths, or two
            tokenizers; or ``text_states`` lacks the states of an item's text.
    """
    table = item_tokens.read([c.ITEM_INDEX, c.TOKEN_IDS, c.TOKEN_COUNT, c.TEXT_HASH, c.TOKENIZER_ID])
    label = _label(item_tokens)
    item_index = table[c.ITEM_INDEX].to_numpy()
    if len(np.unique(item_index)) != len(item_index) or item_index.min() < c.FIRST_ITEM_INDEX:
        raise DataError(f"{label}: item_index must be unique and at least {c.FIRST_ITEM_INDEX}")
    tokens = _matrix(table[c.TOKEN_IDS], f"{label}, {c.TOKEN_IDS}").astype(np.int32)
    V = int(item_index.max()) + 1
    token_ids_VT = np.zeros((V, tokens.shape[1]), np.int32)
    token_counts_V = np.zeros(V, np.int32)
    token_ids_VT[item_index] = tokens
    token_counts_V[item_index] = table[c.TOKEN_COUNT].to_numpy()
    tokenizer_id = _only_value(table[c.TOKENIZER_ID], f"{label}, {c.TOKENIZER_ID}")
    states = None if text_states is None else _states(table, V, tokenizer_id, text_states)
    return ItemCatalog(torch.from_numpy(token_ids_VT), torch.from_numpy(token_counts_V), tokenizer_id, states)


def _states(items: pa.Table, num_rows: int, tokenizer_id: str, text_states: DeltaSnapshot) -> TextStates:
    """The states of all texts in one matrix, and where those of each vocabulary row's text start."""
    texts = text_states.read([c.TEXT_HASH, c.STATES, c.TOKEN_COUNT, c.TOKENIZER_ID, c.LANGUAGE_MODEL])
    label = _label(text_states)
    made_by = _only_value(texts[c.TOKENIZER_ID], f"{label}, {c.TOKENIZER_ID}")
    if made_by != tokenizer_id:
        raise DataError(
            f"{label}: states of texts tokenized by {made_by}, item_tokens has {tokenizer_id}; "
            f"run jobs/embed_tokens.py first"
        )
    counts_X = texts[c.TOKEN_COUNT].to_numpy()
    # A text of another number of tokens was cut at another text.max_tokens: its states are those of another text.
    found = pc.fill_null(pc.index_in(items[c.TEXT_HASH], texts[c.TEXT_HASH].combine_chunks()), -1).to_numpy()
    has_text, counts_N = items[c.TOKEN_COUNT].to_numpy() > 0, items[c.TOKEN_COUNT].to_numpy()
    missing = has_text & ((found < 0) | (counts_X[found] != counts_N))
    if missing.any():
        raise DataError(
            f"{label}: no states for the text of {int(missing.sum())} of {len(missing)} items; "
            f"run jobs/embed_tokens.py first"
        )
    language_model = _only_value(texts[c.LANGUAGE_MODEL], f"{label}, {c.LANGUAGE_MODEL}")
    special_tokens = special_tokens_of(language_model)
    counts_X = counts_X + special_tokens
    starts_X = np.concatenate([[0], np.cumsum(counts_X, dtype=np.int64)])
    starts_V = np.zeros(num_rows, np.int64)
    starts_V[items[c.ITEM_INDEX].to_numpy()[has_text]] = starts_X[found[has_text]]
    states_SH = _stacked(texts[c.STATES], counts_X, f"{label}, {c.STATES}")
    return TextStates(torch.from_numpy(states_SH), torch.from_numpy(starts_V), language_model, special_tokens)


def _stacked(column: pa.ChunkedArray, counts_X: np.ndarray, label: str) -> np.ndarray:
    """Lists of count x H numbers as one matrix of H columns, filled part by part: a second copy may not fit."""
    lengths_X = pc.list_value_length(column).to_numpy()
    width = int(lengths_X[0] // max(counts_X[0], 1))
    if column.null_count or width < 1 or not (lengths_X == counts_X * width).all():
        raise DataError(f"{label}: {c.TOKEN_COUNT} states of one width are needed in every row")
    values, end = np.empty(int(lengths_X.sum()), np.float32), 0
    for chunk in column.chunks:
        start, end = end, end + int(pc.sum(pc.list_value_length(chunk)).as_py() or 0)
        values[start:end] = chunk.flatten().to_numpy(zero_copy_only=False)
    return values.reshape(-1, width)


def load_token_init(
    token_embeddings: DeltaSnapshot, width: int, seed: int, mode: Literal["vocab", "input"] = "vocab"
) -> TokenInit:
    """The language model's vectors reduced to ``width`` by PCA, from a snapshot of ``token_embeddings``.

    Tokens count by their occurrences. A vector narrower than ``width`` gets random columns beside it. All entries are
    scaled together to a standard deviation of 1 / sqrt(width), so that a row has length 1 on average.

    Raises:
        DataError: The table is empty, has vectors of several lengths, a vector that is not finite, comes from two
            language models, or was written in another mode than ``mode``.
    """
    table = token_embeddings.read([c.TOKEN_ID, c.VECTOR, c.COUNT, c.LANGUAGE_MODEL])
    label = _label(token_embeddings)
    language_model = _only_value(table[c.LANGUAGE_MODEL], f"{label}, {c.LANGUAGE_MODEL}")
    written = "input" if language_model.endswith(INPUT_SUFFIX) else "vocab"
    if written != mode:
        raise DataError(
            f"{label}: vectors are {language_model}, written with model.fusion.token_init `{written}`; this training "
            f"has `{mode}`; run jobs/embed_tokens.py first"
        )
    token_ids = table[c.TOKEN_ID].to_numpy()
    order = np.argsort(token_ids, kind="stable")
    vectors = _matrix(table[c.VECTOR], f"{label}, {c.VECTOR}").astype(np.float64)[order]
    if not np.isfinite(vectors).all():
        raise DataError(f"{label}: a vector of {language_model} is not finite; the model's weights are damaged")
    reduced = _reduce(vectors, table[c.COUNT].to_numpy()[order].astype(np.float64), width, seed)
    scaled = reduced / max(reduced.std(), 1e-12) / np.sqrt(width)
    return TokenInit(
        torch.from_numpy(token_ids[order].astype(np.int64)), torch.from_numpy(scaled.astype(np.float32)), language_model
    )


def load_layers_init(name: str, count: int) -> LayersInit:
    """The last ``count`` layers of the language model ``name`` (`token_init: top_layers`).

    Raises:
        ConfigError: It is not on this machine, has fewer layers, or its layers are not those of BERT.
    """
    sizes, weights = top_layers(name, count)
    return LayersInit(LayerSizes(**sizes), weights, states_id(name, count))


def require_language_model(table: DeltaSnapshot, name: str) -> None:
    """Refuse vectors or states that were written by another language model than ``text.language_model``.

    Their ids are compared, which are hashes of configuration and weights. A machine that only trains need not have the
    model: there only the names are compared.

    Args:
        table: `token_embeddings` or `text_states`.
    """
    label = _label(table)
    written = _only_value(table.read([c.LANGUAGE_MODEL])[c.LANGUAGE_MODEL], f"{label}, {c.LANGUAGE_MODEL}")
    found = written.partition("#")[0]
    try:
        configured = language_model_id(name)
    except ConfigError:
        configured, found = Path(name).name, found.rpartition("@")[0]
    if found != configured:
        raise DataError(
            f"{label}: written by language model {written}, text.language_model is {configured}; "
            f"run jobs/embed_tokens.py first"
        )


def _reduce(vectors: np.ndarray, weights: np.ndarray, width: int, seed: int) -> np.ndarray:
    mean, components = principal_components(vectors, weights, width)
    reduced = (vectors - mean) @ components
    missing = width - reduced.shape[1]
    noise = np.random.default_rng(seed).normal(0.0, max(reduced.std(), 1e-12), (len(reduced), max(missing, 0)))
    return np.concatenate([reduced, noise], axis=1)


def _label(snapshot: DeltaSnapshot) -> str:
    return f"table {snapshot.name}, version {snapshot.version}"


def _matrix(column: pa.ChunkedArray, label: str) -> np.ndarray:
    """A list column as a matrix; all lists must be of one length, without nulls."""
    lengths = list_lengths(column)
    if len(lengths) != 1 or column.null_count or not lengths[0]:
        raise DataError(f"{label}: lists of one length above 0 are needed, found lengths {lengths[:5]}")
    return fixed_lists(column)


def _only_value(column: pa.ChunkedArray, label: str) -> str:
    values = sorted(set(column.unique().to_pylist()))
    if len(values) != 1:
        raise DataError(f"{label}: one value is allowed in the table, found {values}")
    return str(values[0])
