"""Simulated days: which ones to run, and the share of exposed items that the model in use was trained on (Fig. 4a)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import numpy as np
import torch
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from precise_core.config.tasks import ALL_TASK
from precise_core.errors import ConfigError
from precise_core.run.job import Job
from precise_core.settings import Settings
from precise_core.tasks import task_filter
from precise_core.training.checkpoint import Checkpoint
from precise_core.training.night import checkpoint_in_use
from precise_core.warehouse.instants import instant
from precise_core.warehouse.tables import Warehouse
from schemas import EVENTS, IMPRESSIONS, ITEM_VOCABULARY, TRAINING_DAYS
from schemas import columns as c

_ONE_DAY = timedelta(days=1)


@dataclass(frozen=True)
class Exposure:
    """Distinct items and exposures of a day, and those of items that Universal Training has not trained."""

    exposed_items: int
    untrained_items: int
    exposures: int
    untrained_exposures: int

    @property
    def rates(self) -> tuple[float | None, float | None]:
        """The untrained share of the items and of the exposures; None without any."""
        if not self.exposures:
            return None, None
        return self.untrained_items / self.exposed_items, self.untrained_exposures / self.exposures


def nights(first: date, last: date, step_days: int) -> list[datetime]:
    """The instants (midnight, UTC) of the nights from ``first`` to ``last``, both included."""
    if first > last:
        raise ConfigError(f"--from {first} is after --to {last}")
    if step_days < 1:
        raise ConfigError(f"--step-days {step_days}: at least 1 is needed")
    days = range(0, (last - first).days + 1, step_days)
    return [datetime.combine(first, time(), UTC) + timedelta(days=day) for day in days]


def is_recorded(settings: Settings) -> bool:
    """Whether the night ``settings.as_of`` is in ``training_days`` already; days of another policy are refused."""
    rows = [row for row in _recorded(Warehouse(settings.warehouse)) if row[c.TASK] == ALL_TASK]
    policy = settings.targeted.warm_up_every_days
    others = sorted({row["warm_up_every_days"] for row in rows} - {policy})
    if others:
        raise ConfigError(
            f"training_days in {settings.warehouse} has days with targeted.warm_up_every_days {others}, "
            f"now it is {policy}; take a warehouse per policy"
        )
    return any(row[c.AS_OF] == settings.as_of for row in rows)


def record_day(job: Job) -> None:
    """Add the figures of this night's day to ``training_days``, one row per task that has a model."""
    as_of, tasks = job.settings.as_of, job.settings.task_names
    rows = []
    for task in tasks:
        checkpoint = checkpoint_in_use(job, task)
        if checkpoint is None:
            job.say(f"{task}: no checkpoint in use, no figure")
            continue
        exposed_by, exposed = _exposed(job, task)
        row = day_row(job.settings, task, checkpoint, exposed_by, exposure_of(exposed, checkpoint))
        job.say(_in_words(row))
        rows.append(row)
    others = [row for row in _recorded(job.warehouse) if row[c.AS_OF] != as_of]
    job.write_records(TRAINING_DAYS, [*others, *rows])
    job.balance("tasks", rows_in=len(tasks), rows_out=len(rows), rows_rejected=len(tasks) - len(rows))


def exposure_of(exposed: DataFrame, checkpoint: Checkpoint) -> Exposure:
    """Count what Universal Training had not trained at the last warm-up of the checkpoint in use.

    ``exposed`` has ``item_index`` (null = not in the vocabulary) and ``exposures`` per item.
    """
    counted = exposed.select(c.ITEM_INDEX, "exposures").toPandas()
    index = counted[c.ITEM_INDEX].fillna(0).to_numpy(np.int64)  # the padding row is never trained
    exposures = counted["exposures"].to_numpy(np.int64)
    is_untrained = ~_is_trained(checkpoint.is_universal_trained(), index)
    return Exposure(len(index), int(is_untrained.sum()), int(exposures.sum()), int(exposures[is_untrained].sum()))


def _is_trained(is_trained_V: torch.Tensor, index: np.ndarray) -> np.ndarray:
    """Of some ``item_index``; False for items that are newer than ``is_trained_V``."""
    inside = index < len(is_trained_V)
    return inside & is_trained_V.numpy()[np.where(inside, index, 0)]


def day_row(
    settings: Settings, task: str, checkpoint: Checkpoint, exposed_by: str, exposure: Exposure
) -> dict[str, Any]:
    """A row of ``training_days``; the universal model counts as warmed up when it was trained."""
    manifest = checkpoint.manifest
    item_rate, exposure_rate = exposure.rates
    is_universal = manifest.stage == "universal"
    return {
        c.AS_OF: settings.as_of,
        c.TASK: task,
        "warm_up_every_days": settings.targeted.warm_up_every_days,
        c.MODEL_VERSION: checkpoint.model_version,
        "universal_version": checkpoint.model_version if is_universal else manifest.universal,
        "warm_up_as_of": manifest.as_of if is_universal else manifest.warm_up_as_of,
        "exposed_by": exposed_by,
        **asdict(exposure),
        "untrained_item_rate": item_rate,
        "untrained_exposure_rate": exposure_rate,
    }


def _exposed(job: Job, task: str) -> tuple[str, DataFrame]:
    """Exposures on the day after ``as_of``: impressions, or the task's events where there are none."""
    start, end = job.settings.as_of, job.settings.as_of + _ONE_DAY
    vocabulary = job.read(ITEM_VOCABULARY).select(c.ITEM_ID, c.ITEM_INDEX)
    impressions = job.read_optional(IMPRESSIONS)
    if impressions is not None:
        shown = _exposures_per_item(impressions, c.IMPRESSION_TS, start, end)
        if not shown.isEmpty():
            return "impressions", shown.join(vocabulary, on=c.ITEM_ID, how="left")
    events = job.read(EVENTS)
    if task != ALL_TASK:
        events = events.where(task_filter(job.settings.tasks[task]))
    return "events", _exposures_per_item(events, c.EVENT_TS, start, end).join(vocabulary, on=c.ITEM_ID, how="left")


def _exposures_per_item(rows: DataFrame, time_column: str, start: datetime, end: datetime) -> DataFrame:
    """``item_id`` and its number of ``rows`` (impressions or events) from ``start`` to before ``end``."""
    in_time = (F.col(time_column) >= instant(start)) & (F.col(time_column) < instant(end))
    return rows.where(in_time).groupBy(c.ITEM_ID).agg(F.count(F.lit(1)).alias("exposures"))


def _in_words(row: dict[str, Any]) -> str:
    if not row["exposures"]:
        return f"{row[c.TASK]}: nothing was exposed on {row[c.AS_OF]:%Y-%m-%d}"
    return (
        f"{row[c.TASK]}: {row['untrained_items']:,} of {row['exposed_items']:,} items exposed on "
        f"{row[c.AS_OF]:%Y-%m-%d} ({row['untrained_item_rate']:.1%}) not trained by Universal Training"
    )


def _recorded(warehouse: Warehouse) -> list[dict[str, Any]]:
    if not warehouse.exists(TRAINING_DAYS):
        return []
    rows: list[dict[str, Any]] = warehouse.read_arrow(TRAINING_DAYS, warehouse.version(TRAINING_DAYS)).to_pylist()
    return rows
