"""The sections about the platform itself: jobs, tables, checkpoints, configuration."""

from __future__ import annotations

import json

import pandas as pd
import yaml

from precise_core.report import formats, plots
from precise_core.report.blocks import Block, Code, Grid, Plot, Plots, Skip, Text
from precise_core.report.data import Night
from precise_core.report.frames import records
from schemas import RUNS
from schemas import columns as c


def jobs(night: Night) -> list[Block]:
    """Seconds and rows per second of every job's latest run."""
    if not night.tables.rows_if_any(RUNS):
        raise Skip("no run is recorded")
    runs = night.runs
    labels = job_labels(runs)
    text = f"Seconds per job; {formats.duration(float(runs['seconds'].sum()))} together."
    seconds = plots.bars("jobs-seconds", labels, runs["seconds"].tolist(), text, text=formats.duration)
    paces = [row.rows_in / row.seconds if row.seconds > 0 else 0.0 for row in records(runs)]
    pace_text = "Rows in per second; what a row is differs from job to job."
    pace = plots.bars("jobs-pace", labels, paces, pace_text, text=formats.figure)
    blocks: list[Block] = [Plots([Plot(seconds, text), Plot(pace, pace_text)])]
    failed = runs[runs["status"] != "succeeded"]
    blocks += [
        Text(f"{row.job} {row.status}: {row.error or 'no message was recorded'}", "loss") for row in records(failed)
    ]
    rows = []
    for label, row, rows_per_second in zip(labels, records(runs), paces, strict=True):
        counts = [*map(formats.count, (row.rows_in, row.rows_out, row.rows_rejected))]
        rows.append([label, row.row_unit, formats.duration(row.seconds), *counts, formats.figure(rows_per_second)])
    header = ("job", "a row is", "time", "rows in", "rows out", "rejected", "rows in per second")
    blocks.append(Grid("The latest run of every job", header, rows, text_columns=2))
    figures = [
        [label, key, formats.figure(value)]
        for label, row in zip(labels, records(runs), strict=True)
        for key, value in sorted(row.metrics.items())
    ]
    if figures:
        blocks.append(
            Grid("Figures the jobs reported", ("job", "figure", "value"), figures, text_columns=2, folded=True)
        )
    return blocks


def job_labels(runs: pd.DataFrame) -> list[str]:
    """A name per run: the job, and where several of its runs are current (one per task) what each made."""
    labels = []
    for row in records(runs):
        alone = (runs[c.JOB] == row.job).sum() == 1
        made = ", ".join(sorted(name.rpartition(":")[2] for name in row.artefacts))
        labels.append(row.job if alone or not made else f"{row.job} ({made})")
    return labels


def versions(night: Night) -> list[Block]:
    """Table versions, served checkpoints, and the configuration of the night."""
    stats = night.table_stats()
    if not stats:
        raise Skip("the warehouse has no table")
    rows = [[t.name, t.doc, formats.count(v), formats.count(n), formats.size(b)] for t, v, n, b in stats]
    grid = Grid("Tables", ("table", "what a row is", "version", "rows", "size"), rows, text_columns=2)
    blocks: list[Block] = [grid]
    served = [[run.name, run.model_version] for run in night.trainings]
    if served:
        blocks.append(Grid("Checkpoints served", ("task", "model version"), served, text_columns=2))
    code = sorted(set(night.runs["code_version"])) if night.tables.rows_if_any(RUNS) else []
    if code:
        blocks.append(Text(f"Code version: {', '.join(code)}."))
    configuration = yaml.safe_dump(json.loads(night.settings.model_dump_json()), sort_keys=False, allow_unicode=True)
    return [*blocks, Code("Configuration", configuration)]
