"""The report of one night: one self-contained HTML file, readable on a phone, in print and in the dark."""

from __future__ import annotations

import logging
from collections.abc import Callable
from importlib import resources
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from precise_core.artefacts import replace_file
from precise_core.config.tasks import ALL_TASK
from precise_core.errors import PreciseError, stored_text
from precise_core.report import (
    data_sections,
    example_section,
    formats,
    gate_sections,
    job_sections,
    model_sections,
    training_sections,
    verdicts,
)
from precise_core.report.blocks import Block, Section, Skip
from precise_core.report.data import SOURCES, Night
from precise_core.report.summary import print_summary
from precise_core.settings import Settings
from schemas import EVALUATION_METRICS, EVENTS, ITEMS, RUNS, USER_SEQUENCES, VALIDATION_RESULTS

__all__ = ["build_report", "print_summary"]

log = logging.getLogger(__name__)

_SECTIONS: tuple[tuple[str, str, Callable[[Night], list[Block]]], ...] = (
    ("intake", "What came in", data_sections.intake),
    ("sequences", "Sequences", data_sections.sequences),
    ("scenes", "Scenes", data_sections.scenes),
    ("popularity", "Popularity", data_sections.popularity),
    ("training", "Training", training_sections.training),
    ("experts", "Expert load", training_sections.expert_load),
    ("retrieval", "Retrieval", model_sections.retrieval),
    ("recall", "Recall", model_sections.recall),
    ("ranking", "Ranking", model_sections.ranking),
    ("examples", "Examples", example_section.examples),
    ("gates", "Checks", gate_sections.gates),
    ("jobs", "Jobs", job_sections.jobs),
    ("versions", "Versions", job_sections.versions),
)


def build_report(warehouse: Path, settings: Settings, out: Path) -> Path:
    """Write the report of ``warehouse`` to ``out``, whole or not at all.

    A part of the night that is missing leaves a section that says so; nothing missing makes the report fail. The same
    warehouse gives the same bytes.

    Args:
        warehouse: The warehouse root on this machine's file system.
        settings: The configuration of the night.
        out: The HTML file to write; its folder is made.

    Returns:
        ``out``.
    """
    night = Night(warehouse, settings)
    html = _render(night)
    replace_file(out, html)
    return out


def _render(night: Night) -> str:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    package = resources.files("precise_core.report")
    template = environment.from_string(package.joinpath("template.html.j2").read_text(encoding="utf-8"))
    return template.render(
        style=Markup(package.joinpath("style.css").read_text(encoding="utf-8")),
        name=night.settings.name,
        as_of=f"{night.settings.as_of:%d %B %Y, %H:%M} UTC".lstrip("0"),
        facts=_facts(night),
        verdicts=_headlines(night),
        sections=[_section(night, *entry) for entry in _SECTIONS],
    )


def _section(night: Night, anchor: str, title: str, build: Callable[[Night], list[Block]]) -> Section:
    """A section, or the reason why there is none: one broken part must not cost the report of the whole night."""
    try:
        return Section(anchor=anchor, title=title, blocks=build(night))
    except Skip as reason:
        return Section(anchor=anchor, title=title, skipped=f"Skipped: {reason}.")
    except PreciseError as error:
        return Section(anchor=anchor, title=title, skipped=f"Skipped: {error.stored}.")
    except Exception as error:
        log.exception("the report's section %s could not be built", anchor)
        return Section(anchor=anchor, title=title, skipped=f"Could not be built: {stored_text(error)}")


def _headlines(night: Night) -> list[verdicts.Verdict]:
    if not night.tables.rows_if_any(EVALUATION_METRICS):
        return []
    return [verdict for verdict in verdicts.judge(night.metrics) if verdict.headline]


def _facts(night: Night) -> list[tuple[str, str]]:
    """(label, value) of the few figures everybody looks for first."""
    tables = night.tables
    facts: list[tuple[str, str]] = []
    if tables.exists(EVENTS):
        facts.append(("events before as_of", formats.count(night.known_events["rows"].sum())))
    if tables.exists(USER_SEQUENCES):
        facts.append(("users with a sequence", formats.count(night.users_of(ALL_TASK))))
    if tables.exists(ITEMS):
        facts.append(("items in the catalog", formats.count(tables.rows(ITEMS))))
    bad = sum(tables.rows_if_any(rejected) for _, rejected in SOURCES)
    all_rows = bad + sum(tables.rows_if_any(accepted) for accepted, _ in SOURCES)
    facts.append(("rows rejected", f"{formats.count(bad)} ({formats.percent(formats.share(bad, all_rows))})"))
    if tables.rows_if_any(VALIDATION_RESULTS):
        held, asked = int(night.checks["success"].sum()), len(night.checks)
        facts.append(("expectations held", f"{formats.count(held)} of {formats.count(asked)}"))
    if tables.rows_if_any(RUNS):
        facts.append(("all jobs together", formats.duration(float(night.runs["seconds"].sum()))))
    return facts
