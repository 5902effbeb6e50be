"""Render benchmarks/results/*.jsonl to docs/figures.md: `make figures`. Nothing on that page is typed by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.record import FIELDS

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
TARGET = ROOT / "docs" / "figures.md"

Figure = Mapping[str, Any]

_HEADER = """# Figures

Generated from `benchmarks/results/*.jsonl` by `make figures`; do not edit. Each file is one section; where a figure was
measured more than once, the last measurement stands. A goal was set before the measurement; a figure without one is
there for comparison.
"""
_VERDICTS = {True: "yes", False: "**no**", None: ""}


def read_figures(file: Path) -> list[Figure]:
    """The last measurement of each name, in the order in which the names first appear.

    Raises:
        ValueError: A line is not a JSON object with exactly the fields of a figure.
    """
    figures: dict[str, Figure] = {}
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        if line.strip():
            figure = _parse(line, f"{file.name}, line {number}")
            figures[figure["name"]] = figure
    return list(figures.values())


def render(sections: Mapping[str, Sequence[Figure]]) -> str:
    """One Markdown page: how many goals are met, then a table per results file."""
    parts = [_HEADER, _summary(sections), *(_section(name, figures) for name, figures in sections.items())]
    return "\n".join(parts)


def main() -> None:
    sections = {file.stem: read_figures(file) for file in sorted(RESULTS.glob("*.jsonl"))}
    if not sections:
        raise SystemExit(f"no results in {RESULTS}: measure something first; the page is left as it is")
    TARGET.write_text(render(sections), encoding="utf-8")
    print(f"wrote {TARGET.name}: {sum(map(len, sections.values()))} figures of {len(sections)} files")


def _parse(line: str, where: str) -> Figure:
    try:
        figure = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: not JSON: {error}") from error
    if not isinstance(figure, dict) or set(figure) != set(FIELDS):
        found = sorted(figure) if isinstance(figure, dict) else type(figure).__name__
        raise ValueError(f"{where}: expected an object with the fields {sorted(FIELDS)}, found {found}")
    return figure


def _summary(sections: Mapping[str, Sequence[Figure]]) -> str:
    judged = [figure for figures in sections.values() for figure in figures if figure["goal"] is not None]
    met = sum(bool(figure["meets"]) for figure in judged)
    return f"{met} of {len(judged)} goals are met.\n" if judged else "No figure has a goal yet.\n"


def _section(name: str, figures: Sequence[Figure]) -> str:
    runs = list(dict.fromkeys((figure["command"], figure["machine"]) for figure in figures))
    head = [
        "| figure | value | goal | met | data | seed | date | run |",
        "| --- | ---: | --- | --- | --- | --- | --- | --- |",
    ]
    rows = [_row(figure, runs.index((figure["command"], figure["machine"])) + 1) for figure in figures]
    notes = [f"{number}. `{command}` on {machine}" for number, (command, machine) in enumerate(runs, start=1)]
    return "\n".join([f"## {name}", "", *head, *rows, "", "Runs:", "", *notes, ""])


def _row(figure: Figure, run: int) -> str:
    seed = "" if figure["seed"] is None else figure["seed"]
    value = f"{_number(figure['value'])} {figure['unit']}".strip()
    goal = "" if figure["goal"] is None else _number(figure["goal"])
    cells = [figure["name"], value, goal, _VERDICTS[figure["meets"]], figure["data"], seed, figure["date"], run]
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"


def _number(value: Any) -> str:
    """Four significant digits, thousands apart; text as it is."""
    if not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


if __name__ == "__main__":
    main()
