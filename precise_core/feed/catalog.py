"""Item tokens and initial token vectors, from their Delta tables to tensors."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import torch

from precise_core.errors import DataError
from precise_core.feed.snapshot import DeltaSnapshot
from precise_core.models.catalog import FIRST_ITEM, ItemCatalog, TokenInit
from schemas import columns as c


def load_item_catalog(item_tokens: DeltaSnapshot) -> ItemCatalog:
    """The token ids of every vocabulary row, from a snapshot of ``item_tokens``.

    Raises:
        DataError: The table is empty, holds one ``item_index`` twice, token lists of several lengths, or two
            tokenizers.
    """
    table = item_tokens.read([c.ITEM_INDEX, c.TOKEN_IDS, c.TOKEN_COUNT, c.TOKENIZER_ID])
    label = f"table {item_tokens.name}, version {item_tokens.version}"
    item_index = table[c.ITEM_INDEX].to_numpy()
    if len(np.unique(item_index)) != len(item_index) or item_index.min() < FIRST_ITEM:
        raise DataError(f"{label}: item_index must be unique and at least {FIRST_ITEM}")
    tokens = _matrix(table[c.TOKEN_IDS], f"{label}, {c.TOKEN_IDS}").astype(np.int32)
    V = int(item_index.max()) + 1
    token_ids_VT = np.zeros((V, tokens.shape[1]), np.int32)
    token_counts_V = np.zeros(V, np.int32)
    token_ids_VT[item_index] = tokens
    token_counts_V[item_index] = table[c.TOKEN_COUNT].to_numpy()
    tokenizer_id = _only_value(table[c.TOKENIZER_ID], f"{label}, {c.TOKENIZER_ID}")
    return ItemCatalog(torch.from_numpy(token_ids_VT), torch.from_numpy(token_counts_V), tokenizer_id)


def load_token_init(token_embeddings: DeltaSnapshot, width: int, seed: int) -> TokenInit:
    """The language model's mean states reduced to ``width`` by PCA, from a snapshot of ``token_embeddings``.

    Tokens count by their occurrences. A state narrower than ``width`` gets random columns beside it. All entries are
    scaled together to a standard deviation of 1 / sqrt(width), so that a row has length 1 on average.

    Raises:
        DataError: The table is empty, has vectors of several lengths, or comes from two language models.
    """
    table = token_embeddings.read([c.TOKEN_ID, c.VECTOR, c.COUNT, c.LANGUAGE_MODEL])
    label = f"table {token_embeddings.name}, version {token_embeddings.version}"
    token_ids = table[c.TOKEN_ID].to_numpy()
    order = np.argsort(token_ids, kind="stable")
    vectors = _matrix(table[c.VECTOR], f"{label}, {c.VECTOR}").astype(np.float64)[order]
    reduced = _reduce(vectors, table[c.COUNT].to_numpy()[order].astype(np.float64), width, seed)
    scaled = reduced / max(reduced.std(), 1e-12) / np.sqrt(width)
    return TokenInit(
        torch.from_numpy(token_ids[order].astype(np.int64)),
        torch.from_numpy(scaled.astype(np.float32)),
        _only_value(table[c.LANGUAGE_MODEL], f"{label}, {c.LANGUAGE_MODEL}"),
    )


def _reduce(vectors: np.ndarray, weights: np.ndarray, width: int, seed: int) -> np.ndarray:
    """Weighted PCA; the sign of a component is the one that makes its largest entry positive."""
    weights = weights / weights.sum()
    centred = vectors - weights @ vectors
    values, components = np.linalg.eigh((centred * weights[:, None]).T @ centred)
    components = components[:, np.argsort(-values, kind="stable")][:, :width]
    largest = components[np.abs(components).argmax(axis=0), np.arange(components.shape[1])]
    reduced = centred @ (components * np.where(largest < 0, -1.0, 1.0))
    missing = width - reduced.shape[1]
    noise = np.random.default_rng(seed).normal(0.0, max(reduced.std(), 1e-12), (len(reduced), max(missing, 0)))
    return np.concatenate([reduced, noise], axis=1)


def _matrix(column: pa.ChunkedArray, label: str) -> np.ndarray:
    """A list column as a matrix; all lists must be of one length, without nulls."""
    lists = column.combine_chunks()
    lists = lists.combine_chunks() if isinstance(lists, pa.ChunkedArray) else lists
    lengths = np.unique(lists.value_lengths().to_numpy(zero_copy_only=False))
    if len(lengths) != 1 or lists.null_count or not lengths[0] > 0:
        raise DataError(f"{label}: lists of one length above 0 are needed, found lengths {lengths[:5].tolist()}")
    return lists.flatten().to_numpy(zero_copy_only=False).reshape(len(lists), -1)


def _only_value(column: pa.ChunkedArray, label: str) -> str:
    values = sorted(set(column.unique().to_pylist()))
    if len(values) != 1:
        raise DataError(f"{label}: one value is allowed in the table, found {values}")
    return str(values[0])
