"""Train the systems of an experiment and evaluate all of them on the same questions."""

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
from precise_core.evaluation.config import SystemConfig
from precise_core.evaluation.names import asked_at_the_target, reweighted, sum_of_seeds, with_history
from precise_core.evaluation.night import offline_evaluation, references
from precise_core.evaluation.protocol import USER_FILTERS, EvaluationResult, evaluate_ranking
from precise_core.evaluation.questions import OfflineEvaluation
from precise_core.evaluation.references import Scorer
from precise_core.evaluation.systems import EmbeddingScorer, encoded_system
from precise_core.experiments.blend import Blend, ValidationQuestion
from precise_core.experiments.ensembles import SumOfScores, reweigh
from precise_core.experiments.lightgcn import graph_system
from precise_core.experiments.machine import machine
from precise_core.experiments.recall_table import recall_figures
from precise_core.experiments.seeds import figures_over_seeds
from precise_core.experiments.training_cache import SystemTraining, Trained, train_system
from precise_core.intake.event_order import doubtful_order
from precise_core.intake.read import describe_source
from precise_core.run.code import code_version
from precise_core.run.job import Job
from precise_core.sequences.config import LEAVE_ONE_OUT
from precise_core.settings import Settings
from precise_core.store import store_at
from precise_core.store.local import replace_file
from precise_core.training.night import item_catalog
from schemas import EVENTS


@dataclass
class ExperimentResult:
    """The results of an experiment, from which the results page is made."""

    trained: dict[str, list[Trained]] = field(default_factory=dict)
    blends: list[dict[str, Any]] = field(default_factory=list)
    text_weights: list[dict[str, Any]] = field(default_factory=list)
    results: dict[str, list[EvaluationResult]] = field(default_factory=dict)
    recall: dict[str, Any] = field(default_factory=dict)
    not_asked: list[dict[str, str]] = field(default_factory=list)

    def add(self, seed_number: int, results: Mapping[str, EvaluationResult]) -> None:
        """Add the figures of some systems, by task, to those of the same seed."""
        for task, result in results.items():
            of_task = self.results.setdefault(task, [])
            while len(of_task) <= seed_number:
                of_task.append(EvaluationResult(result.user_rows))
            of_task[seed_number].rows += result.rows
            of_task[seed_number].per_user |= result.per_user

    def as_json(self, settings: Settings) -> dict[str, Any]:
        """Plain values: training figures, every metric with its spread over seeds, paired differences."""
        experiment, samples = settings.experiment, settings.evaluation.bootstrap_samples
        references = [experiment.reference, *experiment.also_against]
        return {
            "name": settings.name,
            "title": experiment.title,
            "data": describe_source(settings.source),
            "date": datetime.now(UTC).date().isoformat(),
            "machine": machine(),
            "code_version": code_version(),
            "seeds": experiment.seeds,
            "reference": experiment.reference,
            "split": settings.windows.split,
            "to_come": [name for name in experiment.systems if name not in self.trained],
            "trained": {name: [asdict(training) for training in of_name] for name, of_name in self.trained.items()},
            "not_asked": self.not_asked,
            "blends": self.blends,
            "text_weights": self.text_weights,
            "tasks": {
                task: figures_over_seeds(results, references, samples=samples, seed=settings.seed)
                for task, results in self.results.items()
            },
            "recall": self.recall,
        }

    def write(self, settings: Settings, file: Path) -> None:
        replace_file(file, diffable_json(self.as_json(settings)) + "\n")


class Questions:
    """Evaluates the systems of an experiment, all on the events that ``job``, the experiment's, reads.

    ``result`` has the figures so far.
    """

    def __init__(self, job: Job) -> None:
        self._job, self._experiment = job, job.settings.experiment
        self._validations: dict[str, ValidationQuestion] = {}
        self.result = ExperimentResult()
        self._scorers: dict[tuple[int, str], dict[str, EmbeddingScorer]] = {}  # by seed and task, then by name
        # Published leave-one-out figures come in two readings: nothing filtered, and seen items filtered.
        is_by_time = job.settings.windows.split != LEAVE_ONE_OUT
        self._filters = USER_FILTERS if is_by_time else USER_FILTERS[:2]

    @cached_property
    def _evaluation(self) -> OfflineEvaluation:
        return offline_evaluation(self._job, self._experiment.tasks)

    def refuse_doubtful_order(self) -> None:
        """Refuse a log whose order is not one of time."""
        if self._experiment.accept_doubtful_order:
            return
        events = self._job.read(EVENTS)
        if finding := doubtful_order(events, events.count()):
            raise DataError(
                f"events: {finding}; nothing is compared on it (experiment.accept_doubtful_order: true if it is right)"
            )

    def ask_references(self) -> None:
        """Evaluate the simple references, which are the same for every seed."""
        systems = {task: references(self._job, self._evaluation, task) for task in self._experiment.tasks}
        self.result.add(0, {task: self._ask(task, of_task) for task, of_task in systems.items()})

    def ask_system(self, job: Job, name: str, seed_number: int) -> None:
        """Train a system with the seed of its ``job``, and evaluate it on every task."""
        system = self._experiment.systems[name]
        if system.stage == "graph":
            answers, trained = self._ask_graph(job, name)
        else:
            training = train_system(job, system.stage, self._experiment.tasks)
            answers, trained = self._ask_models(job, name, training, system), list(training.trained)
        self.result.trained.setdefault(name, []).extend(trained)
        self.result.add(seed_number, answers)

    def ask_sums(self, name: str) -> None:
        """Evaluate the sum of a system over all seeds, and that of its reweighted halves, where they are configured."""
        for row in (name, reweighted(name)):
            for task in self._experiment.tasks if row in self._experiment.sums else ():
                scorers = [self._scorers.get((seed, task), {}).get(row) for seed in self._experiment.seeds]
                of_seeds = [scorer for scorer in scorers if scorer is not None]
                if len(of_seeds) == len(scorers):  # a task without a model has been left out
                    self.result.add(0, {task: self._ask(task, {sum_of_seeds(row): SumOfScores(of_seeds)})})

    def ask_recall(self) -> None:
        """Table VIII by task and kind of user, of the systems evaluated so far; nothing where it is not configured."""
        config, settings = self._experiment.recall, self._job.settings
        for task in self._experiment.tasks if config.ours else ():
            by_seed = [self._scorers.get((seed, task), {}) for seed in self._experiment.seeds]
            if any({*config.ours, *config.baseline} - set(scorers) for scorers in by_seed):
                self._job.say(f"{task}: no table of recall, because not every system has an answer to it")
                continue
            self.result.recall[task] = recall_figures(self._evaluation, task, by_seed, settings)

    def _ask_models(
        self, job: Job, name: str, system: SystemTraining, config: SystemConfig
    ) -> dict[str, EvaluationResult]:
        """By task, the figures of one system and, where configured, of the same blended with the users' own history or
        with other weights of its halves.

        Those of a model that reads times also as papers have them, asked when the truth happened.
        A universal checkpoint reads whole histories, that of a task the history of the task; a task without a model is
        left out.
        """
        results = {}
        for task, why in system.not_asked.items():
            self._leave_out(name, task, why)
        for task in (task for task in self._experiment.tasks if task not in system.not_asked):
            history = task if task in system.checkpoints else ALL_TASK
            checkpoint = system.checkpoints[history]
            catalog = item_catalog(job, checkpoint)
            popular = self._evaluation.most_popular(task)
            scorer = encoded_system(self._evaluation, checkpoint, catalog, history, popular)
            systems: dict[str, Scorer] = {name: scorer}
            if checkpoint.manifest.model.encoder.uses_times:
                systems[asked_at_the_target(name)] = encoded_system(
                    self._evaluation, checkpoint, catalog, history, popular, target_of=task
                )
            kept = self._scorers.setdefault((job.settings.seed, task), {})
            kept[name] = scorer
            if config.text_weights:
                other, found = reweigh(job, scorer, checkpoint, catalog, history, config.text_weights)
                systems[reweighted(name)] = kept[reweighted(name)] = other
                chosen = {"system": name, "task": task, "seed": job.settings.seed, **asdict(found)}
                self.result.text_weights.append(chosen)
            if config.blend.weights:
                choice = self._validation(task).choose(config.blend, checkpoint, catalog, history)
                own = self._evaluation.own_history(task, choice.days)
                systems[with_history(name)] = Blend(scorer, own, choice.weight)
                self.result.blends.append({"system": name, "task": task, "seed": job.settings.seed, **asdict(choice)})
            results[task] = self._ask(task, systems)
        return results

    def _ask_graph(self, job: Job, name: str) -> tuple[dict[str, EvaluationResult], list[Trained]]:
        """By task, the figures of LightGCN, trained on the task's users and items; and its trainings."""
        results, trainings = {}, []
        for task in self._experiment.tasks:
            try:
                scorer, trained = graph_system(job, self._evaluation, self._validation(task), task)
            except (NothingToLearnError, NothingToEvaluateError) as error:
                self._leave_out(name, task, str(error))
                continue
            self._scorers.setdefault((job.settings.seed, task), {})[name] = scorer
            results[task] = self._ask(task, {name: scorer})
            trainings.append(trained)
        return results, trainings

    def _leave_out(self, name: str, task: str, why: str) -> None:
        self._job.say(f"{task}: not asked of {name}: {why}")
        note = {"system": name, "task": task, "why": why}
        if note not in self.result.not_asked:  # the same for every seed
            self.result.not_asked.append(note)

    def _validation(self, task: str) -> ValidationQuestion:
        """The validation question of a task, the same for every system and seed."""
        if task not in self._validations:
            self._validations[task] = ValidationQuestion(self._job, task)
        return self._validations[task]

    def _ask(self, task: str, systems: Mapping[str, Scorer]) -> EvaluationResult:
        return evaluate_ranking(systems, self._evaluation.question(task), user_filters=self._filters)


def diffable_json(value: Any, indent: str = "") -> str:
    """JSON with every innermost object or list on one line: a changed figure is one line of a diff."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    if not any(isinstance(part, (dict, list)) for part in inner):
        return json.dumps(value)
    deeper = indent + " "
    if isinstance(value, dict):
        start, end = "{", "}"
        parts = [f"{json.dumps(key)}: {diffable_json(part, deeper)}" for key, part in value.items()]
    else:
        start, end = "[", "]"
        parts = [diffable_json(part, deeper) for part in value]
    return start + ",".join(f"\n{deeper}{part}" for part in parts) + f"\n{indent}{end}"


def experiment_folder(settings: Settings) -> Path:
    """Where an experiment keeps its checkpoints and the configuration of each system: always on this machine."""
    return store_at(settings.warehouse).scratch / "experiment"


def what_jobs_read(settings: Settings) -> dict[str, Any]:
    """The part of the configuration that each preparing job depends on; None = the system does not need the job."""
    fusion, windows = settings.model.fusion, settings.windows.model_dump(mode="json")
    text = settings.text.model_dump(mode="json")
    start = {"token_init", "trained_layers"} if fusion.has_text_layers else {"token_init"}
    needs_vectors = fusion.mode != "id" and fusion.token_init != "random"
    return {
        "ingest": {},
        "tokenize_items": text,
        "embed_tokens": {**text, **fusion.model_dump(include=start)} if needs_vectors else None,
        "build_windows": windows,
    }
