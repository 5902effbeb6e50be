"""Which order is published of each list: a learned one only where it is above every simple one by more than chance.

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

_ERRORS = 2  # standard errors that a learned order has to gain: of six that differ by chance alone, one in eight does
MEAN = "mean"  # of the models of all losses
PREVIOUS = "previous"  # and the name of yesterday's order


@dataclass(frozen=True)
class Verdict:
    """What the gate chose: the order in use by task and list, with what it saw.

    Attributes:
        figures: NDCG by task, list and order, of lists that something held out was taken of.
        errors: Standard error of what the best learned order gains over the best simple one, by task and list.
        lists: How many these are, by task and list.
        least_lists: With fewer no order is chosen by them.
    """

    chosen: dict[str, dict[str, str]]
    figures: dict[str, dict[str, dict[str, float]]]
    errors: dict[str, dict[str, float]]
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
    """The order of each task and list by NDCG@k: a learned one, or the best simple one.

    The best of several is partly the luckiest. So the mean of today's models, or yesterday's where that is better,
    stands for the learned orders, unless one of the others gains more than two standard errors over it; and what stands
    is published where it gains as much over the best simple order.

    Where fewer than ``least_lists`` held-out lists have something taken, the best of several orders is a draw: then
    that is in use which is best for the same list of `all`, of the orders that know the task; else ``UNLEARNED``.

    Args:
        learned: Scores [C] of each learned order, yesterday's (named ``PREVIOUS`` first) among them.
        known_tasks: The tasks that each of them has learned of; it stands for choice there alone. All that were learned
            of today get an order.
    """
    scores = {name: order_scores(name, held_out.features_CG) for name in ORDERS} | dict(learned)
    verdict, of_all = Verdict({}, {}, {}, {}, least_lists), {}
    of_today = [tasks for name, tasks in known_tasks.items() if not name.startswith(PREVIOUS)]
    others = {str(task) for task in held_out.tasks}.union(*of_today) - {ALL_TASK}
    for task in (ALL_TASK, *sorted(others)):
        of_task = held_out.tasks == task
        lists, rows_C = held_out.where(of_task), of_task[held_out.list_rows_C]
        verdict.chosen[task], verdict.figures[task], verdict.errors[task], verdict.lists[task] = {}, {}, {}, {}
        for name, policy in policies.items():
            repeat = REPEATS[policy.repeat]
            number = int(lists.has_positive(repeat).sum())
            known = {order: found[rows_C] for order, found in scores.items() if _knows(order, task, known_tasks)}
            values = {order: lists.ndcg(found, k, repeat) for order, found in known.items() if number}
            verdict.figures[task][name] = {order: float(found.mean()) for order, found in values.items()}
            verdict.lists[task][name] = number
            if task == ALL_TASK:
                of_all[name] = values if number >= least_lists else {}
            if number < least_lists:
                values = {order: of for order, of in of_all[name].items() if _knows(order, task, known_tasks)}
            verdict.chosen[task][name], verdict.errors[task][name] = _best(values)
    return verdict


def _best(values: Mapping[str, np.ndarray]) -> tuple[str, float]:
    """The order in use by NDCG of each list, and the standard error of the learned one's gain (0 without any)."""
    if not values:
        return UNLEARNED, 0.0
    means = {order: of.mean() for order, of in values.items()}
    simple, learned = ([order for order in means if (order in ORDERS) == is_simple] for is_simple in (True, False))
    best_simple = max(simple, key=lambda order: means[order])
    if not learned:
        return best_simple, 0.0
    means_of_models = [order for order in learned if order in (MEAN, f"{PREVIOUS}.{MEAN}")]
    standing = max(means_of_models or learned[:1], key=lambda order: means[order])
    best = max(learned, key=lambda order: means[order])
    chosen = best if _gains(values[best], values[standing])[0] else standing
    is_above, error = _gains(values[chosen], values[best_simple])
    return (chosen if is_above else best_simple), error


def _gains(ours: np.ndarray, theirs: np.ndarray) -> tuple[bool, float]:
    """Whether the one gains more than two standard errors over the other, and the standard error."""
    gains = ours - theirs
    error = float(gains.std() / np.sqrt(len(gains)))
    return bool(gains.mean() > _ERRORS * error), error


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
    chosen, error = verdict.chosen[task][name], verdict.errors[task][name]
    of_chosen = f", published {figures[chosen]:.4f} ± {error:.4f}" if chosen not in ORDERS else ""
    return f"{number:,} held-out lists{shown}{of_chosen}, best simple order {simple} {figures[simple]:.4f}"


def as_json(verdict: Verdict) -> dict[str, Any]:
    return {"ndcg": verdict.figures, "errors": verdict.errors, "lists": verdict.lists}
