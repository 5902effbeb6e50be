"""The night in the terminal: who wins where, the main figures, seconds per job."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text as RichText

from precise_core.report import formats, job_sections
from precise_core.report import verdicts as v
from precise_core.report.data import Night
from precise_core.report.frames import records
from precise_core.settings import Settings
from schemas import EVALUATION_METRICS, RUNS

_STYLES = {"win": "green", "loss": "red", "tie": "yellow"}


def print_summary(warehouse: Path, settings: Settings, console: Console | None = None) -> None:
    """Print retrieval per task, recall, ranking, seconds per job and the verdicts, as far as they are there."""
    console = console or Console()
    night = Night(warehouse, settings)
    if night.tables.rows_if_any(EVALUATION_METRICS):
        _print_quality(night.metrics, console)
    else:
        console.print("Nothing has been evaluated yet (jobs/evaluate.py).")
    if night.tables.rows_if_any(RUNS):
        console.print(_jobs(night.runs))


def _print_quality(metrics: pd.DataFrame, console: Console) -> None:
    for question in (v.RETRIEVAL, v.RECALL):
        for task in v.tasks_of(metrics, question):
            console.print(_lists(metrics, question, task))
    ranking = v.same_impressions(metrics)
    for task in v.tasks_of(ranking, v.RANKING):
        console.print(_ranking(ranking, task))
    for verdict in v.judge(metrics):
        if verdict.headline:
            console.print(RichText(verdict.text, style=_STYLES[verdict.outcome]))


def _lists(metrics: pd.DataFrame, question: str, task: str) -> RichTable:
    headline = v.headline_metric(metrics, question)
    cuts = [(metric, headline[1] if headline else 0) for metric in ("ndcg", "recall")]
    columns = {
        f"{formats.metric_name(metric, k)}\n{user_filter}": v.scores(metrics, question, task, metric, k, user_filter)
        for user_filter in v.FILTERS
        for metric, k in cuts
    }
    return _table(f"{question}, task {task}", question, {name: found for name, found in columns.items() if found})


def _ranking(metrics: pd.DataFrame, task: str) -> RichTable:
    columns = {
        formats.metric_name(metric, 0): v.scores(metrics, v.RANKING, task, metric, 0, "all")
        for metric in v.RANKING_METRICS
    }
    return _table("ranking", v.RANKING, columns)


def _table(title: str, question: str, columns: dict[str, list[v.Score]]) -> RichTable:
    table = RichTable(title=title, title_justify="left")
    table.add_column("system", no_wrap=True)
    for name in columns:
        table.add_column(name, justify="right")
    systems = dict.fromkeys(score.system for found in columns.values() for score in found)
    for system in systems:
        values = [next((s.value for s in found if s.system == system), None) for found in columns.values()]
        style = "bold" if v.is_ours(question, system) else None
        label = RichText(formats.system_name(system))  # plain text: brackets in a name are no markup
        table.add_row(label, *map(formats.figure, values), style=style)
    return table


def _jobs(runs: pd.DataFrame) -> RichTable:
    table = RichTable(title="jobs", title_justify="left")
    for name in ("job", "status", "time", "rows in", "rows in per second"):
        table.add_column(name, justify="left" if name in ("job", "status") else "right")
    for label, row in zip(job_sections.job_labels(runs), records(runs), strict=True):
        pace = formats.figure(row.rows_in / row.seconds if row.seconds > 0 else None)
        time = formats.duration(row.seconds)
        table.add_row(RichText(label), RichText(row.status), time, formats.count(row.rows_in), pace)
    return table
