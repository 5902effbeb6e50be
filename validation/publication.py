"""Gates of publications: vectors, and lists, that are far from the published ones are refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from pyspark.sql import SparkSession

from precise_core.config.gates import DriftConfig, ListLimitsConfig
from schemas import PUBLISHED_MODELS, RECOMMENDATIONS
from validation.checks import Check, Level, between
from validation.engine import Outcome, evaluate
from validation.gate import GateResult, result_of

FAIL: Level = "fail"
WARN: Level = "warn"


def gate_drift(
    spark: SparkSession, facts: Mapping[str, float], *, run_id: str, task: str, limits: DriftConfig, level: Level
) -> GateResult:
    """Compare the figures of one task (``precise_core.publication.drift``) with their limits.

    Args:
        facts: Figure -> value; missing figures are not checked.
        level: `warn` where a person has accepted the drift.
    """
    checks = [_check(name, limits, level) for name in sorted(facts)]
    return result_of(PUBLISHED_MODELS, _judged(spark, facts, checks), run_id, task)


def gate_lists(
    spark: SparkSession, facts: Mapping[str, float], *, run_id: str, task: str, limits: ListLimitsConfig, level: Level
) -> GateResult:
    """Compare figures of the lists of a task (``precise_core.recommendations.list_changes``) with their limits.

    Args:
        facts: Figure -> value; missing figures are not checked.
        level: `warn` where a person has accepted the change.
    """
    checks = [_list_check(name, task, limits, level) for name in sorted(facts)]
    return result_of(RECOMMENDATIONS, _judged(spark, facts, checks), run_id, task)


def _judged(spark: SparkSession, facts: Mapping[str, float], checks: Sequence[Check]) -> list[Outcome]:
    """Each figure by its check; the words of the outcome have its value."""
    if not checks:
        return []
    frame = spark.createDataFrame([{name: float(value) for name, value in facts.items()}])
    return [replace(found, observed=f"{facts[found.check.column]:.3g}") for found in evaluate(frame, checks)]


def _list_check(name: str, task: str, limits: ListLimitsConfig, level: Level) -> Check:
    if name == "lost_share":
        setting, high = "largest_lost_share", limits.largest_lost_share
        says = f"at most {high:.3g} of the users lose their lists"
        return between(name, None, high, f"{task}: {says}, gates.lists.{setting}", level=level)
    setting, says = {
        "length_ratio": ("smallest_length_ratio", "each list is at least {:.3g} times as long as before"),
        "overlap": ("smallest_overlap", "at least {:.3g} of the first list is in common with before"),
        "served_share": ("smallest_served_share", "at least {:.3g} of the users get a list"),
    }[name]
    low = getattr(limits, setting)
    return between(name, low, None, f"{task}: {says.format(low)}, gates.lists.{setting}", level=level)


def _check(name: str, limits: DriftConfig, level: Level) -> Check:
    if name == "unknown_token_share":
        high = limits.largest_unknown_token_share
        return between(
            name, None, high, f"the model has a vector for all but {high:.0%} of the texts' tokens", level=level
        )
    if name == "neighbour_overlap":
        low = limits.smallest_neighbour_overlap
        return between(name, low, None, f"{low:.0%} of an item's nearest items are the published ones", level=level)
    if name.endswith("_norm_change"):
        high = limits.largest_norm_change
        return between(name, None, high, f"lengths of vectors have changed by at most {high:.0%}", level=level)
    low = limits.smallest_cosine
    return between(name, low, None, f"the mean cosine to the published vectors is at least {low:g}", level=level)
