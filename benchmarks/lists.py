"""What the lists are worth on a log, without a model of sequences: `python -m benchmarks.lists --config FILE`.

Runs the jobs that the lists need (`ingest`, `tokenize_items`, `build_neighbours`, `build_candidate_features`,
`train_list_ranker`, `recommend`) and prints, per task and filter, NDCG@50 of the published lists beside the best simple
reference, the difference with its interval and p-value, and the seconds of each job. Then, of the held-out users of the
period before, what a perfect ranking of the candidates would reach, and which source finds what they took.
`--results FILE` keeps all of it for `docs/results/lists.md` (`make results`).
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.about import about_run
from benchmarks.list_ceiling import ceiling
from benchmarks.lists_page import HEADS
from benchmarks.markdown import p_value, table
from precise_core.command import command_parser, flags_of, overrides_of
from precise_core.config import load_config
from precise_core.evaluation.names import NDCG_GAIN, ORACLE
from precise_core.evaluation.night import offline_evaluation, recommendations_rows, references
from precise_core.evaluation.protocol import evaluate_ranking
from precise_core.evaluation.published_lists import Bar
from precise_core.intake.chosen_sizes import sized
from precise_core.run.job import Job
from precise_core.settings import Settings

JOBS = ("ingest", "tokenize_items", "build_neighbours", "build_candidate_features", "train_list_ranker", "recommend")


def main(argv: Sequence[str] | None = None) -> None:
    parser = command_parser("lists", __doc__)
    parser.prog = "python -m benchmarks.lists"
    parser.add_argument("--results", type=Path, help="a file under benchmarks/results/lists")
    parser.add_argument(
        "--first", choices=JOBS, default=JOBS[0], help="job to go on from, in a warehouse that is there"
    )
    arguments = parser.parse_args(argv)
    written = load_config(arguments.config, Settings, overrides_of(arguments))
    seconds = {}
    for name in JOBS[JOBS.index(arguments.first) :]:
        started = time.monotonic()
        if importlib.import_module(f"jobs.{name}").main(flags_of(arguments, overrides_of(arguments))):
            raise SystemExit(f"{name} failed")
        seconds[name] = time.monotonic() - started
    print(", ".join(f"{name} {spent:.0f} s" for name, spent in seconds.items()), f"load {os.getloadavg()[0]:.1f}")
    job = Job("lists", sized(written), argparse.Namespace())
    rows, reached = compared(job), ceiling(job)
    print("\n".join([*table(HEADS, rows, names=2), "", reached]))
    if arguments.results:
        found = {"seconds": seconds, "compared": rows, "ceiling": reached.splitlines()}
        kept = about_run("benchmarks.lists", arguments) | found
        arguments.results.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def compared(job: Job) -> list[list[str]]:
    """Cells of a table, a row per task and filter."""
    evaluation, rows = offline_evaluation(job, job.settings.task_names), []
    for task in job.settings.task_names:
        simple, question = references(job, evaluation, task), evaluation.question(task)
        bar = Bar.of(evaluate_ranking(simple, question), simple.keys() - {ORACLE}, question)
        found = recommendations_rows(job, evaluation, task, bar)
        for gain in (row for row in found if row["metric"] == NDCG_GAIN):
            ours = next(
                row["value"]
                for row in found
                if (row["metric"], row["k"], row["item_group"]) == ("ndcg", gain["k"], "all")
                and (row["system"], row["user_filter"]) == (gain["system"], gain["user_filter"])
            )
            rows.append(
                [
                    *(task, gain["user_filter"], f"{ours:.4f}", f"{gain['reference']} {ours - gain['value']:.4f}"),
                    f"{gain['value']:+.4f} [{gain['ci_low']:+.4f}, {gain['ci_high']:+.4f}]",
                    *(p_value(gain["p_value"]), f"{gain['users']:,}"),
                ]
            )
    return rows


if __name__ == "__main__":
    main()
