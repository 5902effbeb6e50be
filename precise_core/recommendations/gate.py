"""Which order is published of each list: the learned one only where it is above every simple one.

All orders rank the same candidates of held-out users of the past period. L lists, C candidates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from precise_core.recommendations.config import ListConfig
from precise_core.recommendations.lists import REPEATS, CandidateLists
from precise_core.recommendations.orders import ORDERS, order_scores

PREVIOUS = "previous"


@dataclass(frozen=True)
class Verdict:
    """What the gate chose, and the NDCG it saw: by task and list, the order in use, and a figure per order."""

    chosen: dict[str, dict[str, str]]
    figures: dict[str, dict[str, dict[str, float]]]
    lists: dict[str, dict[str, int]]


def choose_orders(
    held_out: CandidateLists, learned: Mapping[str, np.ndarray], policies: Mapping[str, ListConfig], k: int
) -> Verdict:
    """The order with the highest NDCG@k of each task and list; of equal ones a simple one.

    Args:
        learned: Scores [C] of each learned order, yesterday's (``PREVIOUS``) among them; NaN where an order does not
            know the task.
    """
    scores = {name: order_scores(name, held_out.features_CG) for name in ORDERS} | dict(learned)
    verdict = Verdict({}, {}, {})
    for task in sorted(set(held_out.tasks)):
        of_task = held_out.tasks == task
        lists, rows_C = held_out.where(of_task), of_task[held_out.list_rows_C]
        verdict.chosen[task], verdict.figures[task], verdict.lists[task] = {}, {}, {}
        for name, policy in policies.items():
            repeat = REPEATS[policy.repeat]
            known = {order: found[rows_C] for order, found in scores.items() if not np.isnan(found[rows_C]).any()}
            values = {order: lists.ndcg(found, k, repeat) for order, found in known.items()}
            number = len(next(iter(values.values())))
            verdict.lists[task][name] = number
            if not number:
                continue
            figures = {order: float(found.mean()) for order, found in values.items()}
            verdict.figures[task][name] = figures
            verdict.chosen[task][name] = max(figures, key=lambda order: figures[order])  # the first of equal ones
    return verdict


def calibrate(scores_C: np.ndarray, labels_C: np.ndarray) -> tuple[float, float]:
    """(slope, intercept) of the log-odds over the score, by maximum likelihood (Platt 1999, his smoothing)."""
    positives = float(labels_C.sum())
    high, low = (positives + 1) / (positives + 2), 1 / (len(labels_C) - positives + 2)
    targets = np.where(labels_C > 0, high, low)
    center, scale = float(scores_C.mean()), float(scores_C.std())
    if scale <= 1e-9 * abs(center):  # all scores are one
        scale = 1.0
    x = np.stack([(scores_C - center) / scale, np.ones(len(scores_C))], axis=1)
    start = np.array([1.0, np.log(max(positives, 1) / max(len(labels_C) - positives, 1))])

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        z = x @ weights
        return float((np.logaddexp(0, z) - targets * z).mean()), x.T @ (expit(z) - targets) / len(z)

    weights = minimize(loss, start, jac=True, method="BFGS").x
    slope = float(weights[0]) / scale
    return slope, float(weights[1]) - slope * center


def in_words(verdict: Verdict) -> list[str]:
    """A line per task and list: what is published, and the figures of the best learned and the best simple order."""
    lines = []
    for task, by_list in verdict.figures.items():
        for name, figures in by_list.items():
            simple = max((order for order in figures if order in ORDERS), key=lambda order: figures[order])
            learned = [order for order in figures if order not in ORDERS]
            best = max(learned, key=lambda order: figures[order], default=None)
            shown = f"; best learned {best} {figures[best]:.4f}" if best else ""
            lines.append(
                f"{task}, list {name}: {verdict.chosen[task][name]} is published; "
                f"{verdict.lists[task][name]:,} held-out lists{shown}, best simple order {simple} {figures[simple]:.4f}"
            )
    return lines


def as_json(verdict: Verdict) -> dict[str, Any]:
    return {"ndcg": verdict.figures, "lists": verdict.lists}
