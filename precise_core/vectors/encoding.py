"""A checkpoint to vectors, in one process; called by Spark workers, the evaluation and notebooks.

Computed on the model's device; inputs and outputs are NumPy arrays.

B users, N items, L positions, T text tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from precise_core.errors import ModelError
from precise_core.models.catalog import ItemCatalog
from precise_core.models.precise import Precise, fuse_distinct
from precise_core.models.times import Times
from precise_core.store.sums import content_sum
from precise_core.training.checkpoint import Checkpoint
from schemas import columns as c

ITEMS_AT_ONCE = 4096  # per forward pass


@dataclass(frozen=True)
class HistoryTimes:
    """When the events of some users happened, and when each user is asked what comes next; epoch seconds.

    Attributes:
        seconds: int64 of each user's events, oldest first.
        asked_B: int64.
    """

    seconds: Sequence[np.ndarray]
    asked_B: np.ndarray


_loaded: dict[tuple[str, torch.device], tuple[str, Precise]] = {}
_catalogs: dict[str, ItemCatalog] = {}


def load_encoder(folder: str | Path, gpu: str | None = None) -> tuple[str, Precise]:
    """``(model_version, model)`` of a checkpoint, verified and loaded once per process, on this machine's device.

    A model is identified by its checksum, not by its path. On a CPU the weights are mapped into memory, so that the
    workers of one machine share them. ``gpu`` is the address of the one to use, where a machine has several.
    """
    device = encoding_device(gpu)
    key = (content_sum(Path(folder)), device)
    if key not in _loaded:
        checkpoint = Checkpoint.open(Path(folder))
        _loaded.clear()  # one model per worker: weights of an old checkpoint must not stay resident
        _loaded[key] = (checkpoint.model_version, checkpoint.load_model(mapped=True).to(device))
    return _loaded[key]


def encoding_device(gpu: str | None = None) -> torch.device:
    """Where this machine encodes: its GPU, the one of the address ``gpu`` if it is given, or the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device(f"cuda:{gpu}" if gpu and gpu.isdigit() else "cuda")  # other addresses hide all GPUs but one


def load_catalog(file: Path) -> ItemCatalog:
    """The catalog in ``file``, read once per process: every batch of a worker needs the same."""
    key = str(file)
    if key not in _catalogs:
        _catalogs.clear()
        _catalogs[key] = ItemCatalog.load(file)
    return _catalogs[key]


@torch.inference_mode()
def fuse_catalog(model: Precise, catalog: ItemCatalog, item_indices_N: np.ndarray) -> torch.Tensor:
    """e_ND (eq. 4) of items of a catalog, in one pass; for models of every ``token_init``."""
    indices_N = torch.from_numpy(item_indices_N.astype(np.int64))
    return fuse_distinct(model, catalog, indices_N.to(model.device))[0]


@torch.inference_mode()
def fuse_items(
    model: Precise, item_indices_N: np.ndarray, token_ids_NT: np.ndarray, token_counts_N: np.ndarray
) -> torch.Tensor:
    """e_ND (eq. 4) of items by their tokens, in one pass; a contextual model needs ``fuse_catalog``."""
    return model.item_embeddings(
        # Arrow's buffers are read-only, which torch does not know: it gets copies.
        torch.from_numpy(item_indices_N.astype(np.int64)).to(model.device),
        torch.from_numpy(token_ids_NT.copy()).to(model.device),
        torch.from_numpy(token_counts_N.copy()).to(model.device),
    )


@torch.inference_mode()
def item_vectors(model: Precise, e_ND: torch.Tensor) -> np.ndarray:
    """Serving vectors of fused items, shape ``(N, D)`` float32 (normalised under cosine)."""
    return _finite(model.serving_item_vectors(e_ND).float().cpu().numpy(), "item")


@torch.inference_mode()
def query_vectors(model: Precise, e_ND: torch.Tensor, batch: int = 256) -> np.ndarray:
    """What comes after each fused item: the vector of a user whose only event it is, shape ``(N, D)`` float32.

    Equal to ``encode_users`` of histories of one item, asked at its very time; ``batch`` bounds the padded input of a
    targeted head.
    """
    queries_ND = np.zeros((len(e_ND), model.width), np.float32)
    for start in range(0, len(e_ND), batch):
        rows = slice(start, start + batch)
        e_B1D = e_ND[rows, None]
        valid_B1 = torch.ones(e_B1D.shape[:2], dtype=torch.bool, device=e_B1D.device)
        h_BD = model.user_embeddings(e_B1D, valid_B1, Times.just_now(len(e_B1D), e_B1D.device))
        queries_ND[rows] = model.serving_user_vectors(h_BD).float().cpu().numpy()
    return _finite(queries_ND, "query")


def encode_catalog(
    model: Precise, catalog: ItemCatalog, item_indices_N: np.ndarray, batch: int = ITEMS_AT_ONCE
) -> np.ndarray:
    """Serving vectors of items of a catalog, shape ``(N, D)`` float32; for models of every ``token_init``."""

    def fused(rows: slice) -> torch.Tensor:
        return fuse_catalog(model, catalog, item_indices_N[rows])

    return _serving_vectors(model, fused, len(item_indices_N), batch)


def encode_items(
    model: Precise,
    item_indices_N: np.ndarray,
    token_ids_NT: np.ndarray,
    token_counts_N: np.ndarray,
    batch: int = ITEMS_AT_ONCE,
) -> np.ndarray:
    """Serving vectors of items, shape ``(N, D)`` float32 (e_i of eq. 4, normalised under cosine).

    Needs no catalog, so that a stream of items of any length can be encoded; a contextual model needs one, see
    ``encode_catalog``.
    """

    def fused(rows: slice) -> torch.Tensor:
        return fuse_items(model, item_indices_N[rows], token_ids_NT[rows], token_counts_N[rows])

    return _serving_vectors(model, fused, len(item_indices_N), batch)


def _serving_vectors(model: Precise, fused: Callable[[slice], torch.Tensor], items: int, batch: int) -> np.ndarray:
    """Vectors of items in batches, of which ``fused`` gives the embeddings [rows, D]."""
    vectors_ND = np.zeros((items, model.width), np.float32)
    for start in range(0, items, batch):
        rows = slice(start, start + batch)
        vectors_ND[rows] = item_vectors(model, fused(rows))
    return vectors_ND


def encode_users(
    model: Precise,
    catalog: ItemCatalog,
    sequences: Sequence[np.ndarray],
    max_length: int,
    batch: int = 256,
    times: HistoryTimes | None = None,
) -> np.ndarray:
    """Serving vectors of users, shape ``(B, D)`` float32, in the order given.

    Args:
        sequences: Item indices per user, oldest first; only the newest ``max_length`` are read.
        max_length: Positions the model was trained with.
        batch: Users per forward pass; users of similar length share one.
        times: Of the sequences; needed by models that read times (``model.encoder.uses_times``), ignored by others.
    """
    counts_B = np.fromiter(map(len, sequences), np.int64, len(sequences))
    if len(counts_B) and counts_B.min() < 1:
        raise ModelError(f"{int((counts_B < 1).sum())} users have no history to encode")
    vectors_BD = np.zeros((len(sequences), model.width), np.float32)
    lengths_B, ends_B = np.minimum(counts_B, max_length), counts_B.cumsum()
    items_E = np.concatenate(sequences) if len(sequences) else np.zeros(0, np.int64)
    seconds_E = np.concatenate(times.seconds) if times is not None and len(sequences) else np.zeros(0, np.int64)
    order = np.argsort(lengths_B, kind="stable")
    with torch.inference_mode():
        fuse = _fuser(model, catalog, items_E)
        for start in range(0, len(order), batch):
            users = order[start : start + batch]
            places = ends_B[users], lengths_B[users]
            items_BL = torch.from_numpy(_left_padded(items_E, *places)).to(model.device)
            asked = None
            if times is not None:
                read = (_left_padded(seconds_E, *places), times.asked_B[users])
                asked = Times.of_histories(*(torch.from_numpy(part).to(model.device) for part in read))
            h_BD = model.user_embeddings(fuse(items_BL), items_BL > 0, asked)
            vectors_BD[users] = model.serving_user_vectors(h_BD).float().cpu().numpy()
    return _finite(vectors_BD, "user")


def _fuser(model: Precise, catalog: ItemCatalog, items_E: np.ndarray) -> Callable[[torch.Tensor], torch.Tensor]:
    """What makes e of the items of some histories: batch by batch, or, where layers of a language model run over every
    text, from one pass over all of them."""
    if not model.config.fusion.has_text_layers:
        return lambda items_BL: fuse_distinct(model, catalog, items_BL)[0]
    distinct_N = np.unique(np.append(items_E, c.PADDING_INDEX)).astype(np.int64)
    portions = (distinct_N[start : start + ITEMS_AT_ONCE] for start in range(0, len(distinct_N), ITEMS_AT_ONCE))
    e_ND = torch.cat([fuse_catalog(model, catalog, portion) for portion in portions])
    rows_N = torch.from_numpy(distinct_N).to(model.device)
    return lambda items_BL: F.embedding(torch.searchsorted(rows_N, items_BL), e_ND)


def _left_padded(values_E: np.ndarray, ends_B: np.ndarray, lengths_B: np.ndarray) -> np.ndarray:
    """The ``lengths_B`` values before ``ends_B`` of each user, int64 and as wide as the longest; 0 = padding."""
    from_end_L = np.arange(-int(lengths_B.max()), 0)
    at_BL = np.maximum(ends_B[:, None] + from_end_L, 0)
    return np.where(from_end_L >= -lengths_B[:, None], values_E[at_BL], 0).astype(np.int64, copy=False)


def _finite(vectors_ND: np.ndarray, what: str) -> np.ndarray:
    """The vectors, of an ``item``, a ``query`` or a ``user`` each; ModelError where one cannot be used."""
    bad = ~np.isfinite(vectors_ND).all(axis=1) | (np.abs(vectors_ND).sum(axis=1) == 0)
    if bad.any():
        raise ModelError(f"{int(bad.sum())} of {len(bad)} {what} vectors are NaN, infinite or all zero")
    return vectors_ND
