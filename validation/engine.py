"""Great Expectations in this process, reduced to counts.

The public ``batch.validate`` gives either no counts (BOOLEAN_ONLY) or counts together with samples of the values that
broke a rule (BASIC and above): samples are personal data and cost a Spark job per expectation. So the metrics behind
the expectations are computed here, all of them in one Spark aggregation, and each expectation evaluates its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from great_expectations.execution_engine import ExecutionEngine, SparkDFExecutionEngine
from great_expectations.validator.metric_configuration import MetricConfiguration
from great_expectations.validator.validation_graph import ValidationGraph
from pyspark.sql import DataFrame

from validation.checks import Check

_ROW_COUNT = "table.row_count"
_AGGREGATE = "metric_partial_fn"  # the dependence that marks a metric as an aggregate over the frame


@dataclass(frozen=True)
class Outcome:
    """Whether a check held, over how many rows, and how many broke it.

    A rule on the table as a whole (its columns, its number of checkpoints) counts every row when it is broken, and one
    where no row was read; ``observed`` is what it found instead. A rule on rows has counts only.
    """

    check: Check
    success: bool
    element_count: int
    unexpected_count: int
    observed: str = ""

    @property
    def in_words(self) -> str:
        """The rule, its name, its column, and its counts or what it found; never a value of a row."""
        name = f"{self.check.name} on {self.check.column}" if self.check.column else self.check.name
        found = f"found {self.observed}" if self.observed else f"{self.unexpected_count} of {self.element_count} rows"
        return f"{self.check.says} ({name}): {found}"


def evaluate(frame: DataFrame, checks: Sequence[Check]) -> list[Outcome]:
    """Evaluate ``checks`` on ``frame`` in one Spark action, or none where they only need its schema.

    An exception of Spark while it reads the frame is raised unchanged.
    """
    engine = _engine(frame)
    needed = [_metrics_of(check, engine) for check in checks]
    metrics = _compute(frame, [metric for named in needed for metric in named.values()], engine)
    rows = next((metrics[named[_ROW_COUNT].id] for named in needed if _ROW_COUNT in named), 0)
    return [_judge(check, named, metrics, engine, rows) for check, named in zip(checks, needed, strict=True)]


def _compute(frame: DataFrame, needed: Iterable[MetricConfiguration], engine: ExecutionEngine) -> dict[Any, Any]:
    """The metrics and all they depend on, by id.

    Metrics without a Spark action come first, so that all aggregates are known and computed in one action. The
    validator of Great Expectations reads the frame once per level of dependence, and when that fails once more per
    metric.
    """
    graph = ValidationGraph(engine)
    for metric in needed:
        graph.build_metric_dependency_graph(metric)
    pending = {edge.left.id: edge.left for edge in graph.edges}
    # Every metric of a column depends on the row count, but none used here reads it: it is not waited for.
    known: dict[Any, Any] = {key: None for key, metric in pending.items() if metric.metric_name == _ROW_COUNT}
    while pending:
        ready = [m for m in pending.values() if all(d.id in known for d in m.metric_dependencies.values())]
        free = [metric for metric in ready if _AGGREGATE not in metric.metric_dependencies]
        resolved = engine.resolve_metrics(free, known) if free else _aggregate(frame, ready, known)
        known |= resolved
        pending = {key: metric for key, metric in pending.items() if key not in resolved}
    return known


def _aggregate(frame: DataFrame, metrics: Sequence[MetricConfiguration], known: Mapping[Any, Any]) -> dict[Any, Any]:
    columns = [known[metric.metric_dependencies[_AGGREGATE].id][0] for metric in metrics]
    values = frame.agg(*columns).collect()[0]
    return {metric.id: value for metric, value in zip(metrics, values, strict=True)}


def _judge(
    check: Check, named: Mapping[str, MetricConfiguration], metrics: dict[Any, Any], engine: ExecutionEngine, rows: int
) -> Outcome:
    judged = check.expectation.metrics_validate(metrics, _result_format(check), engine)
    success = bool(judged.success)
    if check.count_metric:
        broken = metrics[named[check.count_metric].id]
        return Outcome(check, success, rows, broken or 0)
    observed = judged.result.get("observed_value")
    return Outcome(check, success, rows, 0 if success else max(rows, 1), str(observed))


def _metrics_of(check: Check, engine: ExecutionEngine) -> dict[str, MetricConfiguration]:
    return check.expectation.get_validation_dependencies(engine, _result_format(check)).metric_configurations


def _result_format(check: Check) -> dict[str, Any]:
    # A rule on the whole table observes a name or a number, a rule on rows would observe personal data.
    return {"result_format": "BOOLEAN_ONLY" if check.count_metric else "BASIC"}


def _engine(frame: DataFrame) -> SparkDFExecutionEngine:
    # The default persists every frame and never releases it.
    engine = SparkDFExecutionEngine(persist=False, spark=frame.sparkSession)
    engine.load_batch_data("frame", frame)
    return engine
