"""Training of the learned orders, the gate over them, and the folder that is published."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from precise_core.recommendations.config import RecommendationsConfig
from precise_core.recommendations.gate import PREVIOUS, as_json, calibrate, choose_orders, in_words
from precise_core.recommendations.list_ranker import ListRanker, train_list_ranker
from precise_core.recommendations.lists import CandidateLists
from precise_core.recommendations.ranker_files import PublishedRanker, write_ranker
from schemas import columns as c

MEAN = "mean"  # of the models of all losses


def split_lists(rows: pa.Table) -> tuple[CandidateLists, CandidateLists]:
    """Lists to train on, and those of held-out users, from rows of `candidate_features`."""
    parts = (rows.filter(pc.equal(rows[c.SPLIT], split)) for split in (c.TRAIN, c.VALIDATION))
    train, held_out = (CandidateLists.from_arrow(part) for part in parts)
    return train, held_out


def learn(
    train: CandidateLists,
    held_out: CandidateLists,
    config: RecommendationsConfig,
    previous: PublishedRanker | None,
    seed: int,
    out: Path,
    about: Mapping[str, Any],
    say: Callable[[str], None],
) -> PublishedRanker:
    """Train an order per loss of ``config.ranker.losses``, choose what is published of each list, and write it.

    Raises:
        NothingToLearnError: Of one of the two nothing was taken.
    """
    rankers: dict[str, ListRanker] = {}
    for loss in config.ranker.losses:

        def log_epoch(figures: dict[str, float], loss: str = loss) -> None:
            say(f"{loss}: " + ", ".join(f"{name} {value:.4g}" for name, value in figures.items()))

        rankers[loss] = train_list_ranker(
            train, held_out, config.ranker, loss, k=config.k, seed=seed, progress=log_epoch
        )
    if len(rankers) > 1:  # logits of either loss are log-odds
        models = [model for ranker in rankers.values() for model in ranker.models]
        rankers[MEAN] = ListRanker(next(iter(rankers.values())).inputs, models)
    scores = {loss: ranker.scores_of(held_out) for loss, ranker in rankers.items()}
    rankers |= _yesterday(previous)
    if PREVIOUS in rankers:
        scores[PREVIOUS] = rankers[PREVIOUS].scores_of(held_out)
    known_tasks = {name: rankers[name].inputs.tasks for name in scores}
    verdict = choose_orders(held_out, scores, known_tasks, config.lists, config.k, config.ranker.least_lists)
    for line in in_words(verdict):
        say(line)
    tasks_C = held_out.tasks[held_out.list_rows_C]
    calibration = {
        str(task): {
            name: calibrate(found[tasks_C == task], held_out.labels_C[tasks_C == task])
            for name, found in scores.items()
        }
        for task in sorted(set(held_out.tasks))
    }
    used = {order for by_list in verdict.chosen.values() for order in by_list.values()}
    kept = {name: ranker for name, ranker in rankers.items() if name in used} or rankers
    return write_ranker(out, kept, config.ranker, verdict.chosen, calibration, as_json(verdict), about)


def _yesterday(previous: PublishedRanker | None) -> dict[str, ListRanker]:
    """The learned order that was published of most lists, as a rival."""
    if previous is None or not previous.rankers:
        return {}
    orders = [order for by_list in previous.chosen.values() for order in by_list.values() if order in previous.rankers]
    names, counts = np.unique(orders or list(previous.rankers), return_counts=True)
    return {PREVIOUS: previous.rankers[str(names[counts.argmax()])]}
