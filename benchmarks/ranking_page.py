"""Table IX on the results page: one section per file that `benchmarks.table_ix` wrote."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Found = Mapping[str, Any]

FIELDS = ("name", "data", "config", "date", "machine", "code_version", "seeds", "reference", "impressions", "questions")
_METRICS = {"auc": "AUC", "gauc": "GAUC", "log_loss": "log loss", "calibration_error": "calibration error"}
_SIGNIFICANT = 0.05


def section(found: Found) -> str:
    """Facts, and per question the figures and the differences to the plain model."""
    shown, seeds = found["impressions"], ", ".join(str(seed) for seed in found["seeds"])
    missing = ", ".join(f"{share:.1%} for `{task}`" for task, share in found["without_vectors"].items())
    lines = [
        f"## Table IX: ranking on `{found['name']}`",
        "",
        f"- command: `make demo CONFIG={found['config']}`, then `{command(found)}`",
        f"- data: {found['data']}",
        f"- {shown['train']:,} impressions to learn from, {shown['test']:,} of {found['users']:,} users to test on, "
        f"{shown['taken']:.1%} of them taken; without a pair of vectors: {missing}",
        f"- seeds: {seeds}; reference: {found['reference']}",
        f"- {found['date']}, {found['machine']}, code {found['code_version']}",
        "",
    ]
    for question in found["questions"]:
        lines += [f"{question['features'].capitalize()} features:", "", *_figures(question), ""]
        lines += [f"Difference to {found['reference']}, its 95 % interval, and p:", "", *_differences(question), ""]
    return "\n".join(lines)


def command(found: Found) -> str:
    """What measures it again on the warehouse that a night left."""
    seeds = " ".join(str(seed) for seed in found["seeds"])
    return f'make table-ix CONFIG={found["config"]} SEEDS="{seeds}"'


def _figures(question: Found) -> list[str]:
    cells = {(row["system"], row["metric"]): row for row in question["figures"]}
    signs = {(row["system"], row["metric"]): _sign(row) for row in question["differences"]}

    def cell(system: str, metric: str) -> str:
        row = cells[system, metric]
        spread = f" ± {row['deviation']:.4f}" if row["deviation"] is not None else ""
        return f"{row['mean']:.4f}{spread}{signs.get((system, metric), '')}"

    return _table(question["figures"], list(_METRICS), cell)


def _differences(question: Found) -> list[str]:
    cells = {(row["system"], row["metric"]): row for row in question["differences"]}

    def cell(system: str, metric: str) -> str:
        row = cells[system, metric]
        return f"{row['difference']:+.4f} [{row['ci_low']:+.4f}, {row['ci_high']:+.4f}], p {_p_value(row['p_value'])}"

    return _table(question["differences"], ["auc", "gauc", "log_loss"], cell)


def _table(rows: Any, metrics: list[str], cell: Any) -> list[str]:
    systems = list(dict.fromkeys(row["system"] for row in rows))
    head = ["system", *(_METRICS[metric] for metric in metrics)]
    lines = [head, ["---", *["---:"] * len(metrics)], *([name, *(cell(name, m) for m in metrics)] for name in systems)]
    return ["| " + " | ".join(line) + " |" for line in lines]


def _sign(row: Found) -> str:
    """▲ = better than the reference, ▼ = worse, nothing where the difference may be chance."""
    if row["p_value"] >= _SIGNIFICANT:
        return ""
    return " ▲" if (row["difference"] > 0) != (row["metric"] == "log_loss") else " ▼"


def _p_value(value: float) -> str:
    return "< .001" if value < 0.001 else f"{value:.3f}".removeprefix("0")
