"""Train the systems of the configuration's `experiment` section and compare them on the same users.

Runs ingest, tokenize_items, embed_tokens and build_windows as each system needs them, trains every system once per
seed, ranks the whole catalog for every user, and writes one JSON file with all figures, their spread over seeds and the
paired differences to the reference system. The file is written anew after every system and names those that are still
to come; killed and started again the job goes on with the training it was at.
"""

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

from jobs import build_windows, embed_tokens, ingest, tokenize_items
from precise_core.artefacts import replace_file
from precise_core.command import DATA, flag
from precise_core.errors import ConfigError
from precise_core.evaluation.config import SystemConfig
from precise_core.evaluation.protocol import EvaluationResult
from precise_core.experiments.experiment import (
    ExperimentResult,
    Questions,
    experiment_folder,
    what_jobs_read,
    with_a_figure_per_line,
)
from precise_core.experiments.training_cache import Trained, train_system
from precise_core.operations.chain import Link, chain, chain_command
from precise_core.run.job import Job
from precise_core.run.progress import console
from precise_core.settings import Settings

# Of the first two only parts of the configuration decide what they write.
PREPARE = {
    "ingest": Link(ingest, ("source", "tasks")),
    "tokenize_items": Link(tokenize_items, ("source", "text", "as_of")),
    "embed_tokens": Link(embed_tokens),
    "build_windows": Link(build_windows),
}


@chain_command(DATA, flag("--results", "JSON file to write; <warehouse>/experiment/results.json", metavar="FILE"))
def main(settings: Settings, arguments: Namespace, _overrides: list[str]) -> int:
    if not settings.experiment.systems:
        raise ConfigError(f"--config {arguments.config}: experiment.systems is empty; name at least one system")
    default = experiment_folder(settings) / "results.json"
    return _experiment(settings, Path(arguments.results) if arguments.results else default)


def _experiment(settings: Settings, results_file: Path) -> int:
    experiment, result, prepared = settings.experiment, ExperimentResult(), dict[str, Any]()
    questions: Questions | None = None
    for number, name in enumerate(experiment.systems, start=1):
        console.print(f"[{number}/{len(experiment.systems)}] {name}", style="cyan", markup=False)
        own = settings.of_system(name)
        if code := _prepare(own, name, prepared):
            return code
        if questions is None:
            questions = Questions(_job(settings))
            questions.refuse_doubtful_order()
            result.blends, result.not_asked = questions.blends, questions.not_asked
            result.add(0, questions.ask_references())
        for place, seed in enumerate(experiment.seeds):
            job = _job(own.model_copy(update={"seed": seed}))
            answers, trained = _answers(job, name, experiment.systems[name], questions)
            result.trained.setdefault(name, []).extend(trained)
            result.add(place, answers)
            job.release()
        if number < len(experiment.systems):
            _write(result, settings, results_file)
    result.recall = questions.ask_recall() if questions else {}
    _write(result, settings, results_file)
    console.print(f"wrote {results_file}", markup=False)
    return 0


def _write(result: ExperimentResult, settings: Settings, results_file: Path) -> None:
    replace_file(results_file, with_a_figure_per_line(result.as_json(settings)) + "\n")


def _answers(
    job: Job, name: str, system: SystemConfig, questions: Questions
) -> tuple[dict[str, EvaluationResult], list[Trained]]:
    """What a system says to every question, and what its trainings were like."""
    if system.stage == "graph":
        return questions.ask_graph(job, name)
    training = train_system(job, system.stage, questions.tasks)
    return questions.ask(job, name, training, system.blend), list(training.trained)


def _job(settings: Settings) -> Job:
    return Job("run_experiment", settings, Namespace(), experiment_folder(settings) / "checkpoints")


def _prepare(own: Settings, name: str, prepared: dict[str, Any]) -> int:
    """Run the jobs whose part of the configuration differs from that of the system before."""
    file = experiment_folder(own) / f"{name}.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(own.model_dump(mode="json"), indent=1, ensure_ascii=False), encoding="utf-8")  # is YAML
    for job, part in what_jobs_read(own).items():
        if part is not None and prepared.get(job) != part:
            flags = ["--config", str(file)]
            if stopped := chain(own, [PREPARE[job]], flags, skip=job not in prepared):
                return stopped.code
            prepared[job] = part
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
