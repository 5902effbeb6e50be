"""The gate between a job's result and its table: nothing is written that breaks a check.

result = gate(USER_SEQUENCES, frame, run_id=run_id, max_length=200)
warehouse.append_records(VALIDATION_RESULTS, result.records)
result.raise_on_failure()
warehouse.write(spark, USER_SEQUENCES, frame, run_id=run_id)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from types import ModuleType
from typing import Any

from pyspark.sql import DataFrame

from precise_core.errors import ConfigError, ValidationError
from schemas import Table
from schemas import columns as c
from validation import (
    derived,
    events,
    impressions,
    item_embeddings,
    items,
    text_states,
    user_embeddings,
    user_sequences,
)
from validation.checks import Check, columns_in_order, types
from validation.engine import Outcome, evaluate

_SUITES: dict[str, ModuleType] = {
    module.TABLE.name: module
    for module in (events, items, impressions, text_states, user_sequences, item_embeddings, user_embeddings)
}


@dataclass(frozen=True)
class GateResult:
    """What the gate saw.

    ``records`` are rows of `validation_results`; ``failures`` and ``warnings`` say in words what broke and how often,
    never with a value of the data.
    """

    table: Table
    records: list[dict[str, Any]]
    failures: list[str]
    warnings: list[str]

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


def gate(table: Table, frame: DataFrame, *, run_id: str, part: str = "", **parameters: Any) -> GateResult:
    """Check ``frame`` before it becomes ``table``, in one pass over its rows.

    The frame is neither cached nor collected; only counts reach the driver.

    Args:
        table: A table that has a suite in this package.
        frame: The rows, with the declared columns.
        run_id: The run that checks.
        part: The slice that ``frame`` is (a task), where one run checks several.
        **parameters: What the table's ``suite`` asks for, for example ``width`` of an embedding.

    Raises:
        ConfigError: The table has no suite.
    """
    module = _SUITES.get(table.name)
    if module is None:
        raise ConfigError(f"table {table.name} has no validation suite; tables that have one: {sorted(_SUITES)}")
    checks = module.suite(**parameters)
    outcomes = _structure_outcomes(table, frame)
    if all(outcome.success for outcome in outcomes):
        outcomes += evaluate(_prepared(module.derive(frame), table, checks), checks)
    return _result(table, outcomes, run_id, part)


def _structure_outcomes(table: Table, frame: DataFrame) -> list[Outcome]:
    # A missing column is reported as such, not as an error of the checks that would read it.
    outcomes = evaluate(frame, [columns_in_order(table)])
    return outcomes + evaluate(frame, types(table)) if outcomes[0].success else outcomes


def _prepared(frame: DataFrame, table: Table, checks: Sequence[Check]) -> DataFrame:
    read = {check.column for check in checks if check.name != "expect_column_values_to_not_be_null"}
    return derived.with_key_count(frame, table.key, read)


def _result(table: Table, outcomes: Sequence[Outcome], run_id: str, part: str) -> GateResult:
    checked_at = datetime.now(UTC)
    broken = [outcome for outcome in outcomes if not outcome.success]
    return GateResult(
        table=table,
        records=[_record(table, outcome, run_id, part, checked_at) for outcome in outcomes],
        failures=[outcome.in_words for outcome in broken if outcome.check.level == "fail"],
        warnings=[outcome.in_words for outcome in broken if outcome.check.level == "warn"],
    )


def _record(table: Table, outcome: Outcome, run_id: str, part: str, checked_at: datetime) -> dict[str, Any]:
    return {
        c.RUN_ID: run_id,
        "table_name": table.name,
        "part": part,
        "expectation": outcome.check.name,
        "column": outcome.check.column,
        "level": outcome.check.level,
        "success": outcome.success,
        "element_count": outcome.element_count,
        "unexpected_count": outcome.unexpected_count,
        "checked_at": checked_at,
    }
