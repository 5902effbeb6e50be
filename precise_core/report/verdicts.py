"""Which systems win, in plain sentences, from the rows of `evaluation_metrics`.

A win or a loss is decided by the value; where the two confidence intervals overlap the sentence notes it, because the
difference may then be chance. Such a win counts as a `tie`; such a loss stays a loss.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from precise_core.config.tasks import ALL_TASK
from precise_core.evaluation.names import RECOMMENDATIONS, main_cut
from precise_core.report import formats
from precise_core.report.data import records
from schemas import columns as c

RETRIEVAL, RECALL, RANKING = "retrieval", "recall", "ranking"
RECALL_PATHS = (c.U2I, c.U2I2I)
LOWER_IS_BETTER = frozenset({"log_loss", "calibration_error"})
FILTERS = {"all": "repeats counted", "new": "new items only", "repeat": "repeats only"}
RANKING_METRICS = ("auc", "gauc", "log_loss")

Outcome = Literal["win", "loss", "tie"]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One sentence; ``headline`` ones are at the top of the report as well as in their section."""

    question: str
    task: str
    outcome: Outcome
    text: str
    headline: bool


@dataclass(frozen=True)
class Score:
    """One system's figure."""

    system: str
    value: float
    low: float | None
    high: float | None
    users: int

    def overlaps(self, other: Score) -> bool:
        """Whether both have an interval and the two overlap."""
        if None in (self.low, self.high, other.low, other.high):
            return False
        return self.low <= other.high and other.low <= self.high  # type: ignore[operator]


def judge(metrics: pd.DataFrame) -> list[Verdict]:
    """The verdicts per question, task and filter, from the rows of `evaluation_metrics` of one `as_of`."""
    return [*_whole_catalog(metrics, RETRIEVAL), *_whole_catalog(metrics, RECALL), *_ranking(metrics)]


def is_ours(question: str, system: str) -> bool:
    """Whether a system is of the platform, a trained model or the published lists, rather than a reference."""
    if system == c.PRECISE_UNTRAINED:
        return False
    if question == RECOMMENDATIONS:
        return system.startswith(RECOMMENDATIONS)
    if question == RECALL:
        return system in RECALL_PATHS or system.startswith("PRECISE")
    if question == RANKING:
        return "PRECISE" in system
    return system.startswith("PRECISE")


def headline_metric(metrics: pd.DataFrame, question: str) -> tuple[str, int] | None:
    """The deciding metric and cut of a question: NDCG (recall: Recall) at 50, or at the largest cut below."""
    of_question = metrics[metrics["question"] == question]
    whole = ("ndcg", "recall")
    order = {RETRIEVAL: whole, RECOMMENDATIONS: whole, RECALL: ("recall", "hit_rate", "ndcg"), RANKING: RANKING_METRICS}
    for metric in order[question]:
        cuts = sorted(of_question.loc[of_question["metric"] == metric, "k"].unique())
        if cuts:
            return metric, int(main_cut(cuts))
    return None


def scores(
    metrics: pd.DataFrame, question: str, task: str, metric: str, k: int, user_filter: str, item_group: str = "all"
) -> list[Score]:
    """Every system's figure, best first, ties by name."""
    chosen = metrics[
        (metrics["question"] == question)
        & (metrics[c.TASK] == task)
        & (metrics["metric"] == metric)
        & (metrics["k"] == k)
        & (metrics["user_filter"] == user_filter)
        & (metrics["item_group"] == item_group)
        & metrics["value"].notna()
    ]
    found = [
        Score(row.system, float(row.value), _number(row.ci_low), _number(row.ci_high), int(row.users))
        for row in records(chosen)
    ]
    sign = 1 if metric in LOWER_IS_BETTER else -1
    return sorted(found, key=lambda score: (sign * score.value, score.system))


def tasks_of(metrics: pd.DataFrame, question: str) -> list[str]:
    """Tasks with figures of a question: `all` first, then by name."""
    found = metrics.loc[metrics["question"] == question, c.TASK].unique()
    return sorted(found, key=lambda task: (task != ALL_TASK, task))


def same_impressions(metrics: pd.DataFrame) -> pd.DataFrame:
    """The ranking rows, as one task where every ranker has rows of one task: all scored the same impressions."""
    ranking = metrics[metrics["question"] == RANKING]
    is_one_set = (ranking.groupby("system")[c.TASK].nunique() <= 1).all()
    return ranking.assign(**{c.TASK: ALL_TASK}) if is_one_set else ranking


def _whole_catalog(metrics: pd.DataFrame, question: str) -> Iterator[Verdict]:
    headline = headline_metric(metrics, question)
    if headline is None:
        return
    metric, k = headline
    name = formats.metric_name(metric, k)
    for task in tasks_of(metrics, question):
        for user_filter, meaning in FILTERS.items():
            ranked = scores(metrics, question, task, metric, k, user_filter)
            cold = scores(metrics, question, task, metric, k, user_filter, "cold")
            yield from _one_list(question, task, f"on {task}, {meaning}", name, ranked)
            yield from _cold_items(question, task, f"on cold items of {task}, {meaning}", name, cold)


def _one_list(question: str, task: str, where: str, name: str, ranked: list[Score]) -> Iterator[Verdict]:
    ours, references = _sides(question, ranked)

    def say(text: str, outcome: Outcome, headline: bool = False) -> Verdict:
        return Verdict(question=question, task=task, outcome=outcome, text=text, headline=headline)

    if ours and references:
        for position, score in enumerate(ours):
            users = f" ({formats.count(score.users)} users)" if position == 0 else ""
            text, outcome = _compare(score, references[0], where, name)
            yield say(f"{text}{users}.", outcome, headline=position == 0)
    elif question == RECALL and len(ours) > 1:
        text, outcome = _compare(ours[0], ours[1], where, name)
        yield say(f"{text} ({formats.count(ours[0].users)} users).", outcome, headline=True)
    elif ours or references:
        first = (ours or references)[0]
        absent = "no reference was evaluated beside it" if ours else "no PRECISE model was evaluated"
        lead = f"{formats.system_name(first.system)} leads {where}: {name} {formats.figure(first.value)}"
        yield say(f"{lead}; {absent}.", "tie", headline=True)
    for left, right in _named_pairs(ours, ranked, references):
        text, outcome = _compare(left, right, where, name)
        yield say(f"{text}.", outcome)


def _sides(question: str, ranked: list[Score]) -> tuple[list[Score], list[Score]]:
    """The platform's systems and the references; the untrained model is neither."""
    ours = [score for score in ranked if is_ours(question, score.system)]
    return ours, [score for score in ranked if score not in ours and score.system != c.PRECISE_UNTRAINED]


def _named_pairs(ours: list[Score], ranked: list[Score], references: list[Score]) -> Iterator[tuple[Score, Score]]:
    """Further pairs to compare, beside each system with the best reference."""
    by_name = {score.system: score for score in ranked}
    universal = by_name.get(c.PRECISE_UT)
    if universal and c.PRECISE_UNTRAINED in by_name:
        yield universal, by_name[c.PRECISE_UNTRAINED]
    popular = [score for score in references[1:] if score.system.startswith("most_popular")]
    if universal and popular:
        yield universal, popular[0]
    for score in ours:
        if universal and score.system.startswith("PRECISE") and score.system != c.PRECISE_UT:
            yield score, universal
    if references and all(path in by_name for path in RECALL_PATHS):
        yield by_name[c.U2I2I], by_name[c.U2I]


def _cold_items(question: str, task: str, where: str, name: str, ranked: list[Score]) -> Iterator[Verdict]:
    ours, references = _sides(question, ranked)
    if ours and references:
        text, outcome = _compare(ours[0], references[0], where, name)
        yield Verdict(question=question, task=task, outcome=outcome, text=f"{text}.", headline=False)


def _compare(ours: Score, other: Score, where: str, name: str) -> tuple[str, Outcome]:
    verb, outcome = _verb(ours.value, other.value)
    left, right = formats.system_name(ours.system), formats.system_name(other.system)
    caveat = ", though the intervals overlap" if outcome != "tie" and ours.overlaps(other) else ""
    if outcome == "win" and caveat:
        outcome = "tie"
    return f"{left} {verb} {right} {where}: {name} {formats.against(ours.value, other.value)}{caveat}", outcome


def _verb(ours: float, other: float) -> tuple[str, Outcome]:
    if ours > other:
        return "beats", "win"
    return ("loses to", "loss") if ours < other else ("ties with", "tie")


def _ranking(metrics: pd.DataFrame) -> Iterator[Verdict]:
    """DCN with PRECISE features against DCN without (Table IX), over all three metrics at once."""
    ranking = same_impressions(metrics)
    for task in tasks_of(ranking, RANKING):
        by_metric = {
            metric: {score.system: score for score in scores(ranking, RANKING, task, metric, 0, "all")}
            for metric in (*RANKING_METRICS, *(f"{name}_gain" for name in RANKING_METRICS))
        }
        systems = {system for found in by_metric.values() for system in found}
        for system in sorted(system for system in systems if is_ours(RANKING, system)):
            yield from _against_plain(task, system, by_metric)


def _against_plain(task: str, system: str, by_metric: dict[str, dict[str, Score]]) -> Iterator[Verdict]:
    better: list[str] = []
    worse: list[str] = []
    for metric in RANKING_METRICS:
        found = by_metric[metric]
        if system not in found or c.DCN not in found:
            continue
        ours, plain = found[system], found[c.DCN]
        sign = -1 if metric in LOWER_IS_BETTER else 1
        gain = by_metric[f"{metric}_gain"].get(system)
        caveat = _chance(gain) if gain else ", intervals overlap" if ours.overlaps(plain) else ""
        side = better if sign * (ours.value - plain.value) > 0 else worse
        side.append(f"{formats.metric_name(metric, 0)} ({formats.against(ours.value, plain.value)}{caveat})")
    if not better and not worse:
        return
    wins = f"beats plain {c.DCN} on {listing(better)}" if better else ""
    losses = f"does not beat {'it' if better else f'plain {c.DCN}'} on {listing(worse)}" if worse else ""
    yield Verdict(
        question=RANKING,
        task=task,
        outcome="tie" if better and worse else "win" if better else "loss",
        text=f"{system} {' but '.join(part for part in (wins, losses) if part)}.",
        headline=True,
    )


def _chance(gain: Score) -> str:
    """Caveat by the paired interval, which is narrower than the two separate ones."""
    assert gain.low is not None and gain.high is not None
    return ", may be chance" if gain.low <= 0 <= gain.high else ", paired interval without 0"


def listing(items: list[str]) -> str:
    """``a, b and c``."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def _number(value: float | None) -> float | None:
    return None if value is None or pd.isna(value) else float(value)
