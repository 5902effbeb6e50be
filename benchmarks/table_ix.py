"""Table IX of a warehouse: `python -m benchmarks.table_ix --config conf/ranking_synthetic.yaml`.

Trains the ranking model alone, with PRECISE-UT, with PRECISE, and with each injection alone, once per seed, on the
`ranking_features` that a night left, and compares them on the impressions of the test split. Two questions: with the
discrete features alone, as the ranking model of the paper has them (VI-C), and with the counts of a user's history
beside them. Prints the tables, writes one JSON file, and renders docs/results.md from all such files.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from argparse import Namespace
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import results_page
from benchmarks.ranking_page import section
from precise_core.config import load_config
from precise_core.evaluation.impressions import ImpressionTask, compare_impressions, evaluate_impressions
from precise_core.evaluation.night import impressions_to_test_on
from precise_core.experiments.machine import machine
from precise_core.intake.chosen_sizes import sized
from precise_core.intake.read import describe_source
from precise_core.ranking.data import RankingData
from precise_core.ranking.night import ranking_slice, ranking_tasks, read_slice
from precise_core.ranking.train import score, train_ranker
from precise_core.ranking.variants import Variant, variants_of
from precise_core.run.code import code_version
from precise_core.run.job import Job
from precise_core.settings import Settings
from schemas import columns as c

METRICS = ("auc", "gauc", "log_loss", "calibration_error")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", required=True)
    parser.add_argument("--set", action="append", default=[], metavar="a.b=c", help="override one key")
    parser.add_argument("--seeds", type=int, nargs="+", help="one training per variant and seed; the configuration's")
    parser.add_argument("--results", type=Path, help="JSON file to write; benchmarks/results/ranking/<name>.json")
    arguments = parser.parse_args(argv)
    settings = sized(load_config(arguments.config, Settings, arguments.set))
    found = measure(settings, arguments.seeds or [settings.seed], arguments.config)
    file = arguments.results or results_page.RANKING / f"{settings.name}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(found, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    print(section(found))
    if not arguments.results:
        results_page.main()


def measure(settings: Settings, seeds: Sequence[int], config: str) -> dict[str, Any]:
    """Everything the page shows of one warehouse."""
    job = Job("table_ix", settings, Namespace())
    tasks = ranking_tasks(job)
    data = {task: RankingData.from_arrow(read_slice(job, ranking_slice(job, task))) for task in tasks}
    tested = impressions_to_test_on(job, tasks)
    task = ImpressionTask(
        task=tasks[-1],
        as_of=settings.as_of,
        user_ids_I=np.asarray(tested[c.USER_ID].to_pandas()),
        labels_I=tested[c.LABEL].to_numpy(),
        samples=settings.evaluation.bootstrap_samples,
        seed=settings.seed,
    )
    test = {name: _rows(rows, tested[c.IMPRESSION_ID].to_pylist()) for name, rows in data.items()}
    counts = sorted(data[tasks[0]].dense)
    questions = [
        {"features": features, **_question(settings, seeds, data, test, task, leave_out)}
        for features, leave_out in (("discrete", counts), ("discrete and dense", []))
    ]
    learned = data[tasks[-1]].split("train")
    return {
        "name": settings.name,
        "data": describe_source(settings.source),
        "config": config,
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "code_version": code_version(),
        "seeds": list(seeds),
        "reference": c.DCN,
        "impressions": {"train": len(learned), "test": len(task.labels_I), "taken": float(task.labels_I.mean())},
        "users": len(np.unique(task.user_ids_I)),
        "without_vectors": {name: float(np.isnan(rows.scores_I).mean()) for name, rows in test.items()},
        "questions": questions,
    }


def _rows(data: RankingData, impression_ids: Sequence[str]) -> RankingData:
    place = {name: row for row, name in enumerate(data.impression_ids_I)}
    return data.take(np.array([place[name] for name in impression_ids], np.int64))


def _question(
    settings: Settings,
    seeds: Sequence[int],
    data: dict[str, RankingData],
    test: dict[str, RankingData],
    task: ImpressionTask,
    leave_out: Sequence[str],
) -> dict[str, Any]:
    """Figures of every variant, their spread over seeds, and the paired differences to the plain DCN."""
    own = settings.model_copy(update={"ranker": settings.ranker.model_copy(update={"leave_out": tuple(leave_out)})})
    systems = {}
    for variant in variants_of(list(data), ablations=True):
        name = variant.task
        of_seeds = [probabilities(own, seed, variant, data[name], test[name], name) for seed in seeds]
        systems[variant.system] = np.stack(of_seeds)
        print(f"{variant.system}: trained {len(seeds)} times", flush=True)
    return {
        "figures": [figure for name, of_seeds in systems.items() for figure in _figures(name, of_seeds, task)],
        "differences": compare_impressions(systems, c.DCN, task),
    }


def probabilities(
    settings: Settings, seed: int, variant: Variant, data: RankingData, test: RankingData, task: str
) -> np.ndarray:
    """Of the impressions of ``test`` [B], by a model trained on the other splits of ``data``."""
    with tempfile.TemporaryDirectory() as folder:
        ranker = train_ranker(
            data.split("train"),
            data.split("validation"),
            dcn=variant.dcn(settings.dcn),
            config=settings.ranker,
            use_vectors=variant.use_vectors,
            seed=seed,
            out=folder,
            parent={"task": task},
        )
        return score(ranker, test)


def _figures(system: str, probabilities_SI: np.ndarray, task: ImpressionTask) -> list[dict[str, Any]]:
    values: dict[str, list[float]] = {metric: [] for metric in METRICS}
    for of_one_I in probabilities_SI:
        for row in evaluate_impressions({system: of_one_I}, task):
            values[row["metric"]].append(row["value"])
    return [
        {
            "system": system,
            "metric": metric,
            "mean": float(np.mean(of_seeds)),
            "deviation": float(np.std(of_seeds, ddof=1)) if len(of_seeds) > 1 else None,
        }
        for metric, of_seeds in values.items()
    ]


if __name__ == "__main__":
    main()
