"""The published lists beside the best simple reference: the comparisons, the table that opens the report, verdicts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pandas as pd

from precise_core.evaluation.names import NDCG_GAIN, RECOMMENDATIONS
from precise_core.report import formats
from precise_core.report import verdicts as v
from precise_core.report.blocks import Cell, Grid
from precise_core.report.data import records
from schemas import columns as c

COUNTED = {"all": "all items", "new": "new items", "repeat": "repeats"}  # by user filter
LEGEND = (
    "The best reference is the best of all simple ones on the same users and days, chosen with hindsight: that makes "
    "it harder for the lists. Paired by user, 95 % interval; grey = level, the interval holds 0."
)
_VERBS: dict[v.Outcome, str] = {"win": "beat", "tie": "are level with", "loss": "lose to"}


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """NDCG at ``k`` of one list, and its paired difference to the best simple reference."""

    task: str
    user_filter: str
    system: str
    k: int
    value: float
    reference: str
    gain: float
    low: float
    high: float
    p_value: float | None

    @property
    def outcome(self) -> v.Outcome:
        """By the interval: level where it holds 0."""
        return "win" if self.low > 0 else "loss" if self.high < 0 else "tie"


def comparisons(metrics: pd.DataFrame) -> list[Comparison]:
    """By task, `all` first, and by filter; none where the lists were not evaluated."""
    of_lists = metrics[metrics["question"] == RECOMMENDATIONS]
    found = []
    for task in v.tasks_of(of_lists, RECOMMENDATIONS):
        gains = of_lists[(of_lists[c.TASK] == task) & (of_lists["metric"] == NDCG_GAIN)]
        order = sorted(records(gains), key=lambda row: (list(COUNTED).index(row.user_filter), row.system))
        for row in order:
            measured = v.scores(of_lists, RECOMMENDATIONS, task, "ndcg", row.k, row.user_filter)
            found.append(
                Comparison(
                    task=task,
                    user_filter=row.user_filter,
                    system=row.system,
                    k=int(row.k),
                    value=next(score.value for score in measured if score.system == row.system),
                    reference=row.reference,
                    gain=float(row.value),
                    low=float(row.ci_low),
                    high=float(row.ci_high),
                    p_value=None if pd.isna(row.p_value) else float(row.p_value),
                )
            )
    return found


def opening_table(compared: Sequence[Comparison]) -> Grid:
    """Red only where a list loses with its interval below 0."""
    name = formats.metric_name("ndcg", compared[0].k)
    header = ("task", "what counts", "best reference", "lists", "reference", "difference", "95 % interval", "p")
    return Grid(f"{name} of the published lists", header, [_row(one) for one in compared], text_columns=3)


def _row(one: Comparison) -> list[Cell | str]:
    kept = one.system.removeprefix(RECOMMENDATIONS).strip(" ()")
    difference = f"{'+' if one.gain >= 0 else ''}{formats.figure(one.gain)}"
    return [
        one.task,
        Cell(COUNTED[one.user_filter], f"list {kept}" if kept else ""),
        formats.system_name(one.reference),
        formats.figure(one.value),
        formats.figure(one.value - one.gain),
        Cell(difference, tone=one.outcome),
        formats.interval(one.low, one.high),
        "–" if one.p_value is None else f"{one.p_value:.3f}".replace("0.", ".", 1),
    ]


def sentences(compared: Iterable[Comparison]) -> list[v.Verdict]:
    """One a task, about its first list of each policy."""
    by_task: dict[str, list[Comparison]] = {}
    for one in compared:
        if one.system == RECOMMENDATIONS:
            by_task.setdefault(one.task, []).append(one)
    return [_sentence(task, of_task) for task, of_task in by_task.items()]


def _sentence(task: str, of_task: Sequence[Comparison]) -> v.Verdict:
    parts: list[str] = []
    for outcome, verb in _VERBS.items():
        mine = [one for one in of_task if one.outcome == outcome]
        if mine:
            parts.append(f"{verb} {'it' if parts else 'the best reference'} on {v.listing(_figures(mine))}")
    outcomes = {one.outcome for one in of_task}
    worst: v.Outcome = "loss" if "loss" in outcomes else "win" if "win" in outcomes else "tie"
    text = f"{task}: the published lists {'; they '.join(parts)}."
    return v.Verdict(question=RECOMMENDATIONS, task=task, outcome=worst, text=text, headline=True)


def _figures(mine: Iterable[Comparison]) -> list[str]:
    found = []
    for one in mine:
        reference = formats.system_name(one.reference)
        figures = formats.against(one.value, one.value - one.gain).replace("against", f"against {reference}")
        found.append(f"{COUNTED[one.user_filter]} ({figures})")
    return found
