"""The section about the validation gates: what was checked, what broke, and what it cost. Counts only, no value."""

from __future__ import annotations

from precise_core.report import formats
from precise_core.report.blocks import Block, Grid, Skip, Text
from precise_core.report.data import Night
from precise_core.report.frames import records
from precise_core.report.job_sections import job_labels
from schemas import RUNS, VALIDATION_RESULTS


def gates(night: Night) -> list[Block]:
    """The latest verdict of every expectation, broken ones first."""
    if not night.tables.rows_if_any(VALIDATION_RESULTS):
        raise Skip("no table was checked")
    checks = night.checks
    broken = checks[~checks["success"]]
    by_table = [
        [str(table), *map(formats.count, (len(own), own["success"].sum(), own["element_count"].max()))]
        for table, own in checks.groupby("table_name")
    ]
    blocks: list[Block] = [
        Text(f"{row.table_name}: {_rule(row)} broken by {formats.count(row.unexpected_count)} rows", "loss")
        for row in records(broken)
    ]
    header = ("table", "expectations", "held", "rows looked at")
    blocks.append(Grid("The latest verdict on every table", header, by_table, text_columns=1))
    details = [
        [row.table_name, row.column, row.expectation, row.level, formats.count(row.unexpected_count)]
        for row in records(checks)
    ]
    header_of_details = ("table", "column", "expectation", "level", "rows that broke it")
    blocks.append(Grid("Every expectation", header_of_details, details, text_columns=4, folded=True))
    return [*blocks, *_costs(night)]


def _rule(row: object) -> str:
    return f"{row.expectation} on {row.column}" if row.column else str(row.expectation)  # type: ignore[attr-defined]


def _costs(night: Night) -> list[Block]:
    if not night.tables.rows_if_any(RUNS):
        return []
    runs = night.runs
    rows = [
        [
            label,
            formats.duration(row.metrics["gate_seconds"]),
            formats.duration(row.seconds),
            formats.percent(formats.share(row.metrics["gate_seconds"], row.seconds)),
        ]
        for label, row in zip(job_labels(runs), records(runs), strict=True)
        if "gate_seconds" in row.metrics
    ]
    header = ("job", "its gates", "the job", "share")
    return [Grid("What the gates cost", header, rows, text_columns=1)] if rows else []
