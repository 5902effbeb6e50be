"""What PRECISE is worth in the lists: the learned order beside one that has neither its scores nor its candidates."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from precise_core.bootstrap import paired_difference
from precise_core.recommendations.config import ListConfig
from precise_core.recommendations.lists import REPEATS, CandidateLists

Gains = dict[str, dict[str, dict[str, float]]]
_SAMPLES = 1000


def precise_gains(
    held_out: CandidateLists,
    with_C: np.ndarray,
    without_C: np.ndarray,
    policies: Mapping[str, ListConfig],
    k: int,
    seed: int,
) -> Gains:
    """By task and list: NDCG@k `with` and `without` PRECISE on the held-out lists, and the paired difference.

    ``without_C`` ranks candidates that PRECISE alone found behind all others, as if they had not been found. What they
    displaced below `recommendations.candidates` is not given back: `benchmarks.precise_worth` makes them anew without.
    """
    without_C = np.where(held_out.by_model_alone_C, without_C.min(initial=0) - 1, without_C)
    found: Gains = {}
    for task in sorted(set(held_out.tasks)):
        of_task = held_out.tasks == task
        lists, rows_C = held_out.where(of_task), of_task[held_out.list_rows_C]
        for name, policy in policies.items():
            repeat = REPEATS[policy.repeat]
            ours, theirs = (lists.ndcg(scores_C[rows_C], k, repeat) for scores_C in (with_C, without_C))
            if not len(ours):
                continue
            gain, low, high, p_value = paired_difference(ours, theirs, _SAMPLES, seed)
            figures = {"with": float(ours.mean()), "without": float(theirs.mean()), "gain": gain}
            found.setdefault(task, {})[name] = figures | {
                "ci_low": low, "ci_high": high, "p_value": p_value, "lists": float(len(ours)),
            }  # fmt: skip
    return found


def in_words(gains: Gains) -> list[str]:
    """A line per task and list."""
    return [
        f"{task}, list {name}: PRECISE adds {of['gain']:+.4f} [{of['ci_low']:+.4f}, {of['ci_high']:+.4f}] to "
        f"{of['without']:.4f}, p = {of['p_value']:.3f}, {of['lists']:,.0f} held-out lists"
        for task, by_list in gains.items()
        for name, of in by_list.items()
    ]
