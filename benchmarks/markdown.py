"""Tables and numbers in Markdown, as the results page writes them."""

from __future__ import annotations

import math
from collections.abc import Sequence


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], names: int = 1) -> list[str]:
    """The first ``names`` columns hold words, all others numbers."""
    lines = [heads, [*["---"] * names, *["---:"] * (len(heads) - names)], *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]


def number(value: float | None, digits: int = 4) -> str:
    """Empty where there is no value."""
    return f"{value:.{digits}f}" if is_number(value) else ""


def p_value(value: float | None) -> str:
    """`p .013` or `p < .001`; empty where there is no value."""
    if value is None or not is_number(value):
        return ""
    return "p < .001" if value < 0.001 else "p " + f"{value:.3f}".removeprefix("0")


def is_number(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
