"""The sections about data: what came in, sequences, scenes, popularity."""

from __future__ import annotations

import pandas as pd

from precise_core.config.tasks import ALL_TASK
from precise_core.report import formats, plots
from precise_core.report.blocks import Block, Grid, Plot, Plots, Skip, Text
from precise_core.report.data import SOURCES, Night
from precise_core.report.frames import records
from schemas import ITEM_EMBEDDINGS, ITEMS, TRAINING_WINDOWS, USER_SEQUENCES, VALIDATION_RESULTS
from schemas import columns as c

_MANY = 15  # longest list of scenes or reasons that is still read


def intake(night: Night) -> list[Block]:
    """What came in, what was rejected and why, and which expectations held."""
    if not any(night.tables.exists(accepted) for accepted, _ in SOURCES):
        raise Skip("nothing has been ingested yet (jobs/ingest.py)")
    rows = []
    for accepted, rejected in SOURCES:
        good, bad = night.tables.rows_if_any(accepted), night.tables.rows_if_any(rejected)
        rows.append(
            [
                accepted.name,
                *map(formats.count, (good + bad, good, bad)),
                formats.percent(formats.share(bad, good + bad)),
            ]
        )
    header = ("source", "rows in", "accepted", "rejected", "share rejected")
    blocks: list[Block] = [Grid("Rows by source", header, rows)]
    if not night.tables.rows_if_any(SOURCES[2][0]):
        blocks.append(Text("The source has no impressions: nothing can be learned about ranking from it."))
    return [*blocks, *_reasons(night), *_checks(night)]


def _reasons(night: Night) -> list[Block]:
    reasons = night.reject_reasons()
    if reasons.empty:
        return [Text("No row was rejected.", "win")]
    summed = reasons.groupby(["table", c.REASON]).agg(rows=("rows", "sum"), files=(c.SOURCE_FILE, "nunique"))
    summed = summed.reset_index().sort_values(["rows", "table", c.REASON], ascending=[False, True, True])
    rows = [
        [row.table, row.reason, formats.count(row.rows), formats.count(row.files)]
        for row in records(summed.head(_MANY))
    ]
    caption = "Why rows were rejected" + (f" (the {_MANY} most frequent reasons)" if len(summed) > _MANY else "")
    return [Grid(caption, ("source", "first rule broken", "rows", "files"), rows, text_columns=2)]


def _checks(night: Night) -> list[Block]:
    if not night.tables.rows_if_any(VALIDATION_RESULTS):
        return [Text("No expectation was checked: validation_results is missing or empty.")]
    checks = night.checks
    failed = checks[~checks["success"]]
    if failed.empty:
        tables = ", ".join(sorted(checks["table_name"].unique()))
        return [Text(f"All {formats.count(len(checks))} expectations held; checked tables: {tables}.", "win")]
    rows = [
        [
            row.table_name,
            row.expectation,
            row.column,
            formats.count(row.unexpected_count),
            formats.count(row.element_count),
        ]
        for row in records(failed)
    ]
    text = f"{formats.count(len(failed))} of {formats.count(len(checks))} expectations failed."
    header = ("table", "expectation", "column", "rows that broke it", "rows looked at")
    return [Text(text, "loss"), Grid("Failed expectations", header, rows, text_columns=3)]


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
        users = int(of_task["rows"].sum())
        median, high = (_quantile(of_task, share) for share in (0.5, 0.95))
        at_cap = int(of_task.loc[of_task[c.LENGTH] >= cap, "rows"].sum())
        counts = [formats.count(windows.get((task, split), 0)) for split in (c.TRAIN, c.VALIDATION)]
        rows.append(
            [task, *map(formats.count, (users, median, high)), formats.percent(formats.share(at_cap, users)), *counts]
        )
        text = f"Task {task}: {formats.count(users)} users, median {median} events, 95 % at most {high}."
        drawing = plots.histogram(
            f"lengths-{len(figures)}",
            of_task[c.LENGTH].tolist(),
            of_task["rows"].tolist(),
            text,
            unit="events per user",
        )
        figures.append(Plot(drawing, text))
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
        share = formats.percent(formats.share(values[0], int(counts.sum())))
        text = f"Events by {column}: {len(counts)} {many}, {labels[0]} has {share}."
        figures.append(Plot(plots.bars(f"mix-{column}", labels, values, text), text))
    return [*([Plots(figures)] if figures else []), *blocks]


def popularity(night: Night) -> list[Block]:
    """How unequal items are, how many the model has never seen, and how many bring text."""
    counts = night.item_popularity
    if counts.empty:
        raise Skip(f"no event lies before as_of {night.settings.as_of:%Y-%m-%d}")
    hot = max(1, round(night.settings.evaluation.hot_share * len(counts)))
    share = formats.percent(formats.share(int(counts.iloc[:hot].sum()), int(counts.sum())))
    hot_share = formats.percent(night.settings.evaluation.hot_share)
    text = f"Events per item by rank: the hottest {hot_share} of the items with events take {share} of them."
    drawing = plots.rank_frequency("popularity", counts.tolist(), text, hot=hot)
    figures = [Plot(drawing, text)]
    kinds = _item_kinds(night, len(counts))
    if not kinds:
        return [Plots(figures)]
    labels, numbers = [label for label, _, _ in kinds], [number for _, number, _ in kinds]
    cold = ", ".join(formats.percent(formats.share(part, whole)) for label, part, whole in kinds if "cold" in label)
    caption = f"Items by what is known of them; cold: {cold or 'not embedded yet'}."
    figures.append(Plot(plots.bars("items", labels, numbers, caption), caption))
    rows = [[label, formats.count(part), formats.percent(formats.share(part, whole))] for label, part, whole in kinds]
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
