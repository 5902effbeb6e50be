"""Which order is published of each list: a learned one only where it is above every simple one on enough lists.

All orders rank the same candidates of held-out users of the past period. L lists, C candidates.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from precise_core.config.tasks import ALL_TASK
from precise_core.recommendations.config import ListConfig
from precise_core.recommendations.lists import REPEATS, CandidateLists
from precise_core.recommendations.orders import ORDERS, UNLEARNED, order_scores

PREVIOUS = "previous"


@dataclass(frozen=True)
class Verdict:
    """What the gate chose: the order in use by task and list, with what it saw.

    Attributes:
        figures: NDCG by task, list and order, of lists that something held out was taken of.
        lists: How many these are, by task and list.
        least_lists: With fewer no order is chosen by them.
    """

    chosen: dict[str, dict[str, str]]
    figures: dict[str, dict[str, dict[str, float]]]
    lists: dict[str, dict[str, int]]
    least_lists: int


def choose_orders(
    held_out: CandidateLists,
    learned: Mapping[str, np.ndarray],
    known_tasks: Mapping[str, Collection[str]],
    policies: Mapping[str, ListConfig],
    k: int,
    least_lists: int,
) -> Verdict:
    """The order with the highest NDCG@k of each task and list; of equal ones a simple one.

    Where fewer than ``least_lists`` held-out lists have something taken, the best of several orders is a draw: then
    that is in use which is best for the same list of `all`, of the orders that know the task; else ``UNLEARNED``.

    Args:
        learned: Scores [C] of each learned order, yesterday's (``PREVIOUS``) among them.
        known_tasks: The tasks that each of them has learned of; it stands for choice there alone. All that were learned
            of today get an order.
    """
    scores = {name: order_scores(name, held_out.features_CG) for name in ORDERS} | dict(learned)
    verdict = Verdict({}, {}, {}, least_lists)
    of_today = [tasks for name, tasks in known_tasks.items() if name != PREVIOUS]
    others = {str(task) for task in held_out.tasks}.union(*of_today) - {ALL_TASK}
    for task in (ALL_TASK, *sorted(others)):
        of_task = held_out.tasks == task
        lists, rows_C = held_out.where(of_task), of_task[held_out.list_rows_C]
        verdict.chosen[task], verdict.figures[task], verdict.lists[task] = {}, {}, {}
        for name, policy in policies.items():
            repeat = REPEATS[policy.repeat]
            number = int(lists.has_positive(repeat).sum())
            known = {order: found[rows_C] for order, found in scores.items() if _knows(order, task, known_tasks)}
            values = {order: lists.ndcg(found, k, repeat) for order, found in known.items() if number}
            figures = {order: float(found.mean()) for order, found in values.items()}
            verdict.lists[task][name], verdict.figures[task][name] = number, figures
            if number < least_lists:
                figures = verdict.figures[ALL_TASK][name] if verdict.lists[ALL_TASK][name] >= least_lists else {}
                figures = {order: value for order, value in figures.items() if _knows(order, task, known_tasks)}
            verdict.chosen[task][name] = max(figures, key=lambda order: figures[order], default=UNLEARNED)
    return verdict


def _knows(order: str, task: str, known_tasks: Mapping[str, Collection[str]]) -> bool:
    return order in ORDERS or task in known_tasks[order]


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
    """A line per task and list: what is published and why, by the best learned and the best simple order."""
    return [
        f"{task}, list {name}: {order} is published; {_why(verdict, task, name)}"
        for task, by_list in verdict.chosen.items()
        for name, order in by_list.items()
    ]


def _why(verdict: Verdict, task: str, name: str) -> str:
    number, figures = verdict.lists[task][name], verdict.figures[task][name]
    if number < verdict.least_lists:
        of_all = verdict.lists[ALL_TASK][name] >= verdict.least_lists
        instead = f"the best for {ALL_TASK} that knows the task" if of_all else "own history and similar users"
        return f"{number:,} held-out lists are too few (least_lists {verdict.least_lists:,}): {instead}"
    simple = max((order for order in figures if order in ORDERS), key=lambda order: figures[order])
    learned = [order for order in figures if order not in ORDERS]
    best = max(learned, key=lambda order: figures[order], default=None)
    shown = f"; best learned {best} {figures[best]:.4f}" if best else ""
    return f"{number:,} held-out lists{shown}, best simple order {simple} {figures[simple]:.4f}"


def as_json(verdict: Verdict) -> dict[str, Any]:
    return {"ndcg": verdict.figures, "lists": verdict.lists}
