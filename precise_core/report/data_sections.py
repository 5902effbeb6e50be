"""The sections about data and about the platform: rows, sequences, scenes, popularity, checks, jobs, versions."""

from __future__ import annotations

import json

import pandas as pd
import yaml

from precise_core.config.tasks import ALL_TASK
from precise_core.intake.chosen_sizes import BY_LOG, chosen_line, read_sizes
from precise_core.report import formats, plots
from precise_core.report.blocks import Block, Code, Grid, Plot, Plots, Skip, Text
from precise_core.report.data import SOURCES, Night, records
from schemas import IMPRESSIONS, ITEM_EMBEDDINGS, ITEMS, RUNS, TRAINING_WINDOWS, USER_SEQUENCES, VALIDATION_RESULTS
from schemas import columns as c

_MANY = 15  # longest list of scenes or reasons


def intake(night: Night) -> list[Block]:
    """Rows accepted and rejected by source, and the reasons."""
    if not any(night.tables.exists(accepted) for accepted, _ in SOURCES):
        raise Skip("nothing has been ingested yet (jobs/ingest.py)")
    rows = []
    for accepted, rejected in SOURCES:
        good, bad = night.tables.rows_if_any(accepted), night.tables.rows_if_any(rejected)
        counts = map(formats.count, (good + bad, good, bad))
        rows.append([accepted.name, *counts, formats.percent_of(bad, good + bad)])
    header = ("source", "rows in", "accepted", "rejected", "share rejected")
    blocks: list[Block] = [Grid("Rows by source", header, rows)]
    if not night.tables.rows_if_any(IMPRESSIONS):
        blocks.append(Text("The source has no impressions: nothing can be learned about ranking from it."))
    return [*blocks, _reasons(night)]


def _reasons(night: Night) -> Block:
    reasons = night.reject_reasons()
    if reasons.empty:
        return Text("No row was rejected.", "win")
    summed = reasons.groupby(["table", c.REASON]).agg(rows=("rows", "sum"), files=(c.SOURCE_FILE, "nunique"))
    summed = summed.reset_index().sort_values(["rows", "table", c.REASON], ascending=[False, True, True])
    rows = [
        [row.table, row.reason, formats.count(row.rows), formats.count(row.files)]
        for row in records(summed.head(_MANY))
    ]
    caption = "Why rows were rejected" + (f" (the {_MANY} most frequent reasons)" if len(summed) > _MANY else "")
    return Grid(caption, ("source", "first rule broken", "rows", "files"), rows, text_columns=2)


def sequences(night: Night) -> list[Block]:
    """How long users' sequences are, per task, and how many windows were cut from them."""
    if not night.tables.rows_if_any(USER_SEQUENCES):
        raise Skip("there are no sequences (jobs/build_sequences.py)")
    lengths, cap = night.sequence_lengths, night.settings.sequences.max_length
    windows = _window_counts(night)
    rows: list[list[str]] = []
    figures: list[Plot] = []
    for task in sorted(lengths[c.TASK].unique(), key=lambda task: (task != ALL_TASK, task)):
        of_task = lengths[lengths[c.TASK] == task].sort_values(c.LENGTH)
        events, weights = of_task[c.LENGTH].tolist(), of_task["rows"].tolist()
        users = sum(weights)
        median, high = (_quantile(of_task, share) for share in (0.5, 0.95))
        at_cap = int(of_task.loc[of_task[c.LENGTH] >= cap, "rows"].sum())
        counts = [formats.count(windows.get((task, split), 0)) for split in (c.TRAIN, c.VALIDATION)]
        rows.append([task, *map(formats.count, (users, median, high)), formats.percent_of(at_cap, users), *counts])
        text = f"Task {task}: {formats.count(users)} users, median {median} events, 95 % at most {high}."
        name = f"lengths-{len(figures)}"
        figures.append(Plot(plots.histogram(name, events, weights, text, unit="events per user"), text))
    header = ("task", "users", "median", "95 %", f"cut at {cap}", "train windows", "validation windows")
    return [Plots(figures), Grid("Sequences and training windows", header, rows)]


def _window_counts(night: Night) -> dict[tuple[str, str], int]:
    if not night.tables.exists(TRAINING_WINDOWS):
        return {}
    frame = night.tables.counts(TRAINING_WINDOWS, [c.TASK, c.SPLIT])
    return {(row.task, row.split): int(row.rows) for row in records(frame)}


def _quantile(counted: pd.DataFrame, share: float) -> int:
    """Smallest length that at least ``share`` of the users do not exceed; rows sorted by length."""
    reached = counted["rows"].cumsum() >= share * counted["rows"].sum()
    return int(counted.loc[reached, c.LENGTH].iloc[0])


def scenes(night: Night) -> list[Block]:
    """How events before `as_of` spread over scenes and actions."""
    events = night.known_events
    if events.empty:
        raise Skip(f"no event lies before as_of {night.settings.as_of:%Y-%m-%d}")
    blocks: list[Block] = []
    figures = []
    for column, many in ((c.SCENE, "scenes"), (c.ACTION, "actions")):
        counts = events.groupby(column)["rows"].sum().sort_values(ascending=False, kind="stable")
        if len(counts) == 1:
            blocks.append(Text(f"Every event is of the one {column} {counts.index[0]!r}: there is no mix to show."))
            continue
        top = counts.head(_MANY)
        labels, values = [str(name) for name in top.index], [int(value) for value in top]
        if len(counts) > _MANY:
            labels.append(f"{len(counts) - _MANY} others")
            values.append(int(counts.iloc[_MANY:].sum()))
        share = formats.percent_of(values[0], int(counts.sum()))
        text = f"Events by {column}: {len(counts)} {many}, {labels[0]} has {share}."
        figures.append(Plot(plots.bars(f"mix-{column}", labels, values, text), text))
    return [*([Plots(figures)] if figures else []), *blocks]


def popularity(night: Night) -> list[Block]:
    """How unequal items are, how many the model has not been trained on, and how many have text."""
    counts = night.item_popularity
    if counts.empty:
        raise Skip(f"no event lies before as_of {night.settings.as_of:%Y-%m-%d}")
    hot = max(1, round(night.settings.evaluation.hot_share * len(counts)))
    share = formats.percent_of(int(counts.iloc[:hot].sum()), int(counts.sum()))
    hot_share = formats.percent(night.settings.evaluation.hot_share)
    text = f"Events per item by rank: the hottest {hot_share} of the items with events take {share} of them."
    drawing = plots.rank_frequency("popularity", counts.tolist(), text, hot=hot)
    figures = [Plot(drawing, text)]
    kinds = _item_kinds(night, len(counts))
    if not kinds:
        return [Plots(figures)]
    labels, numbers = [label for label, _, _ in kinds], [number for _, number, _ in kinds]
    cold = ", ".join(formats.percent_of(part, whole) for label, part, whole in kinds if "cold" in label)
    caption = f"Items by what is known of them; cold: {cold or 'not embedded yet'}."
    figures.append(Plot(plots.bars("items", labels, numbers, caption), caption))
    rows = [[label, formats.count(part), formats.percent_of(part, whole)] for label, part, whole in kinds]
    blocks: list[Block] = [Plots(figures), Grid("Items", ("", "items", "share"), rows)]
    if not night.items_with_text():
        blocks.append(Text("No item has text: new items cannot be told apart, the text half of the model is idle."))
    return blocks


def _item_kinds(night: Night, with_events: int) -> list[tuple[str, int, int]]:
    """(label, items, items of which they are a part)."""
    if not night.tables.exists(ITEMS):
        return []
    catalog = night.tables.rows(ITEMS)
    kinds = [("in the catalog", catalog, catalog), ("with events before as_of", with_events, catalog)]
    kinds.append(("with text", night.items_with_text(), catalog))
    if night.tables.exists(ITEM_EMBEDDINGS):
        counts = night.cold_items()
        for version, of_version in counts.groupby(c.MODEL_VERSION):
            cold = int(of_version.loc[of_version[c.IS_COLD].astype(bool), "rows"].sum())
            kinds.append((f"cold in {version}", cold, int(of_version["rows"].sum())))
    return kinds


def checks(night: Night) -> list[Block]:
    """The latest result of every expectation, failed ones first, and the cost of the gates. Counts only, no values."""
    if not night.tables.rows_if_any(VALIDATION_RESULTS):
        raise Skip("no table was checked")
    checks = night.checks
    broken = checks[~checks["success"]]
    total = formats.count(len(checks))
    blocks: list[Block] = [Text(f"All {total} expectations held.", "win")]
    if len(broken):
        blocks = [Text(f"{formats.count(len(broken))} of {total} expectations failed.", "loss")]
    for row in records(broken):
        rule = f"{row.expectation} on {row.column}" if row.column else str(row.expectation)
        rows = f"{formats.count(row.unexpected_count)} of {formats.count(row.element_count)} rows"
        blocks.append(Text(f"{row.table_name}: {rule} broken by {rows}", "loss"))
    by_table = [
        [str(table), *map(formats.count, (len(own), own["success"].sum(), own["element_count"].max()))]
        for table, own in checks.groupby("table_name")
    ]
    header = ("table", "expectations", "held", "rows looked at")
    blocks.append(Grid("The latest verdict on every table", header, by_table))
    details = [
        [row.table_name, row.column, row.expectation, row.level, formats.count(row.unexpected_count)]
        for row in records(checks)
    ]
    header_of_details = ("table", "column", "expectation", "level", "rows that broke it")
    blocks.append(Grid("Every expectation", header_of_details, details, text_columns=4, folded=True))
    return [*blocks, *_gate_costs(night)]


def _gate_costs(night: Night) -> list[Block]:
    if not night.tables.rows_if_any(RUNS):
        return []
    rows = []
    for label, row in zip(_job_labels(night.runs), records(night.runs), strict=True):
        gates = row.metrics.get("gate_seconds")
        if gates is not None:
            times = map(formats.duration, (gates, row.seconds))
            rows.append([label, *times, formats.percent_of(gates, row.seconds)])
    return [Grid("What the gates cost", ("job", "its gates", "the job", "share"), rows)] if rows else []


def jobs(night: Night) -> list[Block]:
    """Seconds and rows per second of every job's latest run."""
    if not night.tables.rows_if_any(RUNS):
        raise Skip("no run is recorded")
    runs = night.runs
    labels = _job_labels(runs)
    text = f"Seconds per job; {formats.duration(float(runs['seconds'].sum()))} together."
    seconds = plots.bars("jobs-seconds", labels, runs["seconds"].tolist(), text, text=formats.duration)
    paces = [row.rows_in / row.seconds if row.seconds > 0 else 0.0 for row in records(runs)]
    pace_text = "Rows in per second; what a row is differs from job to job."
    pace = plots.bars("jobs-pace", labels, paces, pace_text, text=formats.figure)
    failed = [
        Text(f"{row.job} {row.status}: {row.error or 'no message was recorded'}", "loss")
        for row in records(runs[runs["status"] != "succeeded"])
    ]
    rows, figures = [], []
    for label, row, rows_per_second in zip(labels, records(runs), paces, strict=True):
        counts = map(formats.count, (row.rows_in, row.rows_out, row.rows_rejected))
        rows.append([label, row.row_unit, formats.duration(row.seconds), *counts, formats.figure(rows_per_second)])
        figures += [[label, key, formats.figure(value)] for key, value in sorted(row.metrics.items())]
    header = ("job", "a row is", "time", "rows in", "rows out", "rejected", "rows in per second")
    grids = [Grid("The latest run of every job", header, rows, text_columns=2)]
    if figures:
        columns = ("job", "figure", "value")
        grids.append(Grid("Figures the jobs reported", columns, figures, text_columns=2, folded=True))
    return [Plots([Plot(seconds, text), Plot(pace, pace_text)]), *failed, *grids]


def job_grid(runs: pd.DataFrame) -> Grid:
    """How every job's latest run ended, for the terminal."""
    rows = []
    for label, row in zip(_job_labels(runs), records(runs), strict=True):
        pace = formats.figure(row.rows_in / row.seconds if row.seconds > 0 else None)
        rows.append([label, row.status, formats.duration(row.seconds), formats.count(row.rows_in), pace])
    return Grid("jobs", ("job", "status", "time", "rows in", "rows in per second"), rows, text_columns=2)


def _job_labels(runs: pd.DataFrame) -> list[str]:
    """A name per run: the job, and where several of its runs are current (one per task) its artefacts."""
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
    settings = night.settings
    if settings.sizes == BY_LOG and (sizes := read_sizes(settings.warehouse)):
        line = chosen_line(settings, sizes)
        blocks.append(Text(f"{line[0].upper()}{line[1:]}."))
    configuration = yaml.safe_dump(json.loads(settings.model_dump_json()), sort_keys=False, allow_unicode=True)
    return [*blocks, Code("Configuration", configuration)]
