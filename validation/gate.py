"""The gate between a job's result and its table: nothing is written that breaks a check.

result = gate(USER_SEQUENCES, frame, run_id=run_id, max_length=200)
warehouse.append_records(VALIDATION_RESULTS, result.records)
result.raise_on_failure()
warehouse.write(spark, USER_SEQUENCES, frame, run_id=run_id)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from time import monotonic
from typing import TYPE_CHECKING, Any

from pyspark.sql import DataFrame

from precise_core.errors import ValidationError
from schemas import Table
from schemas import columns as c

if TYPE_CHECKING:  # with Great Expectations behind them, which takes seconds: imported when a gate runs
    from validation.checks import Check, Level
    from validation.engine import Outcome
    from validation.suites import TableSuite


@cache
def _suites() -> Mapping[str, TableSuite]:
    """The suites of all tables that have one, by name."""
    from validation import (
        evaluation,
        intake,
        pair_scores,
        ranking,
        recall,
        recommendations,
        run,
        sequences,
        text,
        vectors,
    )

    rooms = (intake, text, sequences, vectors, recall, pair_scores, ranking, recommendations, evaluation, run)
    return {suite.table.name: suite for room in rooms for suite in room.SUITES}


@dataclass(frozen=True)
class GateResult:
    """The result of a gate.

    ``records`` are rows of `validation_results`; ``failures`` and ``warnings`` name the broken rules and their counts,
    never a value of the data. ``seconds`` includes the reading of a frame that is not persisted.
    """

    table: Table
    outcomes: tuple[Outcome, ...]
    run_id: str
    part: str
    checked_at: datetime
    seconds: float

    @property
    def records(self) -> list[dict[str, Any]]:
        return [_record(self, outcome) for outcome in self.outcomes]

    @property
    def failures(self) -> list[str]:
        return self._broken("fail")

    @property
    def warnings(self) -> list[str]:
        return self._broken("warn")

    def with_levels(self, levels: Mapping[str, Level]) -> GateResult:
        """The same outcomes with other levels: `table/expectation/column` -> `fail` or `warn`."""
        return replace(self, outcomes=tuple(self._leveled(outcome, levels) for outcome in self.outcomes))

    def _leveled(self, outcome: Outcome, levels: Mapping[str, Level]) -> Outcome:
        check = outcome.check
        level = levels.get(f"{self.table.name}/{check.name}/{check.column}", check.level)
        return replace(outcome, check=replace(check, level=level))

    def _broken(self, level: Level) -> list[str]:
        broken = [outcome for outcome in self.outcomes if not outcome.success]
        return [outcome.in_words for outcome in broken if outcome.check.level == level]

    @property
    def rows(self) -> int:
        """Rows that were checked."""
        return max((outcome.element_count for outcome in self.outcomes), default=0)

    @property
    def is_valid(self) -> bool:
        return not self.failures

    def raise_on_failure(self) -> None:
        """Raise ``ValidationError`` naming the table and each failed expectation, its column and its count."""
        if self.failures:
            raise ValidationError(
                f"table {self.table.name}: {len(self.failures)} of {len(self.records)} expectations failed, "
                f"nothing was written: " + "; ".join(self.failures)
            )


def gate(
    table: Table,
    frame: DataFrame,
    *,
    run_id: str,
    part: str = "",
    also: Sequence[Check] = (),
    **parameters: Any,
) -> GateResult:
    """Check ``frame`` before it becomes ``table``, in one pass over its rows.

    The frame is neither cached nor collected; only counts reach the driver.

    Args:
        table: Its declaration alone is checked where it has no suite.
        frame: The rows, with the declared columns.
        part: The slice that ``frame`` is (a task), where one run checks several.
        also: Further checks, of further columns of ``frame``.
        **parameters: What the table's suite needs, for example the ``width`` of an embedding.
    """
    started = monotonic()
    from validation.checks import declared
    from validation.engine import evaluate
    from validation.suites import TableSuite

    suite = _suites().get(table.name, TableSuite(table))
    checks = [*declared(table), *suite.checks(**parameters), *also]
    further = {check.column for check in also}
    own = frame.select(*[name for name in frame.columns if name not in further]) if also else frame
    outcomes = _structure_outcomes(table, own)
    if all(outcome.success for outcome in outcomes):
        outcomes += evaluate(_prepared(suite.derive(frame), table, checks), checks)
    return result_of(table, outcomes, run_id, part, monotonic() - started)


def _structure_outcomes(table: Table, frame: DataFrame) -> list[Outcome]:
    from validation.checks import columns_in_order, types
    from validation.engine import evaluate

    # A missing column is reported as such, not as an error of the checks that would read it.
    outcomes = evaluate(frame, [columns_in_order(table)])
    return outcomes + evaluate(frame, types(table)) if outcomes[0].success else outcomes


def _prepared(frame: DataFrame, table: Table, checks: Sequence[Check]) -> DataFrame:
    from validation import derived

    read = {check.column for check in checks if check.name != "expect_column_values_to_not_be_null"}
    return derived.with_key_count(frame, table.key, read) if table.key else frame


def result_of(table: Table, outcomes: Sequence[Outcome], run_id: str, part: str, seconds: float = 0.0) -> GateResult:
    """Outcomes as the result of a gate."""
    return GateResult(
        table=table, outcomes=tuple(outcomes), run_id=run_id, part=part, checked_at=datetime.now(UTC), seconds=seconds
    )


def _record(result: GateResult, outcome: Outcome) -> dict[str, Any]:
    return {
        c.RUN_ID: result.run_id,
        "table_name": result.table.name,
        "part": result.part,
        "expectation": outcome.check.name,
        "column": outcome.check.column,
        "level": outcome.check.level,
        "success": outcome.success,
        "element_count": outcome.element_count,
        "unexpected_count": outcome.unexpected_count,
        "checked_at": result.checked_at,
    }
