"""The sections about quality: the whole catalog, recall, ranking; each opens with its verdicts."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from precise_core.evaluation.impressions import calibration, calibration_error
from precise_core.report import formats, plots
from precise_core.report import verdicts as v
from precise_core.report.blocks import Block, Cell, Grid, Heading, Plot, Plots, Skip, Text, Verdicts
from precise_core.report.data import Night
from schemas import EVALUATION_METRICS, IMPRESSIONS
from schemas import columns as c

_GROUPS = {
    "hot": "hot items",
    "cold": "cold items",
    "seen": "seen items",
    "rare": "rare items (1 to 4 events)",
    "unseen": "unseen items",
}
_METRIC_ORDER = (
    *("recall", "ndcg", "hit_rate", "unique_hit_rate", "overlap", "coverage", "novelty"),
    *("auc", "gauc", "log_loss", "calibration_error", "auc_gain", "gauc_gain", "log_loss_gain"),
)


def retrieval(night: Night) -> list[Block]:
    """Recall and NDCG over the whole catalog beside the simple references (Tables III, IV, VII)."""
    metrics = _asked(night, v.RETRIEVAL, "no retrieval figure is recorded (jobs/evaluate.py)")
    legend = "Every system ranks the whole catalog; truth is what the user came to after as_of. Whiskers and ranges "
    return [Text(legend + "are 95 % intervals over users."), *_lists(metrics, v.RETRIEVAL)]


def recall(night: Night) -> list[Block]:
    """U2I and U2I2I candidates (Table VIII)."""
    metrics = _asked(night, v.RECALL, "no recall figure is recorded (jobs/recall.py, jobs/evaluate.py)")
    legend = (
        "U2I searches with the user's vector, U2I2I collects neighbours of recent items; merged is one list of both, "
        "and of what is popular for users without a history. Overlap is the share of a source's candidates that the "
        "other has too; its hit rate of its own counts users for whom it finds what the other does not."
    )
    return [Text(legend), *_lists(metrics, v.RECALL)]


def ranking(night: Night) -> list[Block]:
    """DCN with and without PRECISE features (Table IX)."""
    if not night.tables.rows_if_any(IMPRESSIONS):
        raise Skip("the source has no impressions, so there is nothing to rank")
    metrics = v.same_impressions(_asked(night, v.RANKING, "no ranking figure is recorded (jobs/train_ranker.py)"))
    blocks: list[Block] = [Verdicts(v.judge(metrics))]
    for number, task in enumerate(v.tasks_of(metrics, v.RANKING)):
        figures = []
        for metric in v.RANKING_METRICS:
            found = v.scores(metrics, v.RANKING, task, metric, 0, "all")
            if found:
                better = "lower" if metric in v.LOWER_IS_BETTER else "higher"
                caption = f"{formats.metric_name(metric, 0)} on the test impressions; {better} is better."
                drawing = plots.dots(f"ranking-{number}-{metric}", _dots(v.RANKING, found), caption, from_zero=False)
                figures.append(Plot(drawing, caption))
        blocks += [Plots(figures), _grid(metrics, v.RANKING, task, "all", ["all"], "Test impressions", folded=False)]
    if (metrics["metric"] == "auc_gain").any():
        legend = "Gains are over the first system, paired by user; an interval without 0 is no chance. Up is better."
        blocks.append(Text(legend))
    return [*blocks, *_calibration(night.scored_impressions())]


def _calibration(scored: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> list[Block]:
    """Per ranking model, the share that was taken beside the probability it was given."""
    figures = []
    for number, (system, (labels, probabilities)) in enumerate(scored.items()):
        found = calibration(labels, probabilities)
        error = formats.figure(calibration_error(labels, probabilities))
        caption = f"{formats.system_name(system)}: {formats.count(len(labels))} test impressions, error {error}."
        points = [(part.predicted, part.observed) for part in found]
        figures.append(Plot(plots.calibration(f"calibration-{number}", points, f"Calibration of {caption}"), caption))
    if not figures:
        return []
    legend = "Dots are tenths of the impressions. Above the line more was taken than foreseen, below it less."
    return [Heading("Calibration"), Text(legend), Plots(figures)]


def _asked(night: Night, question: str, absent: str) -> pd.DataFrame:
    if not night.tables.rows_if_any(EVALUATION_METRICS):
        raise Skip("nothing has been evaluated yet (jobs/evaluate.py)")
    asked = night.metrics[night.metrics["question"] == question]
    if asked.empty:
        raise Skip(absent)
    return asked


def _lists(metrics: pd.DataFrame, question: str) -> list[Block]:
    """Per task: verdicts, plots of the headline metric, and tables of every metric."""
    blocks: list[Block] = []
    judged = v.judge(metrics)
    for task in v.tasks_of(metrics, question):
        blocks.append(Heading(f"Task {task}"))
        blocks.append(Verdicts([verdict for verdict in judged if verdict.task == task]))
        blocks += _plots(metrics, question, task)
        groups = [group for group in _GROUPS if (metrics["item_group"] == group).any()]
        for user_filter, meaning in v.FILTERS.items():
            blocks.append(_grid(metrics, question, task, user_filter, ["all"], f"All items, {meaning}", folded=False))
        for user_filter, meaning in v.FILTERS.items():
            blocks.append(
                _grid(metrics, question, task, user_filter, groups, f"By kind of item, {meaning}", folded=True)
            )
    return [block for block in blocks if not isinstance(block, Grid) or block.rows]


def _plots(metrics: pd.DataFrame, question: str, task: str) -> list[Block]:
    headline = v.headline_metric(metrics, question)
    if headline is None:
        return []
    metric, k = headline
    rows = []
    for group in ("all", "hot", "cold"):
        figures = []
        for user_filter, meaning in v.FILTERS.items():
            found = v.scores(metrics, question, task, metric, k, user_filter, group)
            if found:
                kind = _GROUPS.get(group, "all items")
                users = formats.count(max(score.users for score in found))
                caption = f"{formats.metric_name(metric, k)}, {kind}, {meaning}; {users} users."
                name = f"{question}-{task}-{group}-{user_filter}"
                figures.append(Plot(plots.dots(name, _dots(question, found), f"Task {task}: {caption}"), caption))
        if figures:
            rows.append(Plots(figures))
    return list(rows)


def _dots(question: str, found: list[v.Score]) -> list[plots.Dot]:
    return [plots.Dot(formats.system_name(s.system), s.value, s.low, s.high, tint(question, s.system)) for s in found]


def tint(question: str, system: str) -> plots.Tint:
    """Ours in the accent colour, our untrained selves in a pale one, references grey: the same everywhere."""
    if v.is_ours(question, system):
        return "accent"
    return "soft" if system.startswith("PRECISE") else "reference"


def _grid(
    metrics: pd.DataFrame, question: str, task: str, user_filter: str, groups: list[str], caption: str, *, folded: bool
) -> Grid:
    """Systems by metrics, the best of every column and group marked."""
    chosen = metrics[(metrics[c.TASK] == task) & (metrics["user_filter"] == user_filter)]
    chosen = chosen[chosen["item_group"].isin(groups)]
    pairs = sorted(
        set(zip(chosen["metric"], chosen["k"], strict=True)),
        key=lambda pair: (_METRIC_ORDER.index(pair[0]) if pair[0] in _METRIC_ORDER else 99, *pair),
    )
    rows: list[list[Cell | str]] = []
    for group in groups:
        columns = [v.scores(metrics, question, task, metric, int(k), user_filter, group) for metric, k in pairs]
        rows += _rows_of_group(columns, [] if groups == ["all"] else [_GROUPS.get(group, group)])
    first = ["system"] if groups == ["all"] else ["items", "system"]
    names = [formats.metric_name(metric, int(k)) for metric, k in pairs]
    return Grid(caption, [*first, *names, "users"], rows, text_columns=len(first), folded=folded)


def _rows_of_group(columns: list[list[v.Score]], lead: list[str]) -> list[list[Cell | str]]:
    order = {score.system: None for column in reversed(columns) for score in column}  # by the last metric, best first
    rows: list[list[Cell | str]] = []
    for system in order:
        cells = [_cell(column, system) for column in columns]
        users = max(score.users for column in columns for score in column if score.system == system)
        rows.append([*lead, formats.system_name(system), *cells, formats.count(users)])
    return rows


def _cell(column: list[v.Score], system: str) -> Cell:
    for score in column:
        if score.system == system:
            best = len(column) > 1 and score.value == column[0].value
            return Cell(formats.figure(score.value), formats.interval(score.low, score.high), best)
    return Cell("–")
