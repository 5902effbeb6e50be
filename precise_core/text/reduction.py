"""From the width of a language model to the width of the model that uses it."""

from __future__ import annotations

import numpy as np


def principal_components(vectors_NH: np.ndarray, weights_N: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Weighted PCA; the sign of a component is the one that makes its largest entry positive.

    Returns:
        ``(mean_H, components_HD)``, float64; D = ``width``, or H where the vectors are narrower.
    """
    weights_N = weights_N / weights_N.sum()
    mean_H = weights_N @ vectors_NH
    centred_NH = vectors_NH - mean_H
    values_H, components_HH = np.linalg.eigh((centred_NH * weights_N[:, None]).T @ centred_NH)
    components_HD = components_HH[:, np.argsort(-values_H, kind="stable")][:, :width]
    largest_D = components_HD[np.abs(components_HD).argmax(axis=0), np.arange(components_HD.shape[1])]
    return mean_H, components_HD * np.where(largest_D < 0, -1.0, 1.0)
