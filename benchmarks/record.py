"""Append one measured figure to a results file; `make figures` renders them all."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from precise_core.experiments.machine import machine

FIELDS = ("name", "value", "unit", "goal", "meets", "date", "data", "seed", "machine", "command")


def record(
    results_file: str | Path,
    name: str,
    value: float,
    unit: str,
    goal: str | float | None,
    meets: bool | None,
    data: str,
    seed: int | None,
    command: str,
) -> dict[str, Any]:
    """Append one JSON object and return it; the date and the machine are filled in here.

    Args:
        results_file: A ``.jsonl`` file under ``benchmarks/results``; made where missing.
        name: What was measured; a later figure of the same name replaces this one on the page.
        value: The number, finite.
        unit: Of the number, for example ``users/s``; empty for a share.
        goal: What was set beforehand, or None where nothing was.
        meets: Whether the value meets the goal; None without a goal.
        data: What it was measured on, with its size.
        seed: Of the run; None where nothing is drawn.
        command: What to run to measure it again.

    Raises:
        ValueError: The value is not finite, or a goal is without a verdict, or a verdict without a goal.
    """
    if (goal is None) != (meets is None):
        raise ValueError(f"figure {name!r}: goal {goal!r} with meets {meets!r}; give both or neither")
    figure = {
        "name": name,
        "value": value,
        "unit": unit,
        "goal": goal,
        "meets": meets,
        "date": datetime.now(UTC).date().isoformat(),
        "data": data,
        "seed": seed,
        "machine": machine(),
        "command": command,
    }
    line = json.dumps(figure, allow_nan=False, ensure_ascii=False)
    file = Path(results_file)
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a", encoding="utf-8") as handle:
        handle.write(line + "\n")
    return figure
