"""The sections about models: training, expert load, the whole catalog, recall, ranking."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import pandas as pd

from precise_core.evaluation.impressions import calibration, calibration_error
from precise_core.evaluation.names import RECOMMENDATIONS
from precise_core.report import formats, plots
from precise_core.report import verdicts as v
from precise_core.report.blocks import Block, Cell, Grid, Heading, Plot, Plots, Skip, Text, Verdicts
from precise_core.report.data import Night, TrainedModel
from schemas import EVALUATION_METRICS, IMPRESSIONS
from schemas import columns as c

_CURVE_POINTS = 200

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


def training(night: Night) -> list[Block]:
    """Loss and validation curves of the newest checkpoint of every task, and whether it is published."""
    if not night.trainings:
        raise Skip("no checkpoint is served yet (jobs/train_universal.py)")
    blocks: list[Block] = []
    for number, run in enumerate(night.trainings):
        blocks.append(Heading(f"{run.name}: {run.model_version}{_state(night, run)}"))
        drawn = _curves(run, f"training-{number}")
        blocks.append(Plots(drawn) if drawn else Text("Nothing was logged while this checkpoint trained."))
        facts = [[key, str(value)[:120]] for key, value in run.manifest.items() if isinstance(value, str | int | float)]
        if facts:
            caption = f"Manifest of {run.model_version}"
            blocks.append(Grid(caption, ("key", "value"), facts, text_columns=2, folded=True))
    return blocks


def _state(night: Night, run: TrainedModel) -> str:
    if night.published is None:
        return ""
    published = night.published.get(run.name)
    return ", published" if published == run.model_version else f", not published; in use is {published or 'none'}"


def _curves(run: TrainedModel, name: str) -> list[Plot]:
    figures = []
    if "loss" in run.log and run.log["loss"].notna().any():
        steps, values = _thinned(run.log, "loss")
        speed = run.log["sequences_per_second"].median() if "sequences_per_second" in run.log else None
        pace = f", {formats.count(speed)} sequences per second" if speed is not None and np.isfinite(speed) else ""
        text = f"Training loss: {formats.figure(values[0])} at first, {formats.figure(values[-1])} at the end{pace}."
        figures.append(Plot(plots.curves(f"{name}-loss", [("loss", steps, values, "accent")], text), text))
    series: list[tuple[str, list[float], list[float], plots.Tint]] = []
    for column in sorted(name for name in map(str, run.log) if name.startswith("validation_")):
        metric, _, k = column.removeprefix("validation_").rpartition("_at_")
        label = formats.metric_name(metric, int(k)) if k.isdigit() else column.removeprefix("validation_")
        steps, values = _thinned(run.log, column)
        if values:
            series.append((label, steps, values, "accent" if metric == "ndcg" else "reference"))
    if series:
        best = "; ".join(f"{label} at best {formats.figure(max(values))}" for label, _, values, _ in series)
        figures.append(Plot(plots.curves(f"{name}-validation", series, f"Validation: {best}."), f"Validation: {best}."))
    return figures


def _thinned(log: pd.DataFrame, column: str) -> tuple[list[float], list[float]]:
    """Steps and values without gaps, averaged into at most 200 points so that a long run stays a small drawing."""
    known = log[["step", column]].apply(pd.to_numeric, errors="coerce").replace([np.inf, -np.inf], np.nan).dropna()
    if len(known) > _CURVE_POINTS:
        known = known.groupby(np.arange(len(known)) * _CURVE_POINTS // len(known)).mean()
    return known["step"].tolist(), known[column].tolist()


def expert_load(night: Night) -> list[Block]:
    """Which share of the items each expert of the fusion took at the end of training."""
    if night.settings.model.fusion.mode != "moe":
        raise Skip(f"the fusion mode is {night.settings.model.fusion.mode!r}, which has no experts")
    figures = []
    for number, run in enumerate(night.trainings):
        logged = run.log["expert_load"].dropna().tolist() if "expert_load" in run.log else []
        if logged:
            load = np.asarray(logged[-1], float) / (np.sum(logged[-1]) or 1.0)
            text = f"{run.name}: the busiest expert takes {formats.percent(float(load.max()))} of the load."
            name, labels, even = f"experts-{number}", [f"expert {n}" for n in range(1, len(load) + 1)], 1 / len(load)
            drawing = plots.bars(name, labels, load.tolist(), text, text=formats.percent, even=even)
            figures.append(Plot(drawing, text))
    if not figures:
        raise Skip("no served checkpoint has logged the load of its experts")
    legend = "The dashed line is an even load. One expert far above it means that the others learn nothing."
    return [Text(legend), Plots(figures)]


def retrieval(night: Night) -> list[Block]:
    """Recall and NDCG over the whole catalog beside the simple references (Tables III, IV, VII)."""
    metrics = figures_of(night, v.RETRIEVAL, "no retrieval figure is recorded (jobs/evaluate.py)")
    legend = "Every system ranks the whole catalog; truth is what the user came to after as_of. Whiskers and ranges "
    return [Text(legend + "are 95 % intervals over users."), *figure_blocks(metrics, v.RETRIEVAL, has_lists(night))]


def recall(night: Night) -> list[Block]:
    """U2I and U2I2I candidates (Table VIII)."""
    metrics = figures_of(night, v.RECALL, "no recall figure is recorded (jobs/recall.py, jobs/evaluate.py)")
    legend = (
        "U2I searches with the user's vector, U2I2I collects what follows recent items. "
        "Overlap is the share of a source's candidates that the "
        "other has too; its hit rate of its own counts users for whom it finds what the other does not."
    )
    return [Text(legend), *figure_blocks(metrics, v.RECALL, has_lists(night))]


def ranking(night: Night) -> list[Block]:
    """DCN with and without PRECISE features (Table IX)."""
    if not night.tables.rows_if_any(IMPRESSIONS):
        raise Skip("the source has no impressions, so there is nothing to rank")
    metrics = v.same_impressions(figures_of(night, v.RANKING, "no ranking figure is recorded (jobs/train_ranker.py)"))
    blocks: list[Block] = [Verdicts(_judged(metrics, has_lists(night)))]
    for number, task in enumerate(v.tasks_of(metrics, v.RANKING)):
        figures = []
        for metric in v.RANKING_METRICS:
            found = v.scores(metrics, v.RANKING, task, metric, 0, "all")
            if found:
                better = "lower" if metric in v.LOWER_IS_BETTER else "higher"
                caption = f"{formats.metric_name(metric, 0)} on the test impressions; {better} is better."
                drawing = plots.dots(f"ranking-{number}-{metric}", _dots(v.RANKING, found), caption, from_zero=False)
                figures.append(Plot(drawing, caption))
        blocks += [Plots(figures), _grid(metrics, v.RANKING, task, "all", ["all"], "Test impressions")]
    if (metrics["metric"] == "auc_gain").any():
        legend = "Gains are over the first system, paired by user; an interval without 0 is no chance. Up is better."
        blocks.append(Text(legend))
    return [*blocks, *_calibration(night.scored_impressions())]


def _calibration(scored: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> list[Block]:
    """Per ranking model, the observed share against the predicted probability."""
    figures = []
    for number, (system, (labels, probabilities)) in enumerate(scored.items()):
        error = formats.figure(calibration_error(labels, probabilities))
        caption = f"{formats.system_name(system)}: {formats.count(len(labels))} test impressions, error {error}."
        points = [(part.predicted, part.observed) for part in calibration(labels, probabilities)]
        figures.append(Plot(plots.calibration(f"calibration-{number}", points, f"Calibration of {caption}"), caption))
    if not figures:
        return []
    legend = "Dots are tenths of the impressions. Above the line more was taken than foreseen, below it less."
    return [Heading("Calibration"), Text(legend), Plots(figures)]


def figures_of(night: Night, question: str, absent: str) -> pd.DataFrame:
    """The rows of a question, or the reason why there are none."""
    if not night.tables.rows_if_any(EVALUATION_METRICS):
        raise Skip("nothing has been evaluated yet (jobs/evaluate.py)")
    metrics = night.metrics[night.metrics["question"] == question]
    if metrics.empty:
        raise Skip(absent)
    return metrics


def has_lists(night: Night) -> bool:
    """Whether the published lists were evaluated: what they lose is what matters, not what a model alone does."""
    return bool((night.metrics["question"] == RECOMMENDATIONS).any())


def _judged(metrics: pd.DataFrame, has_lists: bool) -> list[v.Verdict]:
    """Verdicts, red only where there are no published lists that could lose."""
    judged = v.judge(metrics)
    return [replace(one, outcome="tie") if has_lists and one.outcome == "loss" else one for one in judged]


def figure_blocks(metrics: pd.DataFrame, question: str, has_lists: bool = True) -> list[Block]:
    """Per task: verdicts, red only where there are no lists, plots of the headline metric, tables of every metric."""
    blocks: list[Block] = []
    judged = _judged(metrics, has_lists)
    for task in v.tasks_of(metrics, question):
        blocks.append(Heading(f"Task {task}"))
        of_task = [verdict for verdict in judged if verdict.task == task]
        blocks += [Verdicts(of_task)] if of_task else []
        blocks += _plots(metrics, question, task)
        groups = [group for group in _GROUPS if (metrics["item_group"] == group).any()]
        for of_groups, kind in ((["all"], "All items"), (groups, "By kind of item")):
            for user_filter, meaning in v.FILTERS.items():
                grid = _grid(metrics, question, task, user_filter, of_groups, f"{kind}, {meaning}")
                if grid.rows:
                    blocks.append(grid)
    return blocks


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
    return [plots.Dot(formats.system_name(s.system), s.value, s.low, s.high, _tint(question, s.system)) for s in found]


def _tint(question: str, system: str) -> plots.Tint:
    """Our systems in the accent colour, the untrained model in a pale one, references grey."""
    if v.is_ours(question, system):
        return "accent"
    return "soft" if system.startswith("PRECISE") else "reference"


def _grid(metrics: pd.DataFrame, question: str, task: str, user_filter: str, groups: list[str], caption: str) -> Grid:
    """Systems by metrics, the best of every column and group marked; folded where it is not of all items."""
    chosen = metrics[(metrics[c.TASK] == task) & (metrics["user_filter"] == user_filter)]
    chosen = chosen[chosen["item_group"].isin(groups)]
    pairs = sorted(
        set(zip(chosen["metric"], chosen["k"], strict=True)),
        key=lambda pair: (_METRIC_ORDER.index(pair[0]) if pair[0] in _METRIC_ORDER else 99, *pair),
    )
    rows: list[list[Cell | str]] = []
    is_of_all = groups == ["all"]
    for group in groups:
        columns = [v.scores(metrics, question, task, metric, int(k), user_filter, group) for metric, k in pairs]
        rows += _rows_of_group(columns, [] if is_of_all else [_GROUPS.get(group, group)])
    first = ["system"] if is_of_all else ["items", "system"]
    names = [formats.metric_name(metric, int(k)) for metric, k in pairs]
    return Grid(caption, [*first, *names, "users"], rows, text_columns=len(first), folded=not is_of_all)


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


def headline_grids(metrics: pd.DataFrame) -> Iterator[Grid]:
    """The main figures of every question and task, for the terminal; the platform's own systems are marked."""
    for question in (v.RETRIEVAL, v.RECALL):
        _, k = v.headline_metric(metrics, question) or ("", 0)
        for task in v.tasks_of(metrics, question):
            columns = {
                f"{formats.metric_name(metric, k)}\n{user_filter}": found
                for user_filter in v.FILTERS
                for metric in ("ndcg", "recall")
                if (found := v.scores(metrics, question, task, metric, k, user_filter))
            }
            yield _headline_grid(f"{question}, task {task}", question, columns)
    ranking = v.same_impressions(metrics)
    for task in v.tasks_of(ranking, v.RANKING):
        columns = {
            formats.metric_name(metric, 0): v.scores(ranking, v.RANKING, task, metric, 0, "all")
            for metric in v.RANKING_METRICS
        }
        yield _headline_grid("ranking", v.RANKING, columns)


def _headline_grid(caption: str, question: str, columns: Mapping[str, list[v.Score]]) -> Grid:
    values = [{score.system: score.value for score in found} for found in columns.values()]
    rows = []
    for system in {system: None for of_column in values for system in of_column}:
        texts = [formats.system_name(system), *(formats.figure(of_column.get(system)) for of_column in values)]
        rows.append([Cell(text, best=v.is_ours(question, system)) for text in texts])
    return Grid(caption, ["system", *columns], rows)
