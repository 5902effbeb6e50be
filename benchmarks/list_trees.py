"""Gradient-boosted trees as a bar for the model of lists: `python -m benchmarks.list_trees WAREHOUSE [--seeds 1 2 3]`.

Trains LightGBM, lambdarank and log loss, on the training lists of `candidate_features`, stops early on the held-out
users, and prints NDCG@50 of those by task and filter beside the learned orders and the best simple one. All orders rank
the same candidates, and all but the simple ones chose their last step on these users. Needs `lightgbm` (extra `dev`).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import lightgbm
import numpy as np

from benchmarks.markdown import table
from precise_core import artefacts
from precise_core.recommendations.learning import split_lists
from precise_core.recommendations.lists import CandidateLists
from precise_core.recommendations.orders import ORDERS, order_scores
from precise_core.recommendations.ranker_files import PublishedRanker
from precise_core.warehouse.tables import Warehouse
from schemas import CANDIDATE_FEATURES

FILTERS = {"all": None, "new": False, "repeat": True}
K = 50
OBJECTIVES = ("lambdarank", "binary")
_ROUNDS, _PATIENCE = 2000, 50
_PARAMETERS = {
    "learning_rate": 0.05,
    "num_leaves": 63,
    "min_data_in_leaf": 100,
    "feature_fraction": 0.7,
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
    "lambdarank_truncation_level": K,
    "verbosity": -1,
}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.list_trees", description=__doc__)
    parser.add_argument("warehouse", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="one training per objective and seed")
    parser.add_argument("--threads", type=int, default=0, help="of LightGBM; 0 = all cores")
    arguments = parser.parse_args(argv)
    house = Warehouse(str(arguments.warehouse))
    train, held_out = split_lists(house.read_arrow(CANDIDATE_FEATURES, house.version(CANDIDATE_FEATURES)))
    if not len(train):
        raise SystemExit(
            f"{arguments.warehouse}: so few users that all are held out in turn; trees need lists to learn from"
        )
    scores = simple_scores(held_out)
    scores |= {name: [found] for name, found in learned_scores(arguments.warehouse, held_out).items()}
    for objective in OBJECTIVES:
        scores[objective] = []
        for seed in arguments.seeds:
            started = time.monotonic()
            found, rounds = tree_scores(train, held_out, objective, seed, arguments.threads)
            scores[objective].append(found)
            print(f"{objective}, seed {seed}: {rounds} trees, {time.monotonic() - started:.0f} s", flush=True)
    print("\n".join(compared(held_out, scores)))


def simple_scores(held_out: CandidateLists) -> dict[str, list[np.ndarray]]:
    """Of every simple order, one [C] each."""
    return {name: [order_scores(name, held_out.features_CG)] for name in ORDERS}


def learned_scores(warehouse: Path, held_out: CandidateLists) -> dict[str, np.ndarray]:
    """Of every learned order that the published model of lists keeps; none where nothing was learned."""
    rankers = artefacts.rankers_in_use(warehouse, artefacts.LIST_RANKERS)
    return {
        f"DCN {name}": ranker.scores_of(held_out)
        for version in rankers.values()
        for name, ranker in PublishedRanker.open(warehouse / artefacts.LIST_RANKERS / version).rankers.items()
    }


def tree_scores(
    train: CandidateLists, held_out: CandidateLists, objective: str, seed: int, threads: int = 0
) -> tuple[np.ndarray, int]:
    """Scores of the held-out candidates [C], and how many trees were best on them by NDCG@50."""
    train, judged = train.where(train.has_positive()), held_out.where(held_out.has_positive())
    tasks = sorted(set(train.tasks))
    sets = [lightgbm.Dataset(_inputs(train, tasks), train.labels_C, group=np.diff(train.starts), free_raw_data=False)]
    sets.append(sets[0].create_valid(_inputs(judged, tasks), judged.labels_C, group=np.diff(judged.starts)))

    def ndcg(scores_C: np.ndarray, _: lightgbm.Dataset) -> tuple[str, float, bool]:
        return f"ndcg@{K}", float(judged.ndcg(scores_C, K).mean()), True

    model = lightgbm.train(
        {**_PARAMETERS, "objective": objective, "metric": "none", "seed": seed, "num_threads": threads},
        sets[0],
        num_boost_round=_ROUNDS,
        valid_sets=[sets[1]],
        feval=ndcg,
        callbacks=[lightgbm.early_stopping(_PATIENCE, verbose=False)],
    )
    found = model.predict(_inputs(held_out, tasks), num_iteration=model.best_iteration)
    return np.asarray(found, np.float64), model.best_iteration


def compared(held_out: CandidateLists, scores: Mapping[str, Sequence[np.ndarray]]) -> list[str]:
    """A Markdown table, a row per task and filter: NDCG@50, the mean over an order's seeds; the best simple order."""
    names = [name for name in scores if name not in ORDERS]
    rows = []
    for task in sorted(set(held_out.tasks)):
        of_task = held_out.tasks == task
        lists, is_of_task_C = held_out.where(of_task), of_task[held_out.list_rows_C]
        for name, repeat in FILTERS.items():
            if not lists.has_positive(repeat).any():
                continue
            figures = {
                order: float(np.mean([lists.ndcg(one[is_of_task_C], K, repeat).mean() for one in found]))
                for order, found in scores.items()
            }
            simple = max(ORDERS, key=lambda order: figures[order])
            shown = [f"{simple} {figures[simple]:.4f}", *(f"{figures[order]:.4f}" for order in names)]
            rows.append([task, name, *shown, f"{int(lists.has_positive(repeat).sum()):,}"])
    return table(("task", "filter", "best simple order", *names, "lists"), rows, names=2)


def _inputs(lists: CandidateLists, tasks: Sequence[str]) -> np.ndarray:
    """The features, PRECISE's scores (NaN = none) and the task's number, float32 [C, G + 3]."""
    numbers_L = np.array([tasks.index(task) if task in tasks else -1 for task in lists.tasks])
    return np.column_stack([lists.features_CG, lists.precise_C2, numbers_L[lists.list_rows_C].astype(np.float32)])


if __name__ == "__main__":
    main()
