"""Evaluation of ranking models on impressions: AUC, GAUC and log loss with intervals by user, and calibration.

The question `ranking` of `evaluation_metrics`. I impressions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np

from precise_core.bootstrap import auc_difference, auc_interval, mean_interval, paired_difference
from precise_core.errors import DataError, NothingToEvaluateError
from precise_core.evaluation.groups import ALL
from precise_core.evaluation.metrics import auc_by_user, log_loss_by_user
from precise_core.evaluation.protocol import MetricKey, metric_row

BINS = 10


@dataclass(frozen=True)
class ImpressionTask:
    """Impressions of the test split: the user of each, and whether it was taken (1) or not (0)."""

    task: str
    as_of: datetime
    user_ids_I: np.ndarray
    labels_I: np.ndarray
    samples: int = 1000
    seed: int = 17

    def __post_init__(self) -> None:
        if len(self.labels_I) == 0 or len(np.unique(self.labels_I)) < 2:
            raise NothingToEvaluateError(
                f"evaluation of {self.task}: {len(self.labels_I)} impressions without both labels 0 and 1"
            )


def evaluate_impressions(
    systems: Mapping[str, np.ndarray], task: ImpressionTask, *, model_versions: Mapping[str, str | None] | None = None
) -> list[dict[str, Any]]:
    """Rows of evaluation_metrics: auc, gauc, log_loss and calibration_error of each system's probabilities."""
    rows: list[dict[str, Any]] = []
    for name, probabilities_I in systems.items():
        _require_parallel(name, probabilities_I, task)
        for metric, figure in _figures(probabilities_I, task).items():
            rows.append(_row(task, name, (model_versions or {}).get(name), metric, figure))
    return [row for row in rows if not np.isnan(row["value"])]


def gains(
    compared: Sequence[Mapping[str, Any]], task: ImpressionTask, *, model_versions: Mapping[str, str | None]
) -> list[dict[str, Any]]:
    """Rows of evaluation_metrics from ``compare_impressions``: auc_gain, gauc_gain, log_loss_gain; higher is better."""
    rows, users = [], len(np.unique(task.user_ids_I))
    for found in compared:
        sign = -1 if found["metric"] == "log_loss" else 1
        low, high = sorted((sign * found["ci_low"], sign * found["ci_high"]))
        metric, system, gain = f"{found['metric']}_gain", found["system"], sign * found["difference"]
        row = _row(task, system, model_versions[system], metric, (gain, low, high, users))
        rows.append(row | {"reference": found["reference"], "p_value": found["p_value"]})
    return [row for row in rows if not np.isnan(row["value"])]


def compare_impressions(
    systems: Mapping[str, np.ndarray], reference: str, task: ImpressionTask
) -> list[dict[str, Any]]:
    """Paired difference of every other system to ``reference`` on auc, gauc and log_loss, by user, with p-value.

    Probabilities of several trainings, one row each [S, I], are compared by the mean of their figures.
    """
    if reference not in systems:
        raise DataError(f"compare: no system {reference!r}; there are {sorted(systems)}")
    compared = []
    for name, probabilities_I in systems.items():
        for of_one_I in np.atleast_2d(probabilities_I):
            _require_parallel(name, of_one_I, task)
        if name == reference:
            continue
        for metric, found in _differences(probabilities_I, systems[reference], task).items():
            numbers = dict(zip(("difference", "ci_low", "ci_high", "p_value"), found, strict=True))
            compared.append({"system": name, "reference": reference, "metric": metric, **numbers})
    return compared


def _differences(
    ours_I: np.ndarray, theirs_I: np.ndarray, task: ImpressionTask
) -> dict[str, tuple[float, float, float, float]]:
    """(difference, low, high, p-value) by metric."""
    users_I, labels_I = task.user_ids_I, task.labels_I
    found = {"auc": auc_difference(users_I, labels_I, ours_I, theirs_I, task.samples, task.seed)}
    for metric, pieces in (("gauc", auc_by_user), ("log_loss", log_loss_by_user)):
        ours, theirs = (
            [pieces(users_I, labels_I, of_one_I) for of_one_I in np.atleast_2d(scores)] for scores in (ours_I, theirs_I)
        )
        values, against = (np.mean([part[1] for part in parts], axis=0) for parts in (ours, theirs))
        found[metric] = paired_difference(values, against, task.samples, task.seed, ours[0][2])
    return found


def _row(
    task: ImpressionTask,
    system: str,
    model_version: str | None,
    metric: str,
    figure: tuple[float, float | None, float | None, int],
) -> dict[str, Any]:
    key = MetricKey(system, "all", ALL, metric, 0)
    return metric_row("ranking", task.task, task.as_of, model_version, key, figure)


def _figures(
    probabilities_I: np.ndarray, task: ImpressionTask
) -> dict[str, tuple[float, float | None, float | None, int]]:
    """(value, low, high, users) by metric."""
    pairs = (task.user_ids_I, task.labels_I, probabilities_I)
    users, user_auc, weights = auc_by_user(*pairs)
    _, user_loss, _ = log_loss_by_user(*pairs)
    return {
        "auc": (*auc_interval(*pairs, task.samples, task.seed), len(users)),
        "gauc": (*mean_interval(user_auc, task.samples, task.seed, weights), int((~np.isnan(user_auc)).sum())),
        "log_loss": (*mean_interval(user_loss, task.samples, task.seed, weights), len(users)),
        "calibration_error": (calibration_error(task.labels_I, probabilities_I), None, None, len(users)),
    }


def _require_parallel(name: str, probabilities_I: np.ndarray, task: ImpressionTask) -> None:
    if len(probabilities_I) != len(task.labels_I):
        raise DataError(f"system {name}: {len(probabilities_I)} probabilities for {len(task.labels_I)} impressions")
    if not np.isfinite(probabilities_I).all():
        raise DataError(f"system {name}: {int((~np.isfinite(probabilities_I)).sum())} probabilities are not finite")


@dataclass(frozen=True)
class Bin:
    """Impressions of similar probability: how many, their mean probability, and the share that was taken."""

    impressions: int
    predicted: float
    observed: float


def calibration(labels_I: np.ndarray, probabilities_I: np.ndarray, bins: int = BINS) -> list[Bin]:
    """Bins of equally many impressions, lowest probability first; equal probabilities share a bin.

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
