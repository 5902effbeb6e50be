"""The sections about training: curves and expert load of the newest checkpoints."""

from __future__ import annotations

import numpy as np
import pandas as pd

from precise_core.report import formats, plots
from precise_core.report.blocks import Block, Grid, Heading, Plot, Plots, Skip, Text
from precise_core.report.data import Night, Training

_CURVE_POINTS = 200


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
            blocks.append(
                Grid(f"Manifest of {run.model_version}", ("key", "value"), facts, text_columns=2, folded=True)
            )
    return blocks


def _state(night: Night, run: Training) -> str:
    if night.published is None:
        return ""
    published = night.published.get(run.name)
    return ", published" if published == run.model_version else f", not published; in use is {published or 'none'}"


def _curves(run: Training, name: str) -> list[Plot]:
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
            labels = [f"expert {position + 1}" for position in range(len(load))]
            drawing = plots.bars(
                f"experts-{number}", labels, load.tolist(), text, text=formats.percent, even=1 / len(load)
            )
            figures.append(Plot(drawing, text))
    if not figures:
        raise Skip("no served checkpoint has logged the load of its experts")
    return [
        Text("The dashed line is an even load. One expert far above it means that the others learn nothing."),
        Plots(figures),
    ]
