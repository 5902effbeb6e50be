"""The gate of a publication: vectors far from the published ones are refused."""

from __future__ import annotations

from collections.abc import Mapping

from pyspark.sql import SparkSession

from precise_core.config.gates import DriftConfig
from schemas import PUBLISHED_MODELS
from validation.checks import Check, Level, between
from validation.engine import evaluate
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
    if not checks:
        return result_of(PUBLISHED_MODELS, [], run_id, task)
    frame = spark.createDataFrame([{name: float(value) for name, value in facts.items()}])
    return result_of(PUBLISHED_MODELS, evaluate(frame, checks), run_id, task)


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
