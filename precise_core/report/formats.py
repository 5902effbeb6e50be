"""How numbers, versions and system names are written in the report."""

from __future__ import annotations

import math

from schemas import columns as c

_SYSTEM_NAMES = {
    "personal_frequency": "personal frequency",
    "item_knn": "item-kNN",
    "last_item_knn": "last item's neighbours",
    "user_knn": "user-kNN",
    "own_decayed": "own history, decayed",
    "tifu_knn": "TIFU-KNN",
    "ease": "EASE",
    c.U2I: "U2I",
    c.U2I2I: "U2I2I",
    "recommendations": "published lists",
}
_METRIC_NAMES = {
    "recall": "Recall",
    "ndcg": "NDCG",
    "hit_rate": "Hit rate",
    "unique_hit_rate": "Hit rate of its own",
    "overlap": "Overlap",
    "coverage": "Coverage",
    "novelty": "Novelty",
    "auc": "AUC",
    "gauc": "GAUC",
    "log_loss": "log loss",
    "auc_gain": "AUC gain",
    "gauc_gain": "GAUC gain",
    "ndcg_gain": "NDCG gain",
}


def count(value: float | None) -> str:
    """Whole number with thousands separators: ``1,469,307``."""
    return "–" if _absent(value) else f"{value:,.0f}"


def figure(value: float | None, digits: int = 3) -> str:
    """Three significant digits, no zero before the point: ``.292``, ``.0444``, ``1.20``, ``12,300``."""
    if _absent(value):
        return "–"
    assert value is not None
    if abs(value) >= 1000:
        return f"{float(f'{value:.{digits}g}'):,.0f}"
    if value != 0 and abs(value) < 1e-4:
        return f"{value:.2e}"
    text = f"{value:#.{digits}g}".rstrip(".") if value else "0"
    return text.replace("0.", ".", 1) if text.startswith(("0.", "-0.")) else text


def against(ours: float, other: float) -> str:
    """``.137 against .292``; more digits where three would show two different figures as equal."""
    for digits in (3, 4, 5):
        left, right = figure(ours, digits), figure(other, digits)
        if left != right or ours == other:
            break
    return f"{left} against {right}"


def interval(low: float | None, high: float | None) -> str:
    """``.281 to .303``; empty where there is none."""
    return "" if _absent(low) or _absent(high) else f"{figure(low)} to {figure(high)}"


def percent(share: float | None) -> str:
    """``12.5 %``; a share above 0 is never shown as 0, one below 1 never as 100."""
    if _absent(share):
        return "–"
    assert share is not None
    if 0 < share < 0.001:
        return "< 0.1 %"
    if 0.999 < share < 1:
        return "> 99.9 %"
    return f"{share * 100:.1f}".removesuffix(".0") + " %"


def percent_of(part: float, whole: float) -> str:
    """``part / whole`` as a percentage; a dash where there is no whole."""
    return percent(part / whole if whole else None)


def duration(seconds: float | None) -> str:
    """``0.4 s``, ``42 s``, ``3 min 05 s``, ``1 h 12 min``."""
    if _absent(seconds):
        return "–"
    assert seconds is not None
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def size(size_bytes: int) -> str:
    """``912 B``, ``4.2 MB``."""
    value = float(size_bytes)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:,.3g} GB"


def system_name(system: str) -> str:
    """A readable name of a system: ``most_popular_7d`` becomes ``most popular (7 days)``."""
    if system in _SYSTEM_NAMES:
        return _SYSTEM_NAMES[system]
    if system.startswith("recommendations ("):
        return f"published lists {system.removeprefix('recommendations ')}"
    if system.startswith("most_popular"):
        days = system.removeprefix("most_popular").strip("_").removesuffix("d")
        return f"most popular ({days} days)" if days.isdigit() else "most popular"
    return system if " " in system or system.isupper() or "-" in system else system.replace("_", " ")


def metric_name(metric: str, k: int) -> str:
    """``NDCG@50``; without a cut just the name."""
    name = _METRIC_NAMES.get(metric, metric.replace("_", " "))
    return f"{name}@{k}" if k else name


def _absent(value: float | None) -> bool:
    return value is None or not math.isfinite(value)
