"""One vector space across retrains: the orthogonal map from one model's vectors to another's, and how well it fits.

A model that was trained from scratch is another rotation of the same world. `Orthogonal Procrustes`_ (Schönemann 1966)
finds the map that brings it back; it leaves every dot product as it was. Pure NumPy.

S items, D width of a vector, d of a part of it.

.. _Orthogonal Procrustes: https://doi.org/10.1007/BF02289451
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from precise_core.errors import ModelError
from precise_core.training.closeness import mean_cosine, neighbour_overlap
from precise_core.training.config import AlignmentConfig

NEIGHBOURS = 20
_COMPARED = 2000  # held-out items whose neighbours are compared: a matrix of so many squared scores, twice


@dataclass(frozen=True)
class Fit:
    """A map and its figures.

    Attributes:
        map_DD: float32, orthogonal; block-diagonal where a vector has parts.
        fitted, held_out: Items that it was fitted on, and those that the figures are of.
        figures: ``cosine_before`` and ``cosine`` (mean cosine to the anchor without and with the map), ``residual``
            (what the map leaves over, relative to the anchor's length), ``neighbour_overlap`` (share of an item's 20
            nearest held-out items that are the same: no map can change it).
    """

    map_DD: np.ndarray
    fitted: int
    held_out: int
    figures: dict[str, float]


def orthogonal_map(
    from_SD: np.ndarray, to_SD: np.ndarray, weights_S: np.ndarray, part_widths: Sequence[int]
) -> np.ndarray:
    """R of shape [D, D], float32, for which ``from_SD @ R`` is closest to ``to_SD``: U Vᵀ of svd(Xᵀ diag(w) Y).

    Nothing is centred: that would change dot products. Parts are mapped apart, so that each keeps its own length.

    Args:
        weights_S: How much each item counts, above 0.
        part_widths: Widths of the parts of a vector; they add up to D.

    Raises:
        ModelError: A vector or weight is not finite, or the shapes differ.
    """
    width = sum(part_widths)
    if from_SD.shape != to_SD.shape or from_SD.shape != (len(weights_S), width):
        raise ModelError(
            f"alignment: vectors of shapes {from_SD.shape} and {to_SD.shape}, {len(weights_S)} weights and parts of "
            f"{list(part_widths)} do not go together; they must be the same items in the same width"
        )
    if not (np.isfinite(from_SD).all() and np.isfinite(to_SD).all() and np.isfinite(weights_S).all()):
        raise ModelError("alignment: a vector or weight is NaN or infinite; nothing can be fitted to it")
    map_DD, start = np.zeros((width, width), np.float32), 0
    for part in part_widths:
        at = slice(start, start + part)
        weighted_dS = from_SD[:, at].T.astype(np.float64) * weights_S
        left_dd, _, right_dd = np.linalg.svd(weighted_dS @ to_SD[:, at].astype(np.float64))
        map_DD[at, at] = left_dd @ right_dd
        start += part
    return map_DD


def fit_alignment(
    ours_SD: np.ndarray, anchor_SD: np.ndarray, events_S: np.ndarray, part_widths: Sequence[int], seed: int
) -> Fit:
    """Fit on a random half of the items, weighted by the root of their events; measure on the other half.

    Args:
        events_S: Training events of each item, above 0.
        seed: Of the choice of the half.

    Raises:
        ModelError: As ``orthogonal_map``, or there are fewer than four items.
    """
    if len(ours_SD) < 4:
        raise ModelError(f"alignment: {len(ours_SD)} items are too few to fit a map and to measure it")
    order_S = np.random.default_rng(seed).permutation(len(ours_SD))
    fitted, held_out = np.sort(order_S[::2]), np.sort(order_S[1::2])
    map_DD = orthogonal_map(ours_SD[fitted], anchor_SD[fitted], np.sqrt(events_S[fitted]), part_widths)
    before_HD, anchor_HD = ours_SD[held_out].astype(np.float64), anchor_SD[held_out].astype(np.float64)
    after_HD, sample = before_HD @ map_DD, slice(_COMPARED)
    figures = {
        "cosine_before": mean_cosine(anchor_HD, before_HD),
        "cosine": mean_cosine(anchor_HD, after_HD),
        "residual": float(np.linalg.norm(after_HD - anchor_HD) / np.linalg.norm(anchor_HD)),
        "neighbour_overlap": neighbour_overlap(anchor_HD[sample], before_HD[sample], NEIGHBOURS),
    }
    return Fit(map_DD, len(fitted), len(held_out), figures)


def refusal(figures: dict[str, float], limits: AlignmentConfig) -> str | None:
    """Why vectors with these figures must not be called those of the anchor's space; None where they may."""
    if not all(np.isfinite(value) for value in figures.values()):
        return "a figure is not finite"
    if figures["cosine"] < limits.smallest_cosine:
        return f"cosine {figures['cosine']:.3f} is below alignment.smallest_cosine {limits.smallest_cosine:g}"
    if figures["residual"] > limits.largest_residual:
        return f"residual {figures['residual']:.3f} is above alignment.largest_residual {limits.largest_residual:g}"
    overlap, smallest = figures["neighbour_overlap"], limits.smallest_neighbour_overlap
    if overlap < smallest:
        return f"neighbour overlap {overlap:.3f} is below alignment.smallest_neighbour_overlap {smallest:g}"
    return None
