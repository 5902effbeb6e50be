"""The trainings of an experiment, each done once, by the first system that needs it.

Experiments take hours: one that was killed continues with the system it was at.
"""

from __future__ import annotations

import hashlib
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from precise_core.config.tasks import ALL_TASK
from precise_core.errors import NothingToLearnError
from precise_core.run.job import Job
from precise_core.store import below, store_at
from precise_core.store.local import replace_file
from precise_core.training.checkpoint import Checkpoint
from precise_core.training.night import targeted_inputs, universal_night
from precise_core.training.targeted import train_targeted
from schemas import ITEM_TOKENS, TRAINING_WINDOWS, Table

WHY_NOT_ALL = "a targeted system has models of single tasks; Universal Training alone is a system of its own"


@dataclass(frozen=True)
class Trained:
    """One training of one system: its checkpoint, and figures of the epoch that was kept."""

    model_version: str
    seed: int
    task: str
    seconds: float  # wall time, validation included
    sequences_per_second: float | None  # median over the training's log; None for a graph, which has no sequences
    best_epoch: int
    validation: Mapping[str, float]


@dataclass(frozen=True)
class SystemTraining:
    """The models of one system with one seed."""

    checkpoints: Mapping[str, Checkpoint]  # by task; a universal one is under `all`
    trained: Sequence[Trained]
    not_asked: Mapping[str, str]  # tasks the system has no model of, and why


def train_system(job: Job, stage: str, tasks: Sequence[str]) -> SystemTraining:
    """Train one system with the seed of the job's configuration.

    ``stage`` `universal`: one model for every task; `targeted`: one for every task but `all` that has something to
    learn from, started from the universal one; `task`: one from scratch for each of these.
    """
    if stage == "task":
        return _of_each_task(tasks, lambda task: train_universal_once(job, task), [], {})
    checkpoint, universal_training = train_universal_once(job)
    if stage == "universal":
        return SystemTraining({ALL_TASK: checkpoint}, [universal_training], {})
    # Its figures on `all` would be those of the universal system.
    not_asked = {task: WHY_NOT_ALL for task in tasks if task == ALL_TASK}
    targeted = [task for task in tasks if task != ALL_TASK]
    return _of_each_task(
        targeted, lambda task: train_targeted_once(job, checkpoint, task), [universal_training], not_asked
    )


def _of_each_task(
    tasks: Sequence[str],
    train: Callable[[str], tuple[Checkpoint, Trained]],
    trained: list[Trained],
    not_asked: dict[str, str],
) -> SystemTraining:
    """Train a model for every task; extends ``trained``, and ``not_asked`` by the tasks without a model."""
    checkpoints = {}
    for task in tasks:
        try:
            checkpoints[task], training = train(task)
        except NothingToLearnError as error:
            not_asked[task] = f"it has no model of it: {error}"
            continue
        trained.append(training)
    return SystemTraining(checkpoints, trained, not_asked)


def train_universal_once(job: Job, task: str = ALL_TASK) -> tuple[Checkpoint, Trained]:
    """The universal checkpoint of a job's configuration; a ``task`` other than `all`: of its windows alone."""
    settings = job.settings
    sections = {name: getattr(settings, name).model_dump(mode="json") for name in ("model", "universal", "text")}
    key = training_key(job, "universal" if task == ALL_TASK else f"task-{task}", sections)
    return _once(job, key, task, lambda: universal_night(job, task)[0])


def train_targeted_once(job: Job, universal_checkpoint: Checkpoint, task: str) -> tuple[Checkpoint, Trained]:
    """The checkpoint of a task that starts from a system's universal one.

    With `targeted.warm_start: false` it starts from the untrained parent instead (PRECISE-TT of Table VII).
    """
    settings = job.settings
    identity = {"targeted": settings.targeted.model_dump(mode="json"), "task": task}
    identity |= {"universal": universal_checkpoint.model_version}

    def train() -> Checkpoint:
        inputs = replace(targeted_inputs(job, universal_checkpoint), task=task)
        return train_targeted(inputs, settings.targeted, universal_checkpoint)

    return _once(job, training_key(job, f"targeted-{task}", identity), task, train)


def training_key(job: Job, name: str, identity: Mapping[str, Any]) -> str:
    """``name`` and a digest of everything the training depends on: ``identity``, and what all trainings depend on."""
    # Tables by content: versions grow each time that systems with windows or texts of their own take turns in one.
    tables = {table.name: _content(job, table) for table in (TRAINING_WINDOWS, ITEM_TOKENS)}
    everything = {**identity, "seed": job.settings.seed, "feed": job.settings.feed.bucket_batches, **tables}
    return f"{name}-{hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()[:16]}"


def _content(job: Job, table: Table) -> str:
    """SHA-256 of the rows at the pinned version, whatever their order."""
    rows = job.warehouse.read_arrow(table, job.pin(table), table.stable_columns)
    digest = hashlib.sha256()
    for batch in rows.sort_by([(name, "ascending") for name in table.key]).combine_chunks().to_batches():
        digest.update(batch.serialize())
    return digest.hexdigest()


def _once(job: Job, key: str, task: str, train: Callable[[], Checkpoint]) -> tuple[Checkpoint, Trained]:
    file = trained_file(job, key)
    if file.is_file():
        trained = load_trained(file)
        return Checkpoint.open(below(job.checkpoints, trained.model_version)), trained
    started = time.monotonic()
    checkpoint = train()
    seconds = time.monotonic() - started
    rates = [line["sequences_per_second"] for line in checkpoint.metrics_log() if "sequences_per_second" in line]
    trained = Trained(
        model_version=checkpoint.model_version,
        seed=job.settings.seed,
        task=task,
        seconds=round(seconds, 3),
        sequences_per_second=round(statistics.median(rates), 1) if rates else 0.0,
        best_epoch=checkpoint.manifest.best_epoch,
        validation=checkpoint.manifest.metrics,
    )
    save_trained(file, trained)
    return checkpoint, trained


def trained_file(job: Job, key: str) -> Path:
    """The file with the figures of a finished training."""
    return store_at(job.checkpoints).scratch / f"trained-{key}.json"


def load_trained(file: Path) -> Trained:
    return Trained(**json.loads(file.read_text(encoding="utf-8")))


def save_trained(file: Path, trained: Trained) -> None:
    replace_file(file, json.dumps(asdict(trained), indent=2))
