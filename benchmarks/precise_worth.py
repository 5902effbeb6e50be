"""What PRECISE is worth in the lists of a log: `python -m benchmarks.precise_worth --config FILE --seeds 17 18 19`.

Of each seed, in a warehouse of its own: a model of sequences trained and published as of the instant that the lists
learn from, as `recommendations.past_model: train` does on a first night, then a ranking model of lists with its scores
and candidates, and one without either. Prints what PRECISE adds to NDCG@50 on held-out users of the past period.
`--results FILE` keeps it for `docs/results/lists.md` (`make results`).
"""

from __future__ import annotations

import argparse
import importlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.about import about_run
from benchmarks.lists_page import WORTH_HEADS
from benchmarks.markdown import p_value, table
from jobs.run_night import MODELS
from precise_core import artefacts
from precise_core.command import command_parser, flags_of, overrides_of
from precise_core.config import load_config, over
from precise_core.intake.chosen_sizes import sized
from precise_core.recommendations.night import past_instant
from precise_core.recommendations.ranker_files import PublishedRanker
from precise_core.run.job import Job
from precise_core.settings import Settings

LISTS = ("tokenize_items", "build_neighbours", "build_candidate_features", "train_list_ranker")


def main(argv: Sequence[str] | None = None) -> None:
    parser = command_parser("precise_worth", __doc__)
    parser.prog = "python -m benchmarks.precise_worth"
    parser.add_argument("--seeds", type=int, nargs="+", default=[17, 18, 19])
    parser.add_argument("--work", type=Path, default=Path("build/precise_worth"), help="where the warehouses go")
    parser.add_argument("--results", type=Path, help="a file under benchmarks/results/lists")
    arguments = parser.parse_args(argv)
    started, rows = time.monotonic(), []
    for seed in arguments.seeds:
        rows += [[str(seed), *row] for row in _of_seed(arguments, seed)]
    print("\n".join(table(WORTH_HEADS, rows, names=3)))
    if arguments.results:
        flags = ["--seeds", *map(str, arguments.seeds)]
        kept = about_run("benchmarks.precise_worth", arguments, flags) | {"worth": rows}
        kept["seconds"] = {"all seeds": time.monotonic() - started}
        arguments.results.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def _of_seed(arguments: argparse.Namespace, seed: int) -> list[list[str]]:
    warehouse = arguments.work / f"{Path(arguments.config).stem}-{seed}"
    overrides = over(overrides_of(arguments), [f"seed={seed}", f"warehouse={warehouse}"])
    settings = load_config(arguments.config, Settings, overrides)
    _run(arguments, overrides, ["ingest"])
    when = past_instant(Job("past_model", sized(settings), argparse.Namespace()))
    _run(arguments, over(overrides, [f"as_of={when.isoformat()}"]), [link.name for link in MODELS])
    _run(arguments, overrides, LISTS)
    versions = artefacts.rankers_in_use(warehouse, artefacts.LIST_RANKERS).values()
    gains: Any = {}
    for version in versions:
        gains |= PublishedRanker.open(warehouse / artefacts.LIST_RANKERS / version).figures["precise"]
    return [
        [
            *(task, name, f"{of['without']:.4f}", f"{of['gain']:+.4f} [{of['ci_low']:+.4f}, {of['ci_high']:+.4f}]"),
            *(p_value(of["p_value"]), f"{of['lists']:,.0f}"),
        ]
        for task, by_list in gains.items()
        for name, of in by_list.items()
    ]


def _run(arguments: argparse.Namespace, overrides: Sequence[str], jobs: Sequence[str]) -> None:
    for name in jobs:
        if importlib.import_module(f"jobs.{name}").main(flags_of(arguments, overrides)):
            raise SystemExit(f"{name} failed")


if __name__ == "__main__":
    main()
