"""Figures over all impressions together, from the pieces by user that the evaluation resamples."""

from __future__ import annotations

import numpy as np

from precise_core.evaluation.metrics import auc_by_user, log_loss_by_user


def auc(labels_I: np.ndarray, scores_I: np.ndarray) -> float:
    """Probability that a positive scores above a negative, ties count half; NaN where a class is missing."""
    return gauc(np.zeros(len(labels_I), np.int64), labels_I, scores_I)


def gauc(user_ids_I: np.ndarray, labels_I: np.ndarray, scores_I: np.ndarray) -> float:
    """AUC within each user who has both classes, weighted by the user's impressions; NaN where nobody has."""
    _, values, weights = auc_by_user(user_ids_I, labels_I, scores_I)
    usable = ~np.isnan(values)
    return float(np.average(values[usable], weights=weights[usable])) if usable.any() else float("nan")


def log_loss(labels_I: np.ndarray, probabilities_I: np.ndarray) -> float:
    """Mean negative log likelihood; NaN without impressions."""
    _, values, _ = log_loss_by_user(np.zeros(len(labels_I), np.int64), labels_I, probabilities_I)
    return float(values[0]) if len(values) else float("nan")
