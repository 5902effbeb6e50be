"""Which vector space a new checkpoint is served in: the one in use, through an orthogonal map if need be, or its own.

V vocabulary rows, S items that two models are compared on, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import torch

from precise_core.errors import CheckpointError, ModelError
from precise_core.models.catalog import ItemCatalog
from precise_core.models.precise import Precise, fuse_distinct
from precise_core.store import is_there
from precise_core.training.alignment import Fit, fit_alignment, refusal
from precise_core.training.checkpoint import Alignment, Checkpoint
from precise_core.training.config import AlignmentConfig

_ITEMS_AT_ONCE = 4096


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a training started, as far as its space depends on it.

    Attributes:
        earlier: The task's checkpoint of an earlier night; None = there is none, or its items are others.
        basis: Whose coordinates the weights go on from; None = fresh ones.
        opens: Name of the space that is opened where there is no earlier one to stay in; None = the new checkpoint's.
    """

    earlier: Checkpoint | None = None
    basis: str | None = None
    opens: str | None = None


@dataclass(frozen=True, kw_only=True)
class Placed:
    """Arguments of ``write_checkpoint``, and what to tell about them."""

    fields: dict[str, Any]
    notes: tuple[str, ...] = ()


def earlier_in_time(checkpoint: Checkpoint | None, as_of: datetime | None) -> Checkpoint | None:
    """``checkpoint``, or the newest one before it that it goes on from or was compared with, from before ``as_of``.

    As ``newest_before``, but across trainings from scratch: a night that is run again stays in the space that it was in
    the first time.
    """
    while checkpoint is not None and as_of is not None and checkpoint.manifest.as_of is not None:
        manifest = checkpoint.manifest
        if checkpoint.manifest.as_of < as_of:
            return checkpoint
        name = manifest.previous or (manifest.alignment.anchor if manifest.alignment else None)
        place_then = checkpoint.beside(name)
        checkpoint = Checkpoint.open(place_then) if name != manifest.model_version and is_there(place_then) else None
    return None


def place(
    model: Precise,
    catalog: ItemCatalog,
    frequencies_V: torch.Tensor,
    origin: Origin,
    config: AlignmentConfig,
    seed: int,
) -> Placed:
    """The space of a model that has just been trained; called once, before its checkpoint is written.

    A training that went on lies in its space already. One from scratch is mapped to the anchor of the space in use, if
    what that makes of held-out items is within the limits of ``config``; else it opens a space, and the notes say so.
    """
    earlier, fields = origin.earlier, {"basis": origin.basis}
    goes_on = earlier is not None and origin.basis == earlier.manifest.basis_version
    if earlier is None or not (goes_on or config.enabled):
        return Placed(fields={**fields, "space": origin.opens})
    if goes_on and not (config.enabled and config.continued):
        return Placed(fields={**fields, **_space_of(earlier), **_map_of(earlier)})
    anchor = earlier.manifest.anchor_version
    try:
        fit = _fit(model, catalog, frequencies_V, earlier, config, seed)
    except (CheckpointError, ModelError) as error:
        return _opened(fields, earlier, Alignment(anchor=anchor, refusal=str(error)))
    found = Alignment(anchor=anchor, items_fitted=fit.fitted, figures=fit.figures, refusal=refusal(fit.figures, config))
    if found.refusal is not None:
        return _opened(fields, earlier, found)
    mapped = {"alignment": found, "space_map_DD": torch.from_numpy(fit.map_DD)}
    return Placed(fields={**fields, **_space_of(earlier), **mapped}, notes=(_in_words(earlier, fit),))


def _space_of(earlier: Checkpoint) -> dict[str, str]:
    return {"space": earlier.manifest.vector_space, "anchor": earlier.manifest.anchor_version}


def _map_of(earlier: Checkpoint) -> dict[str, Any]:
    if not earlier.manifest.is_aligned:
        return {}
    return {"alignment": earlier.manifest.alignment, "space_map_DD": earlier.space_map()}


def _opened(fields: dict[str, Any], earlier: Checkpoint, found: Alignment) -> Placed:
    note = (
        f"NEW VECTOR SPACE, not that of {earlier.manifest.vector_space}: {found.refusal}; what reads vectors (ranking "
        "models, and whatever other teams have trained on them) has to be trained again"
    )
    return Placed(fields={**fields, "space": None, "alignment": found}, notes=(note,))


def _in_words(earlier: Checkpoint, fit: Fit) -> str:
    figures = fit.figures
    return (
        f"in the vector space of {earlier.manifest.vector_space}: of {fit.held_out:,} held-out items the mean cosine "
        f"to {earlier.manifest.anchor_version} is {figures['cosine']:.3f} ({figures['cosine_before']:.3f} before), "
        f"residual {figures['residual']:.3f}, neighbour overlap {figures['neighbour_overlap']:.3f}"
    )


def _fit(
    model: Precise,
    catalog: ItemCatalog,
    frequencies_V: torch.Tensor,
    earlier: Checkpoint,
    config: AlignmentConfig,
    seed: int,
) -> Fit:
    """The map from the model's item vectors to those of the first checkpoint of the space of ``earlier``.

    Raises:
        CheckpointError: That checkpoint is gone or damaged, or reads other texts.
        ModelError: Other widths, too few items, or vectors that are not finite.
    """
    anchor = Checkpoint.open(earlier.beside(earlier.manifest.anchor_version))
    anchor.require_fit(catalog)
    widths, theirs = model.config.part_widths, anchor.manifest.model.part_widths
    if widths != theirs:
        raise ModelError(f"vectors of widths {list(widths)}, those of {anchor.model_version} have {list(theirs)}")
    rows_S, events_S = _shared(frequencies_V, anchor.item_frequencies(), catalog.num_rows, config)
    needed = max(config.least_items, 2 * model.width)
    if len(rows_S) < needed:
        raise ModelError(
            f"{len(rows_S)} items have {config.least_events} training events or more in it and in "
            f"{anchor.model_version}, {needed} are needed (alignment.least_events, alignment.least_items)"
        )
    anchor_SD = _vectors(anchor.load_model(mapped=True).to(model.device), catalog, rows_S)
    return fit_alignment(_vectors(model, catalog, rows_S), anchor_SD, events_S.numpy(), widths, seed)


def _shared(
    ours_V: torch.Tensor, theirs_V: torch.Tensor, num_rows: int, config: AlignmentConfig
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of the items that both have learnt, in their order, and the events of the model that has fewer."""
    rows = min(len(ours_V), len(theirs_V), num_rows)
    events_V = torch.minimum(ours_V[:rows], theirs_V[:rows])
    rows_S = (events_V >= config.least_events).nonzero()[:, 0]
    most = events_V[rows_S].argsort(descending=True, stable=True)[: config.most_items]
    rows_S = rows_S[most].sort().values
    return rows_S, events_V[rows_S]


@torch.inference_mode()
def _vectors(model: Precise, catalog: ItemCatalog, rows_S: torch.Tensor) -> np.ndarray:
    """Serving vectors of items, float32 [S, D]."""
    model.eval()
    parts = [
        model.serving_item_vectors(fuse_distinct(model, catalog, rows.to(model.device))[0]).float().cpu()
        for rows in rows_S.split(_ITEMS_AT_ONCE)
    ]
    return np.asarray(torch.cat(parts).numpy())
