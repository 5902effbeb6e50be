"""A training as a run of MLflow, which is imported where `monitoring.mlflow_uri` is configured and nowhere else."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from precise_core.monitoring.config import MonitoringConfig

# MLflow's own defaults wait minutes for a server that is down; and it reports to its makers.
_DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
# Of one request, and of one value: limits of MLflow's protocol.
_METRICS, _PARAMETERS, _LETTERS = 1000, 100, 6000


@dataclass(frozen=True, kw_only=True)
class Training:
    """What is logged of a training that has ended.

    Attributes:
        name: Of the checkpoint that it made; the name of the run.
        parameters: Nested mappings become `a.b`.
        curves: One mapping an epoch or a log line, with `step`, or else `epoch`, as the axis; a list becomes a curve an
            entry.
        figures: Of the checkpoint that was kept.
        tags: Where it came from.
    """

    name: str
    parameters: Mapping[str, Any]
    curves: Sequence[Mapping[str, Any]] = ()
    figures: Mapping[str, float] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)


def log_training(config: MonitoringConfig, environment: str, training: Training) -> str | None:
    """Log a training where the configuration says so.

    Returns:
        A warning where it could not be logged, without the address, which may hold a token: the checkpoint is there,
        and no server that is down may cost it.
    """
    if config.mlflow_uri is None:
        return None
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    try:
        from mlflow import MlflowClient
    except ImportError as error:
        return (
            f"monitoring.mlflow_uri: {training.name} is not logged, {error}; `pip install '.[tracking]'` brings MLflow"
        )
    try:
        _log(MlflowClient(config.mlflow_uri), config.mlflow_experiment or environment, training)
    except Exception as error:  # a server, a network and a database fail in ways of their own
        reason = (str(error).splitlines() or [""])[0].replace(config.mlflow_uri, "...")
        return f"monitoring.mlflow_uri: {training.name} is not logged, {type(error).__name__}: {reason[:200]}"
    return None


def _log(client: Any, experiment: str, training: Training) -> None:
    found = client.get_experiment_by_name(experiment)
    number = found.experiment_id if found else client.create_experiment(experiment)
    run = client.create_run(number, run_name=training.name).info.run_id
    try:
        _fill(client, run, training)
    except Exception:
        with suppress(Exception):  # of the server that has just failed
            client.set_terminated(run, "FAILED")
        raise
    client.set_terminated(run)


def _fill(client: Any, run: str, training: Training) -> None:
    from mlflow.entities import Metric, Param, RunTag

    now = int(time.time() * 1000)
    tags = [RunTag(name, value) for name, value in {**training.tags, "checkpoint": training.name}.items()]
    client.log_batch(run, tags=tags)
    for part in _parts([Param(_key(name), text[:_LETTERS]) for name, text in _flat(training.parameters)], _PARAMETERS):
        client.log_batch(run, params=part)
    metrics = [Metric(_key(name), value, now, step) for name, value, step in _points(training)]
    for part in _parts(metrics, _METRICS):
        client.log_batch(run, metrics=part)


def _points(training: Training) -> Iterator[tuple[str, float, int]]:
    for line in training.curves:
        axis = "step" if "step" in line else "epoch"
        for name, value in line.items():
            for place, one in enumerate(value) if isinstance(value, list) else [("", value)]:
                if name != axis:
                    yield f"{name}/{place}".rstrip("/"), float(one), int(line[axis])
    for name, value in training.figures.items():
        yield f"kept/{name}", float(value), 0


def _flat(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", str(value)


def _key(name: str) -> str:
    """MLflow takes letters, digits and a few signs."""
    return re.sub(r"[^\w./ -]", "_", name)


def _parts(values: list[Any], size: int) -> Iterator[list[Any]]:
    return (values[start : start + size] for start in range(0, len(values), size))
