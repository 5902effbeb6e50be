"""Table VIII of an experiment as Markdown: hit rates of recall sources for all and for cold-start users."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

_METRIC = "hit_rate"
_BASELINE = "baseline"
_SIGNIFICANT = 0.05

_EXPLAINED = (
    "The lists of a column are of one length. In brackets: the change against the baseline when one more source shares "
    "its places. ▲ and ▼ as above, against the baseline."
)

_Rows = Mapping[tuple[str, int], Mapping[str, Any]]


def recall_lines(experiment: Mapping[str, Any]) -> list[str]:
    """A table per task; nothing where the experiment has none."""
    parts: list[str] = []
    what = "share of users who find an item they came to among the first k of a list"
    for task, kinds in experiment.get("recall", {}).items():
        parts += [f"Recall (Table VIII), task `{task}`: {what}.", "", _EXPLAINED, ""]
        parts += [*_table(kinds), ""]
    return parts


def _table(kinds: Mapping[str, Mapping[str, Any]]) -> list[str]:
    by_kind = {kind: (_by_key(found["figures"]), _by_key(found["differences"])) for kind, found in kinds.items()}
    first = next(iter(by_kind.values()))[0]
    systems = list(dict.fromkeys(system for system, _ in first))
    places = [(kind, k) for kind in by_kind for k in sorted({k for _, k in by_kind[kind][0]})]
    heads = [f"{kind}, @{k}{_users(by_kind[kind][0], k)}" for kind, k in places]
    lines = [["source", *heads], ["---", *["---:"] * len(heads)]]
    for system in systems:
        lines.append([system, *(_cell(system, k, *by_kind[kind]) for kind, k in places)])
    return ["| " + " | ".join(line) + " |" for line in lines]


def _cell(system: str, k: int, figures: _Rows, differences: _Rows) -> str:
    figure = figures.get((system, k))
    if figure is None:
        return ""
    spread = f" ± {figure['deviation']:.4f}" if figure["seeds"] > 1 and figure["deviation"] is not None else ""
    value = f"{figure['mean']:.4f}{spread}"
    found, base = differences.get((system, k)), figures.get((_BASELINE, k))
    if found is None or base is None or not base["mean"] or not math.isfinite(found["p_value"]):
        return value
    sign = (" ▲" if found["difference"] > 0 else " ▼") if found["p_value"] < _SIGNIFICANT else ""
    change = f" ({found['difference'] / base['mean']:+.1%})" if system.startswith(_BASELINE) else ""
    return value + change + sign


def _users(figures: _Rows, k: int) -> str:
    users = figures[_BASELINE, k]["users"]
    return f" ({users:,})" if users else ""


def _by_key(rows: list[Mapping[str, Any]]) -> dict[tuple[str, int], Mapping[str, Any]]:
    chosen = [row for row in rows if row["metric"] == _METRIC and row["item_group"] == "all"]
    return {(row["system"], row["k"]): row for row in chosen}
