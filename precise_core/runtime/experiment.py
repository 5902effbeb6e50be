"""Train the systems of an experiment and ask all of them the same questions."""

from __future__ import annotations

import hashlib
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from precise_core.errors import NothingToLearnError
from precise_core.evaluation.blend import Blend
from precise_core.evaluation.config import BlendConfig
from precise_core.evaluation.protocol import USER_FILTERS, EvaluationResult, MetricKey, evaluate_ranking
from precise_core.evaluation.references import Scorer
from precise_core.evaluation.seeds import compare_over_seeds, spread_over_seeds
from precise_core.features.config import ALL_TASK, LEAVE_ONE_OUT
from precise_core.runtime import universal
from precise_core.runtime.blending import Blending
from precise_core.runtime.checkpoints import item_catalog, pinned_snapshot
from precise_core.runtime.code_version import code_version
from precise_core.runtime.job import Job
from precise_core.runtime.machine import machine
from precise_core.runtime.offline_evaluation import OfflineEvaluation
from precise_core.settings import Settings
from precise_core.sources.read import describe_source
from precise_core.training.checkpoint import Checkpoint
from precise_core.training.targeted import train_targeted
from schemas import ITEM_TOKENS, TRAINING_WINDOWS, Table


@dataclass(frozen=True)
class Trained:
    """One training of one system.

    Attributes:
        model_version: Its checkpoint.
        seed: Of the training.
        task: What it was trained for.
        seconds: Wall time, validation included.
        sequences_per_second: Median over the training's log.
        best_epoch: The epoch that was kept.
        validation: Figures of that epoch.
    """

    model_version: str
    seed: int
    task: str
    seconds: float
    sequences_per_second: float
    best_epoch: int
    validation: Mapping[str, float]


@dataclass
class ExperimentResult:
    """Everything an experiment found; ``as_json`` is what the results page is made from."""

    trained: dict[str, list[Trained]] = field(default_factory=dict)
    blends: list[dict[str, Any]] = field(default_factory=list)
    results: dict[str, list[EvaluationResult]] = field(default_factory=dict)

    def add(self, place: int, results: Mapping[str, EvaluationResult]) -> None:
        """Put the figures of some systems, by task, beside those that are there for the seed in this place."""
        for task, result in results.items():
            of_task = self.results.setdefault(task, [])
            while len(of_task) <= place:
                of_task.append(EvaluationResult(result.user_rows))
            of_task[place].rows += result.rows
            of_task[place].per_user |= result.per_user

    def as_json(self, settings: Settings) -> dict[str, Any]:
        """Plain values: training figures, every metric with its spread over seeds, paired differences."""
        samples = settings.evaluation.bootstrap_samples
        tasks = {}
        for task, results in self.results.items():
            spread = [{**key._asdict(), **asdict(value)} for key, value in spread_over_seeds(results).items()]
            users = {MetricKey(*(row[name] for name in MetricKey._fields)): row["users"] for row in results[0].rows}
            for row in spread:
                row["deviation"] = row["deviation"] if row["seeds"] > 1 else None  # NaN is no JSON
                row["users"] = users.get(MetricKey(*(row[name] for name in MetricKey._fields)))
            compared = compare_over_seeds(results, settings.experiment.reference, samples=samples, seed=settings.seed)
            tasks[task] = {"figures": spread, "differences": compared}
        trained = {name: [asdict(training) for training in of_name] for name, of_name in self.trained.items()}
        about = {"name": settings.name, "title": settings.experiment.title, "data": describe_source(settings.source)}
        made = {"date": datetime.now(UTC).date().isoformat(), "machine": machine(), "code_version": code_version()}
        asked = {"seeds": settings.experiment.seeds, "reference": settings.experiment.reference}
        return {
            **about,
            **made,
            **asked,
            "split": settings.windows.split,
            "trained": trained,
            "blends": self.blends,
            "tasks": tasks,
        }


class Questions:
    """What every system of an experiment is asked, and how it answers.

    Args:
        job: Of the experiment; the events it reads are those all systems are asked about.
    """

    def __init__(self, job: Job) -> None:
        self._job, self._evaluation = job, OfflineEvaluation(job)
        self._blendings: dict[str, Blending] = {}
        self.blends: list[dict[str, Any]] = []
        self._tasks = job.settings.experiment.tasks
        # Leave-one-out filters nothing; a test period asks for new items apart.
        is_by_time = job.settings.windows.split != LEAVE_ONE_OUT
        self._filters = USER_FILTERS if is_by_time else USER_FILTERS[:1]

    def ask_references(self) -> dict[str, EvaluationResult]:
        """By task, the figures of the simple references."""
        return {task: self._ask(task, self._evaluation.references(task)) for task in self._tasks}

    def ask(
        self, job: Job, name: str, checkpoints: Mapping[str, Checkpoint], blend: BlendConfig
    ) -> dict[str, EvaluationResult]:
        """By task, the figures of one system, and of the same blended with the users' own history where asked for.

        Args:
            job: Of the system: its catalog is read.
            name: Of the system.
            checkpoints: By task. A task without one is asked of the universal checkpoint, with whole histories; a
                targeted one reads the history of its task.
            blend: What to choose the blend from, on validation users.
        """
        results = {}
        for task in self._tasks:
            history = task if task in checkpoints else ALL_TASK
            checkpoint, catalog = checkpoints[history], item_catalog(job, checkpoints[history])
            popular = self._evaluation.most_popular(task)
            systems = {name: self._evaluation.encoded(checkpoint, catalog, history, popular)}
            if blend.weights:
                choice = self._blending(task).choose(blend, checkpoint, catalog, history)
                own = self._evaluation.own_history(task, choice.days)
                systems[f"{name} + history"] = Blend(systems[name], own, choice.weight)
                self.blends.append({"system": name, "task": task, "seed": job.settings.seed, **asdict(choice)})
            results[task] = self._ask(task, systems)
        return results

    def _blending(self, task: str) -> Blending:
        """The validation question of a task, the same for every system and seed."""
        if task not in self._blendings:
            self._blendings[task] = Blending(self._job, task)
        return self._blendings[task]

    def _ask(self, task: str, systems: Mapping[str, Scorer]) -> EvaluationResult:
        return evaluate_ranking(systems, self._evaluation.question(task), user_filters=self._filters)


def train_system(job: Job, stage: str, tasks: Sequence[str]) -> tuple[dict[str, Checkpoint], list[Trained]]:
    """The checkpoints of one system by task, and what each training was like.

    Args:
        job: Of the system.
        stage: `universal`, or `targeted`: a checkpoint of its own for every task that has something to learn from.
        tasks: Those the system is asked about.
    """
    checkpoint, trained = train_universal_once(job)
    checkpoints, trainings = {ALL_TASK: checkpoint}, [trained]
    for task in tasks if stage == "targeted" else ():
        if task == ALL_TASK:
            continue
        try:
            checkpoints[task], trained = train_targeted_once(job, checkpoint, task)
        except NothingToLearnError as error:
            job.say(f"{task}: no checkpoint of its own, the universal one answers: {error}")
            continue
        trainings.append(trained)
    return checkpoints, trainings


def train_universal_once(job: Job) -> tuple[Checkpoint, Trained]:
    """The universal checkpoint of a job's configuration; trained unless an earlier run of it left one.

    Experiments take hours: one that was killed goes on with the system it was at.
    """
    settings = job.settings
    identity = {
        "model": settings.model.model_dump(mode="json"),
        "universal": settings.universal.model_dump(mode="json"),
        "text": settings.text.model_dump(mode="json"),
        **_what_trainings_read(job),
    }
    return _once(job, f"universal-{_digest(identity)}", ALL_TASK, lambda: universal.train(job)[0])


def train_targeted_once(job: Job, universal_checkpoint: Checkpoint, task: str) -> tuple[Checkpoint, Trained]:
    """The checkpoint of a task that starts from a system's universal one; trained unless an earlier run left it.

    With `targeted.warm_start: false` it starts from the untrained parent instead (PRECISE-TT of Table VII).

    Raises:
        NothingToLearnError: The task has no windows, or none to judge a training from scratch by.
    """
    settings = job.settings
    identity = {
        "universal": universal_checkpoint.model_version,
        "targeted": settings.targeted.model_dump(mode="json"),
        "task": task,
        **_what_trainings_read(job),
    }

    def train() -> Checkpoint:
        return train_targeted(
            config=settings.targeted,
            universal=universal_checkpoint,
            windows=pinned_snapshot(job, TRAINING_WINDOWS),
            catalog=item_catalog(job, universal_checkpoint),
            task=task,
            out=job.checkpoints,
            seed=settings.seed,
            parent_versions=job.input_versions,
            as_of=settings.as_of,
            progress=job.progress("windows"),
            feed_config=settings.feed,
        )

    return _once(job, f"targeted-{task}-{_digest(identity)}", task, train)


def _what_trainings_read(job: Job) -> dict[str, Any]:
    # By content: versions grow each time that systems with windows or texts of their own take turns in one table.
    tables = {table.name: _content(job, table) for table in (TRAINING_WINDOWS, ITEM_TOKENS)}
    return {"seed": job.settings.seed, "feed": job.settings.feed.bucket_batches, **tables}


def _content(job: Job, table: Table) -> str:
    """SHA-256 of the rows at the pinned version, whatever their order."""
    rows = job.warehouse.read_arrow(table, job.pin(table), table.stable_columns)
    digest = hashlib.sha256()
    for batch in rows.sort_by([(name, "ascending") for name in table.key]).combine_chunks().to_batches():
        digest.update(batch.serialize())
    return digest.hexdigest()


def _once(job: Job, key: str, task: str, train: Callable[[], Checkpoint]) -> tuple[Checkpoint, Trained]:
    note = job.checkpoints / f"trained-{key}.json"
    if note.is_file():
        trained = Trained(**json.loads(note.read_text(encoding="utf-8")))
        return Checkpoint.open(job.checkpoints / trained.model_version), trained
    started = time.monotonic()
    checkpoint = train()
    seconds = time.monotonic() - started
    rates = [line["sequences_per_second"] for line in checkpoint.metrics_log() if "sequences_per_second" in line]
    manifest = checkpoint.manifest
    trained = Trained(
        model_version=checkpoint.model_version,
        seed=job.settings.seed,
        task=task,
        seconds=round(seconds, 1),
        sequences_per_second=round(statistics.median(rates), 1) if rates else 0.0,
        best_epoch=manifest.best_epoch,
        validation=manifest.metrics,
    )
    draft = note.with_suffix(".writing")
    draft.write_text(json.dumps(asdict(trained), indent=2), encoding="utf-8")
    draft.replace(note)
    return checkpoint, trained


def _digest(identity: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


def experiment_folder(settings: Settings) -> Path:
    """Where an experiment keeps its checkpoints and the configuration of each system."""
    return Path(settings.warehouse) / "experiment"


def what_jobs_read(settings: Settings) -> dict[str, Any]:
    """The part of the configuration that each preparing job depends on; None = the system does not need the job."""
    fusion, windows = settings.model.fusion, settings.windows.model_dump(mode="json")
    text = settings.text.model_dump(mode="json")
    needs_vectors = fusion.mode != "id" and fusion.token_init != "random"
    return {
        "ingest": {},
        "tokenize_items": text,
        "embed_tokens": {**text, "token_init": fusion.token_init} if needs_vectors else None,
        "build_windows": windows,
    }
