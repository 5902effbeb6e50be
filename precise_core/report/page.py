"""The report of one night: one self-contained HTML file, and the main figures of it in the terminal."""

from __future__ import annotations

import logging
from collections.abc import Callable
from importlib import resources

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text as RichText

from precise_core.config.tasks import ALL_TASK
from precise_core.errors import PreciseError, stored_text
from precise_core.report import data_sections, formats, list_sections, lists, model_sections
from precise_core.report.blocks import Block, Cell, Grid, Section, Skip, Text, Verdicts
from precise_core.report.data import SOURCES, Night
from precise_core.report.verdicts import Verdict, judge
from precise_core.settings import Settings
from precise_core.store import Place, above, name_of, store_at
from schemas import EVALUATION_METRICS, EVENTS, ITEMS, RUNS, USER_SEQUENCES, VALIDATION_RESULTS

log = logging.getLogger(__name__)

_SECTIONS: tuple[tuple[str, str, Callable[[Night], list[Block]]], ...] = (
    ("precise", "What PRECISE adds", list_sections.precise),
    ("sources", "Sources", list_sections.sources),
    ("examples", "Examples", list_sections.examples),
    ("lists", "Lists", list_sections.lists),
    ("intake", "What came in", data_sections.intake),
    ("sequences", "Sequences", data_sections.sequences),
    ("scenes", "Scenes", data_sections.scenes),
    ("popularity", "Popularity", data_sections.popularity),
    ("training", "Training", model_sections.training),
    ("experts", "Expert load", model_sections.expert_load),
    ("retrieval", "Retrieval", model_sections.retrieval),
    ("recall", "Recall", model_sections.recall),
    ("ranking", "Ranking", model_sections.ranking),
    ("gates", "Checks", data_sections.checks),
    ("jobs", "Jobs", data_sections.jobs),
    ("versions", "Versions", data_sections.versions),
)
_STYLES = {"win": "green", "loss": "red", "tie": "yellow"}
_CELL_STYLES = {"win": "green", "loss": "red", "tie": "bright_black"}


def build_report(warehouse: Place, settings: Settings, out: Place) -> Place:
    """Write the report of ``warehouse`` to the HTML file ``out``, whole or not at all.

    A missing part of the night is reported in its section and never makes the report fail. The same warehouse gives the
    same bytes.
    """
    store_at(above(out)).put(name_of(out), _render(Night(warehouse, settings)))
    return out


def print_summary(warehouse: Place, settings: Settings, console: Console | None = None) -> None:
    """Print the main figures per task, the verdicts, and the seconds per job, as far as they exist."""
    console = console or Console()
    night = Night(warehouse, settings)
    blocks: list[Block] = [Text("Nothing has been evaluated yet (jobs/evaluate.py).")]
    if night.tables.rows_if_any(EVALUATION_METRICS):
        blocks = [*_opening(night), *model_sections.headline_grids(night.metrics), Verdicts(_headlines(night))]
    if night.tables.rows_if_any(RUNS):
        blocks.append(data_sections.job_grid(night.runs))
    for block in blocks:
        _print(block, console)


def _print(block: Block, console: Console) -> None:
    if isinstance(block, Text):
        console.print(block.text)
    elif isinstance(block, Verdicts):
        for verdict in block.verdicts:
            console.print(RichText(verdict.text, style=_STYLES[verdict.outcome]))
    elif isinstance(block, Grid):
        table = RichTable(title=block.caption, title_justify="left")
        for number, name in enumerate(block.header):
            table.add_column(name, justify="left" if number < block.text_columns else "right", no_wrap=number == 0)
        for row in block.rows:
            cells = [(cell, "") if isinstance(cell, str) else (cell.text, _style(cell)) for cell in row]
            table.add_row(*(RichText(text, style) for text, style in cells))  # brackets in a name are no markup
        console.print(table)


def _style(cell: Cell) -> str:
    return "bold" if cell.best else _CELL_STYLES.get(cell.tone, "")


def _render(night: Night) -> str:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    opening = _opening(night)
    package = resources.files("precise_core.report")
    template = environment.from_string(package.joinpath("template.html.j2").read_text(encoding="utf-8"))
    return template.render(
        style=Markup(package.joinpath("style.css").read_text(encoding="utf-8")),
        name=night.settings.name,
        as_of=f"{night.settings.as_of:%d %B %Y, %H:%M} UTC".lstrip("0"),
        facts=_facts(night),
        opening=opening[0] if opening else None,
        legend=lists.LEGEND,
        verdicts=_headlines(night),
        sections=[_section(night, *entry) for entry in _SECTIONS],
    )


def _section(night: Night, anchor: str, title: str, build: Callable[[Night], list[Block]]) -> Section:
    """A section, or the reason why there is none: an error in one part must not stop the whole report."""
    try:
        return Section(anchor=anchor, title=title, blocks=build(night))
    except Skip as reason:
        return Section(anchor=anchor, title=title, skipped=f"Skipped: {reason}.")
    except PreciseError as error:
        return Section(anchor=anchor, title=title, skipped=f"Skipped: {error.stored}.")
    except Exception as error:
        log.exception("the report's section %s could not be built", anchor)
        return Section(anchor=anchor, title=title, skipped=f"Could not be built: {stored_text(error)}")


def _compared(night: Night) -> list[lists.Comparison]:
    return lists.comparisons(night.metrics) if night.tables.rows_if_any(EVALUATION_METRICS) else []


def _opening(night: Night) -> list[Grid]:
    """The published lists beside the best reference; nothing where they were not evaluated."""
    compared = _compared(night)
    return [lists.opening_table(compared)] if compared else []


def _headlines(night: Night) -> list[Verdict]:
    """A sentence a task about the published lists; without them, who wins each question."""
    if compared := _compared(night):
        return lists.sentences(compared)
    if not night.tables.rows_if_any(EVALUATION_METRICS):
        return []
    return [verdict for verdict in judge(night.metrics) if verdict.headline]


def _facts(night: Night) -> list[tuple[str, str]]:
    """(label, value) of the main figures."""
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
    facts.append(("rows rejected", f"{formats.count(bad)} ({formats.percent_of(bad, all_rows)})"))
    if tables.rows_if_any(VALIDATION_RESULTS):
        held, checked = int(night.checks["success"].sum()), len(night.checks)
        facts.append(("expectations held", f"{formats.count(held)} of {formats.count(checked)}"))
    if tables.rows_if_any(RUNS):
        facts.append(("all jobs together", formats.duration(float(night.runs["seconds"].sum()))))
    return facts
