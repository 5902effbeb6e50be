"""How close two models' vectors of the same items are: row i of both is the same item.

S keys, D width; two checkpoints may have different widths.
"""

from __future__ import annotations

import numpy as np


def mean_cosine(old_SD: np.ndarray, new_SD: np.ndarray) -> float:
    """Mean cosine of a key's new vector to its old one; 0 where the widths differ.

    Only for vectors of one space: a model trained from scratch has another one, where cosines are around 0.
    """
    if old_SD.shape != new_SD.shape:
        return 0.0
    lengths_S = np.linalg.norm(old_SD, axis=1) * np.linalg.norm(new_SD, axis=1)
    return float(np.mean(np.einsum("sd,sd->s", old_SD, new_SD) / lengths_S))


def neighbour_overlap(old_SD: np.ndarray, new_SD: np.ndarray, k: int) -> float:
    """Share of each key's k nearest others within the sample (by dot product) that are the same, mean over the keys.

    Invariant to rotations of the space, so that unrelated trainings are comparable too.
    """
    k = min(k, len(old_SD) - 1)
    if k < 1:
        return 1.0
    old_Sk, new_Sk = _nearest(old_SD, k), _nearest(new_SD, k)
    return float((old_Sk[:, :, None] == new_Sk[:, None, :]).any(axis=2).mean())


def _nearest(vectors_SD: np.ndarray, k: int) -> np.ndarray:
    scores_SS = vectors_SD @ vectors_SD.T
    np.fill_diagonal(scores_SS, -np.inf)
    return np.argpartition(-scores_SS, k - 1, axis=1)[:, :k]
