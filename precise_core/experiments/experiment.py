"""Train the systems of an experiment and ask all of them the same questions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from precise_core.config.tasks import ALL_TASK
from precise_core.errors import DataError, NothingToEvaluateError, NothingToLearnError
from precise_core.evaluation.config import BlendConfig
from precise_core.evaluation.names import with_history
from precise_core.evaluation.night import offline_evaluation, references
from precise_core.evaluation.protocol import USER_FILTERS, EvaluationResult, evaluate_ranking
from precise_core.evaluation.questions import OfflineEvaluation
from precise_core.evaluation.references import Scorer
from precise_core.evaluation.systems import EmbeddingScorer, encoded_system
from precise_core.experiments.blend import Blend
from precise_core.experiments.blending import Blending
from precise_core.experiments.lightgcn import graph_system
from precise_core.experiments.machine import machine
from precise_core.experiments.recall_table import recall_figures
from precise_core.experiments.seeds import figures_over_seeds
from precise_core.experiments.trainings import SystemTraining, Trained
from precise_core.intake.event_order import doubtful_order
from precise_core.intake.read import describe_source
from precise_core.run.code import code_version
from precise_core.run.job import Job
from precise_core.sequences.config import LEAVE_ONE_OUT
from precise_core.settings import Settings
from precise_core.training.checkpoints import item_catalog
from schemas import EVENTS


@dataclass
class ExperimentResult:
    """Everything an experiment found; ``as_json`` is what the results page is made from."""

    trained: dict[str, list[Trained]] = field(default_factory=dict)
    blends: list[dict[str, Any]] = field(default_factory=list)
    results: dict[str, list[EvaluationResult]] = field(default_factory=dict)
    recall: dict[str, Any] = field(default_factory=dict)
    not_asked: list[dict[str, str]] = field(default_factory=list)

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
        reference, others = settings.experiment.reference, settings.experiment.also_against
        tasks = {
            task: figures_over_seeds(results, [reference, *others], samples=samples, seed=settings.seed)
            for task, results in self.results.items()
        }
        trained = {name: [asdict(training) for training in of_name] for name, of_name in self.trained.items()}
        about = {"name": settings.name, "title": settings.experiment.title, "data": describe_source(settings.source)}
        made = {"date": datetime.now(UTC).date().isoformat(), "machine": machine(), "code_version": code_version()}
        asked = {"seeds": settings.experiment.seeds, "reference": reference}
        return {
            **about,
            **made,
            **asked,
            "split": settings.windows.split,
            "to_come": [name for name in settings.experiment.systems if name not in self.trained],
            "trained": trained,
            "not_asked": self.not_asked,
            "blends": self.blends,
            "tasks": tasks,
            "recall": self.recall,
        }


class Questions:
    """What every system of an experiment is asked, and how it answers.

    Args:
        job: Of the experiment; the events it reads are those all systems are asked about.

    Attributes:
        evaluation: What is asked.
        tasks: Of which.
        blends: The blends that were chosen.
        scorers: Every system that was asked, by seed and task, and then by name.
        not_asked: Which system has no answer to a task, and why.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._blendings: dict[str, Blending] = {}
        self.scorers: dict[tuple[int, str], dict[str, EmbeddingScorer]] = {}
        self.blends: list[dict[str, Any]] = []
        self.not_asked: list[dict[str, str]] = []
        self.tasks = job.settings.experiment.tasks
        # Published leave-one-out figures come in two readings: nothing filtered, and seen items filtered.
        is_by_time = job.settings.windows.split != LEAVE_ONE_OUT
        self._filters = USER_FILTERS if is_by_time else USER_FILTERS[:2]

    @cached_property
    def evaluation(self) -> OfflineEvaluation:
        return offline_evaluation(self._job, self.tasks)

    def refuse_doubtful_order(self) -> None:
        """Compare nothing on a log whose order is not one of time.

        Raises:
            DataError: Nearly all users' items ascend or descend by item id, or have one instant.
        """
        if self._job.settings.experiment.accept_doubtful_order:
            return
        events = self._job.read(EVENTS)
        if finding := doubtful_order(events, events.count()):
            raise DataError(
                f"events: {finding}; nothing is compared on it (experiment.accept_doubtful_order: true if it is right)"
            )

    def ask_references(self) -> dict[str, EvaluationResult]:
        """By task, the figures of the simple references."""
        return {task: self._ask(task, references(self._job, self.evaluation, task)) for task in self.tasks}

    def ask(self, job: Job, name: str, system: SystemTraining, blend: BlendConfig) -> dict[str, EvaluationResult]:
        """By task, the figures of one system, and of the same blended with the users' own history where asked for.

        Args:
            job: Of the system: its catalog is read.
            name: Of the system.
            system: What was trained. A universal checkpoint reads whole histories, that of a task the history of the
                task; a task without a model is not asked.
            blend: What to choose the blend from, on validation users.
        """
        results = {}
        for task, why in system.not_asked.items():
            self._leave_out(name, task, why)
        for task in (task for task in self.tasks if task not in system.not_asked):
            history = task if task in system.checkpoints else ALL_TASK
            checkpoint = system.checkpoints[history]
            catalog = item_catalog(job, checkpoint)
            popular = self.evaluation.most_popular(task)
            scorer = encoded_system(self.evaluation, checkpoint, catalog, history, popular)
            systems: dict[str, Scorer] = {name: scorer}
            self.scorers.setdefault((job.settings.seed, task), {})[name] = scorer
            if blend.weights:
                choice = self._blending(task).choose(blend, checkpoint, catalog, history)
                own = self.evaluation.own_history(task, choice.days)
                systems[with_history(name)] = Blend(scorer, own, choice.weight)
                self.blends.append({"system": name, "task": task, "seed": job.settings.seed, **asdict(choice)})
            results[task] = self._ask(task, systems)
        return results

    def ask_graph(self, job: Job, name: str) -> tuple[dict[str, EvaluationResult], list[Trained]]:
        """By task, the figures of LightGCN, trained on the task's users and items; and what the trainings were like."""
        results, trainings = {}, []
        for task in self.tasks:
            try:
                scorer, trained = graph_system(job, self.evaluation, self._blending(task), task)
            except (NothingToLearnError, NothingToEvaluateError) as error:
                self._leave_out(name, task, str(error))
                continue
            self.scorers.setdefault((job.settings.seed, task), {})[name] = scorer
            results[task] = self._ask(task, {name: scorer})
            trainings.append(trained)
        return results, trainings

    def ask_recall(self) -> dict[str, Any]:
        """Table VIII by task and kind of user, of the systems asked so far; empty where it is not asked for."""
        config, settings = self._job.settings.experiment.recall, self._job.settings
        if not config.ours:
            return {}
        tables: dict[str, Any] = {}
        for task in self.tasks:
            by_seed = [self.scorers.get((seed, task), {}) for seed in settings.experiment.seeds]
            if any({*config.ours, *config.baseline} - set(scorers) for scorers in by_seed):
                self._job.say(f"{task}: no table of recall, because not every system has an answer to it")
                continue
            tables[task] = recall_figures(self.evaluation, task, by_seed, settings)
        return tables

    def _leave_out(self, name: str, task: str, why: str) -> None:
        self._job.say(f"{task}: not asked of {name}: {why}")
        note = {"system": name, "task": task, "why": why}
        if note not in self.not_asked:  # every seed says the same
            self.not_asked.append(note)

    def _blending(self, task: str) -> Blending:
        """The validation question of a task, the same for every system and seed."""
        if task not in self._blendings:
            self._blendings[task] = Blending(self._job, task)
        return self._blendings[task]

    def _ask(self, task: str, systems: Mapping[str, Scorer]) -> EvaluationResult:
        return evaluate_ranking(systems, self.evaluation.question(task), user_filters=self._filters)


def with_a_figure_per_line(value: Any, indent: str = "") -> str:
    """JSON in which whatever holds no other object or list takes one line: a changed figure is one line of a diff."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    if not any(isinstance(part, (dict, list)) for part in inner):
        return json.dumps(value)
    deeper = indent + " "
    if isinstance(value, dict):
        start, end = "{", "}"
        parts = [f"{json.dumps(key)}: {with_a_figure_per_line(part, deeper)}" for key, part in value.items()]
    else:
        start, end = "[", "]"
        parts = [with_a_figure_per_line(part, deeper) for part in value]
    return start + ",".join(f"\n{deeper}{part}" for part in parts) + f"\n{indent}{end}"


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
