"""What PRECISE is worth in the lists of a log: `python -m benchmarks.precise_worth --config FILE --seeds 17 18 19`.

Of each seed, in a warehouse of its own: a model of sequences trained and published as of the instant that the lists
learn from, as `recommendations.past_model: train` does on a first night; candidates with its scores and sources, and
candidates made anew without either, as many of them at most; and a ranking model of lists on each. Prints what PRECISE
adds to NDCG@50 on held-out users of the past period; ideal is what was taken of the candidates of both.
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

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.about import about_run
from benchmarks.lists_page import WORTH_HEADS
from benchmarks.markdown import p_value, table
from jobs.run_night import MODELS
from precise_core.command import command_parser, flags_of, overrides_of
from precise_core.config import load_config, over
from precise_core.intake.chosen_sizes import sized
from precise_core.recommendations.ablation import Gains, precise_gains
from precise_core.recommendations.learning import split_lists
from precise_core.recommendations.list_ranker import train_list_ranker
from precise_core.recommendations.lists import CandidateLists
from precise_core.recommendations.names import U2I, U2I2I
from precise_core.recommendations.night import past_instant
from precise_core.run.job import Job
from precise_core.settings import Settings
from precise_core.warehouse.tables import Warehouse
from schemas import CANDIDATE_FEATURES
from schemas import columns as c

_KEY = [c.TASK, c.USER_ID, c.ITEM_ID]
_ORDER = [(name, "ascending") for name in _KEY]
LISTS = ("tokenize_items", "build_neighbours", "build_candidate_features")


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
        print("\n".join(table(WORTH_HEADS, rows, names=3)), flush=True)  # so far
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
    with_model = _candidates(warehouse)
    sources = settings.recommendations.sources | {U2I: 0, U2I2I: 0}
    _run(arguments, over(overrides, [f"recommendations.sources={json.dumps(sources)}"]), LISTS[-1:])
    return cells(compared(with_model, _candidates(warehouse), sized(settings)))


def cells(gains: Gains) -> list[list[str]]:
    """A row per task and list, less the seed of ``WORTH_HEADS``."""
    return [
        [
            *(task, name, f"{of['without']:.4f}", f"{of['gain']:+.4f} [{of['ci_low']:+.4f}, {of['ci_high']:+.4f}]"),
            *(p_value(of["p_value"]), f"{of['lists']:,.0f}"),
        ]
        for task, by_list in gains.items()
        for name, of in by_list.items()
    ]


def _candidates(warehouse: Path) -> pa.Table:
    house = Warehouse(str(warehouse))
    return house.read_arrow(CANDIDATE_FEATURES, house.version(CANDIDATE_FEATURES))


def compared(with_model: pa.Table, without_model: pa.Table, settings: Settings) -> Gains:
    """Gains of a ranking model on the rows that a model of sequences had a part in, over one on those that it had not.

    Both are judged on all candidates of either; what is none of its own stands last.
    """
    config, arms = settings.recommendations, []
    for rows, with_precise in ((with_model, True), (without_model, False)):
        train, held_out = split_lists(rows)
        if not len(train):
            raise SystemExit(f"{settings.name}: so few users that all are held out in turn; more are needed to compare")
        sizes: dict[str, Any] = {"k": config.k, "seed": settings.seed, "with_precise": with_precise}
        ranker = train_list_ranker(train, held_out, config.ranker, config.ranker.losses[0], **sizes)
        arms.append((_held_out(rows), ranker.scores_of(held_out)))
    of_both, keys = _of_both(*(rows for rows, _ in arms))
    scores = []
    for rows, scores_C in arms:
        found_C = keys.merge(_keys(rows).assign(score=scores_C), how="left", on=_KEY)["score"].to_numpy()
        scores.append(np.where(np.isnan(found_C), np.nanmin(found_C) - 1, found_C))
    return precise_gains(of_both, scores[0], scores[1], config.lists, config.k, settings.seed)


def _of_both(ours: pa.Table, theirs: pa.Table) -> tuple[CandidateLists, pd.DataFrame]:
    """The held-out candidates of either as lists, and the keys of their rows."""
    others = _keys(theirs).merge(_keys(ours), how="left", on=_KEY, indicator=True)["_merge"] == "left_only"
    rows = pa.concat_tables([ours, theirs.filter(pa.array(others))])
    lists = CandidateLists.from_arrow(rows)
    return lists, _keys(rows.sort_by(_ORDER))


def _held_out(rows: pa.Table) -> pa.Table:
    """Rows in the order of the candidates of ``CandidateLists.from_arrow``."""
    return rows.filter(pc.equal(rows[c.SPLIT], c.VALIDATION)).sort_by(_ORDER)


def _keys(rows: pa.Table) -> pd.DataFrame:
    return rows.select(_KEY).to_pandas()


def _run(arguments: argparse.Namespace, overrides: Sequence[str], jobs: Sequence[str]) -> None:
    for name in jobs:
        if importlib.import_module(f"jobs.{name}").main(flags_of(arguments, overrides)):
            raise SystemExit(f"{name} failed")


if __name__ == "__main__":
    main()
