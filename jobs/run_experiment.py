"""Train the systems of the configuration's `experiment` section and compare them on the same users.

Runs ingest, tokenize_items, embed_tokens and build_windows as each system needs them, trains every system once per
seed, ranks the whole catalog for every user. No size is chosen by the log: what the file leaves out has its default.
The results are written anew after every system and name those that are still to come; killed and started again the job
goes on with the training it was at.

Reads the source. Writes tables of its own warehouse, <warehouse>/experiment, and one JSON file with all figures, their
spread over seeds and the paired differences to the reference system.
"""

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

from jobs import build_windows, embed_tokens, ingest, tokenize_items
from precise_core.artefacts import CHECKPOINTS
from precise_core.command import DATA, flag, overrides_of
from precise_core.config import over
from precise_core.errors import ConfigError
from precise_core.experiments.experiment import Questions, experiment_folder, what_jobs_read
from precise_core.operations.chain import Link, chain, chain_command
from precise_core.run.job import Job
from precise_core.run.progress import console
from precise_core.settings import Settings

# The output of the first two depends on parts of the configuration only.
PREPARE = {
    "ingest": Link(ingest, ("source", "tasks")),
    "tokenize_items": Link(tokenize_items, ("source", "text", "as_of")),
    "embed_tokens": Link(embed_tokens),
    "build_windows": Link(build_windows),
}


def _require_systems(settings: Settings, arguments: Namespace) -> None:
    if not settings.experiment.systems:
        raise ConfigError(f"--config {arguments.config}: experiment.systems is empty; name at least one system")


@chain_command(
    DATA,
    flag("--results", "JSON file to write; <warehouse>/experiment/results.json", metavar="FILE"),
    overrides=lambda arguments: over(overrides_of(arguments), ["sizes=defaults"]),
    check=_require_systems,
)
def main(settings: Settings, arguments: Namespace, _overrides: list[str]) -> int:
    experiment, prepared = settings.experiment, dict[str, Any]()
    results_file = Path(arguments.results or experiment_folder(settings) / "results.json")
    questions: Questions | None = None
    for number, name in enumerate(experiment.systems, start=1):
        console.print(f"[{number}/{len(experiment.systems)}] {name}", style="cyan", markup=False)
        own = settings.of_system(name)
        if code := _prepare(own, name, prepared):
            return code
        if questions is None:  # they need tables that exist only now
            questions = Questions(_job(settings))
            questions.refuse_doubtful_order()
            questions.ask_references()
        for seed_number, seed in enumerate(experiment.seeds):
            job = _job(own.model_copy(update={"seed": seed}))
            questions.ask_system(job, name, seed_number)
            job.release()
        questions.ask_sums(name)
        if number == len(experiment.systems):
            questions.ask_recall()
        questions.result.write(settings, results_file)
    console.print(f"wrote {results_file}", markup=False)
    return 0


def _job(settings: Settings) -> Job:
    return Job("run_experiment", settings, Namespace(), experiment_folder(settings) / CHECKPOINTS)


def _prepare(own: Settings, name: str, prepared: dict[str, Any]) -> int:
    """Run the jobs whose part of the configuration differs from that of the previous system."""
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
