"""Several seeds of one evaluation: the spread of figures, and paired tests over all seeds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from precise_core.errors import DataError
from precise_core.evaluation.groups import ALL
from precise_core.evaluation.names import MAIN_FIGURES
from precise_core.evaluation.protocol import EvaluationResult, MetricKey


@dataclass(frozen=True)
class SeedSpread:
    """One figure over seeds."""

    mean: float
    deviation: float  # standard, n - 1 in the denominator; NaN for one seed
    seeds: int  # how many there are


def spread_over_seeds(results: Sequence[EvaluationResult]) -> dict[MetricKey, SeedSpread]:
    """Mean and standard deviation of every figure, over the results that have the system.

    ``results`` has one per seed, of the same task and users.
    """
    _check(results)
    values: dict[MetricKey, list[float]] = defaultdict(list)
    for result in results:
        for row in result.rows:
            values[MetricKey(*(row[name] for name in MetricKey._fields))].append(row["value"])
    spreads = {}
    for key, of_key in values.items():
        deviation = float(np.std(of_key, ddof=1)) if len(of_key) > 1 else np.nan
        spreads[key] = SeedSpread(float(np.mean(of_key)), deviation, len(of_key))
    return spreads


def compare_over_seeds(
    results: Sequence[EvaluationResult], reference: str, *, samples: int, seed: int
) -> list[dict[str, object]]:
    """``EvaluationResult.compare`` of each user's mean over the seeds; users are resampled, seeds are not.

    ``results`` has one per seed, of the same task and users; ``seed`` is the bootstrap's.
    """
    _check(results)
    per_user: dict[MetricKey, list[np.ndarray]] = defaultdict(list)
    for result in results:
        for key, values_U in result.per_user.items():
            per_user[key].append(values_U)
    means = {key: np.mean(of_key, axis=0) for key, of_key in per_user.items()}
    return EvaluationResult(results[0].user_rows, per_user=means).compare(reference, samples=samples, seed=seed)


def figures_over_seeds(
    results: Sequence[EvaluationResult], references: Sequence[str], *, samples: int, seed: int
) -> dict[str, list[dict[str, Any]]]:
    """``spread_over_seeds`` and ``compare_over_seeds`` as plain values: `figures` and `differences`.

    References that were not evaluated are left out. For those after the first there are only the differences on the
    results page: ``MAIN_FIGURES`` over all items.
    """
    users = {MetricKey(*(row[name] for name in MetricKey._fields)): row["users"] for row in results[0].rows}
    figures: list[dict[str, Any]] = []
    for key, spread in spread_over_seeds(results).items():
        deviation = spread.deviation if spread.seeds > 1 else None  # NaN is no JSON
        figures.append({**key._asdict(), **asdict(spread), "deviation": deviation, "users": users.get(key)})
    systems = {key.system for result in results for key in result.per_user}
    differences: list[dict[str, Any]] = []
    for reference in references:
        if reference in systems:
            compared = results if reference == references[0] else [_main_figures(result) for result in results]
            differences += compare_over_seeds(compared, reference, samples=samples, seed=seed)
    return {"figures": figures, "differences": differences}


def _main_figures(result: EvaluationResult) -> EvaluationResult:
    per_user = {
        key: values_U
        for key, values_U in result.per_user.items()
        if key.item_group == ALL and (key.metric, key.k) in MAIN_FIGURES
    }
    return EvaluationResult(result.user_rows, per_user=per_user)


def _check(results: Sequence[EvaluationResult]) -> None:
    """Refuse results that cannot be paired."""
    if not results:
        raise DataError("seeds: there is no result; give one per seed")
    for number, result in enumerate(results):
        if not np.array_equal(result.user_rows, results[0].user_rows):
            raise DataError(
                f"seeds: result {number} is of {len(result.user_rows)} users, result 0 of {len(results[0].user_rows)}, "
                "and they are not the same; a paired comparison needs the same users"
            )
