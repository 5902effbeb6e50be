"""Whether a predicted probability is the share that happens. I impressions, B bins."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BINS = 10


@dataclass(frozen=True)
class Bin:
    """Impressions of similar probability: how many, their mean probability, and the share that was taken."""

    impressions: int
    predicted: float
    observed: float


def calibration(labels_I: np.ndarray, probabilities_I: np.ndarray, bins: int = BINS) -> list[Bin]:
    """Bins of equally many impressions, lowest probability first; equal probabilities are never parted.

    >>> calibration(np.array([0, 1, 1, 1]), np.array([0.5, 0.5, 0.9, 0.9]), bins=2)
    [Bin(impressions=2, predicted=0.5, observed=0.5), Bin(impressions=2, predicted=0.9, observed=1.0)]
    """
    probabilities_I = np.asarray(probabilities_I, np.float64)
    if len(probabilities_I) == 0:
        return []
    edges = np.unique(np.quantile(probabilities_I, np.arange(1, bins) / bins, method="lower"))
    bin_I = np.searchsorted(edges, probabilities_I, side="left")
    found = []
    for number in np.unique(bin_I):
        mine = bin_I == number
        observed = float((np.asarray(labels_I)[mine] > 0).mean())
        found.append(Bin(int(mine.sum()), float(probabilities_I[mine].mean()), observed))
    return found


def calibration_error(labels_I: np.ndarray, probabilities_I: np.ndarray, bins: int = BINS) -> float:
    """Mean distance of predicted and observed share over the bins, weighted by impressions; NaN without any."""
    found = calibration(labels_I, probabilities_I, bins)
    if not found:
        return float("nan")
    distances = [abs(part.predicted - part.observed) for part in found]
    return float(np.average(distances, weights=[part.impressions for part in found]))
