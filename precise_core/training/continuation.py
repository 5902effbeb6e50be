"""Continuing an earlier night's checkpoint: which one, grown to tonight's items, and on which windows.

V vocabulary rows, W known tokens, K tokens of the language model, D width.
"""

from __future__ import annotations

import math
from datetime import datetime

import torch

from precise_core.errors import CheckpointError
from precise_core.models.catalog import ItemCatalog, TokenInit
from precise_core.models.config import ModelConfig
from precise_core.models.fusion import ItemFusion
from precise_core.models.precise import Precise
from precise_core.training.checkpoint import Checkpoint
from precise_core.training.setup import TrainingInputs
from schemas import columns as c


def newest_before(checkpoint: Checkpoint | None, as_of: datetime | None) -> Checkpoint | None:
    """``checkpoint``, or the newest one of its predecessors, that has learnt no event at or after ``as_of``.

    A night that is run again thereby starts where it started the first time. None where there is no such checkpoint,
    or where its ``as_of`` is unknown.
    """
    while checkpoint is not None and as_of is not None and checkpoint.manifest.as_of is not None:
        if checkpoint.manifest.as_of < as_of:
            return checkpoint
        previous = checkpoint.manifest.previous
        is_end = previous is None or previous == checkpoint.model_version
        checkpoint = None if is_end else Checkpoint.open(checkpoint.beside(previous))
    return None


def seconds_of(as_of: datetime) -> int:
    """Epoch seconds from which an event is new to a checkpoint of ``as_of``."""
    return math.floor(as_of.timestamp())


def require_same_model(checkpoint: Checkpoint, expected: ModelConfig, whose: str, advice: str) -> None:
    """Refuse to continue a model of other sizes than ``expected``.

    Args:
        whose: Where the expected sizes come from, for the message.
    """
    ours, theirs = _flat(checkpoint.manifest.model), _flat(expected)
    different = [f"{key} {ours[key]} and {theirs[key]}" for key in ours if ours[key] != theirs[key]]
    if different:
        raise CheckpointError(
            f"checkpoint {checkpoint.model_version} cannot go on: it and {whose} differ in {', '.join(different)}; "
            f"{advice}"
        )


def require_same_text(checkpoint: Checkpoint, catalog: ItemCatalog, advice: str) -> None:
    """Refuse a catalog of another tokenizer, another text length or, for a contextual model, another language model."""
    checkpoint.require_fit(catalog, advice)
    manifest = checkpoint.manifest
    if manifest.max_token_length != catalog.max_token_length:
        raise CheckpointError(
            f"checkpoint {checkpoint.model_version} reads {manifest.max_token_length} tokens per item, item_tokens has "
            f"{catalog.max_token_length}; {advice}"
        )


def grown(checkpoint: Checkpoint, catalog: ItemCatalog, token_init: TokenInit | None = None) -> Precise:
    """The checkpoint's model with a row for every item and token of ``catalog``; old rows are kept bit for bit.

    A new item starts as the unknown row. A new token starts as its vector in ``token_init``, turned into the space of
    the trained rows, or as the unknown-token row where it has none. A model that reads hidden states has no token
    rows: it reads those of new texts as they are.
    """
    old = checkpoint.load_model()
    known_W = old.fusion.known_token_ids_W
    if not old.config.fusion.reads_states:
        known_W = torch.unique(torch.cat([known_W, catalog.known_token_ids]))
    num_rows = max(old.num_item_rows, catalog.num_rows)
    with torch.random.fork_rng(devices=[]):  # every weight is replaced: the draws must not move the caller's
        sizes = old.max_token_length, old.fusion.state_width, old.fusion.layer_sizes
        model = Precise(old.config, num_rows, known_W, old.stage, *sizes)
    state = old.state_dict()
    state["fusion.known_token_ids_W"] = known_W
    state["fusion.is_trained_V"] = padded(old.fusion.is_trained_V, num_rows)
    if old.fusion.has_id:
        state["fusion.id_table.weight"] = _grown_ids(old.fusion, num_rows)
    if old.fusion.has_token_table:
        state["fusion.token_table.weight"] = _grown_tokens(old.fusion, known_W)
    model.load_state_dict(state)
    if token_init is not None and old.fusion.has_token_table:
        _set_new_tokens(model.fusion, old.fusion, token_init)
    return model


def padded(values_V: torch.Tensor, num_rows: int) -> torch.Tensor:
    """``values_V`` with zeros (False) for the rows it lacks."""
    missing = values_V.new_zeros(max(0, num_rows - len(values_V)))
    return torch.cat([values_V, missing])


def frequencies_since(
    inputs: TrainingInputs, known_V: torch.Tensor, learnt_V: torch.Tensor, since: int
) -> torch.Tensor:
    """Training events of each row: ``known_V`` and the events from ``since`` on, at least 1 where a window has it.

    An older event counts only for an item that had none: it was in no train window yet.

    Args:
        known_V: Of the checkpoint that is continued.
        learnt_V: Events of tonight's windows, older ones included (`item_frequencies`).
        since: Epoch seconds from which an event is new.
    """
    num_rows = len(learnt_V)
    new_V = torch.zeros(num_rows, dtype=torch.long)
    for batch in inputs.counting_feed(since).epoch(0):
        new_V += torch.bincount(batch.item_indices_BL[batch.event_ts_BL >= since], minlength=num_rows)
    total_V = torch.maximum(padded(known_V, num_rows) + new_V, learnt_V.clamp(max=1))
    total_V[: c.FIRST_ITEM_INDEX] = 0
    return total_V


def _flat(config: ModelConfig) -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in config.model_dump().items():
        inner = value if isinstance(value, dict) else {}
        flat |= {f"{key}.{name}": part for name, part in inner.items()} or {key: value}
    return {f"model.{key}": value for key, value in flat.items()}


def _grown_ids(old: ItemFusion, num_rows: int) -> torch.Tensor:
    table_VD = old.id_table.weight
    return torch.cat([table_VD, table_VD[c.UNKNOWN_INDEX].expand(num_rows - len(table_VD), -1)])


def _grown_tokens(old: ItemFusion, known_W: torch.Tensor) -> torch.Tensor:
    table_WD = old.token_table.weight
    grown_WD = table_WD[0].repeat(len(known_W) + 1, 1)
    grown_WD[1 + torch.searchsorted(known_W, old.known_token_ids_W)] = table_WD[1:]
    return grown_WD


def _set_new_tokens(fusion: ItemFusion, old: ItemFusion, init: TokenInit) -> None:
    is_old_K = torch.isin(init.token_ids_K, old.known_token_ids_W)
    if is_old_K.all():
        return
    old_rows = 1 + torch.searchsorted(old.known_token_ids_W, init.token_ids_K[is_old_K])
    turned_KD = init.vectors_KD @ _rotation(init.vectors_KD[is_old_K], old.token_table.weight[old_rows].detach())
    fusion.set_token_vectors(init.token_ids_K[~is_old_K], turned_KD[~is_old_K])


def _rotation(from_KD: torch.Tensor, to_KD: torch.Tensor) -> torch.Tensor:
    """The orthogonal map that brings ``from_KD`` closest to ``to_KD`` (Schönemann 1966).

    Every night's PCA has axes of its own: without it a new token would be in other coordinates.
    """
    left, _, right = torch.linalg.svd(from_KD.T.double() @ to_KD.double())
    return (left @ right).to(from_KD.dtype)
