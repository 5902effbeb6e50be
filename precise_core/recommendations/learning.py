"""Training of the learned orders, the gate over them, and the folder that is published."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from precise_core.errors import NothingToLearnError
from precise_core.recommendations import ablation
from precise_core.recommendations.config import RecommendationsConfig
from precise_core.recommendations.gate import MEAN, PREVIOUS, as_json, calibrate, choose_orders, in_words
from precise_core.recommendations.in_turn import Learned, learned_in_turn
from precise_core.recommendations.list_ranker import ListInputs, ListRanker, train_list_ranker
from precise_core.recommendations.lists import CandidateLists
from precise_core.recommendations.pair_vectors import UniversalVectors
from precise_core.recommendations.ranker_files import FinishedOrders, PublishedRanker, write_ranker
from precise_core.run.code import code_version
from precise_core.store import Place
from schemas import columns as c

WITH_VECTORS, WITHOUT_PRECISE = "with_vectors", "without_precise"
PER_TASK = "per_task."  # and the task that it learned

_Say = Callable[[str], None]
_Draw = Callable[[str, Mapping[str, float]], None]


def split_lists(rows: pa.Table, vectors: UniversalVectors | None = None) -> tuple[CandidateLists, CandidateLists]:
    """Lists to train on, and those of held-out users, from rows of `candidate_features`."""
    train, held_out = (CandidateLists.from_arrow(rows, vectors, split) for split in (c.TRAIN, c.VALIDATION))
    return train, held_out


def learn(
    train: CandidateLists,
    held_out: CandidateLists,
    config: RecommendationsConfig,
    previous: PublishedRanker | None,
    seed: int,
    out: Place,
    about: Mapping[str, Any],
    say: _Say,
    draw: _Draw = lambda *_: None,
) -> PublishedRanker:
    """Train the orders, choose what is published of each list, and write it; ``draw`` gets each order's epochs.

    Learned are: an order per loss of ``config.ranker.losses``, and their mean; with the first loss also one per task,
    one that reads the universal vectors, and one without anything of PRECISE, which says what it is worth. A training
    that was interrupted goes on after the last order that it had finished; ``about`` says what it learned from.
    Where ``about`` has a `held_out_share` of 0, all users are held out in turn (``in_turn``), and ``train`` is empty.

    Raises:
        NothingToLearnError: Of training or of held-out lists nothing was taken.
    """
    training = {"about": about, "config": config.model_dump(mode="json"), "seed": seed, "code": code_version()}
    finished = FinishedOrders(out, training)
    in_turn = about.get("held_out_share") == 0
    orders = learned_orders(train, held_out, config, seed, say, draw, finished, in_turn=in_turn)
    rankers = {name: order.ranker for name, order in orders.items()}
    scores = {name: order.scores_C for name, order in orders.items()}
    figures = {}
    if WITHOUT_PRECISE in rankers:
        with_C, without_C = scores[config.ranker.losses[0]], scores[WITHOUT_PRECISE]
        gains = ablation.precise_gains(held_out, with_C, without_C, config.lists, config.k, seed)
        figures["precise"] = gains
        for line in ablation.in_words(gains):
            say(line)
    rivals = {} if previous is None else _yesterday(previous, about, say)
    scores |= {name: ranker.scores_of(held_out) for name, ranker in rivals.items()}
    rankers |= rivals
    known_tasks = {name: rankers[name].inputs.tasks for name in scores}
    verdict = choose_orders(held_out, scores, known_tasks, config.lists, config.k, config.ranker.least_lists)
    for line in in_words(verdict):
        say(line)
    tasks_C = held_out.tasks[held_out.list_rows_C]
    calibration = {
        str(task): {
            name: calibrate(found[tasks_C == task], held_out.labels_C[tasks_C == task])
            for name, found in scores.items()
            if task in known_tasks[name]
        }
        for task in sorted(set(held_out.tasks))
    }
    used = {order for by_list in verdict.chosen.values() for order in by_list.values()}
    # Where no learned order is in use, one is kept: tomorrow's rival.
    used = used & rankers.keys() or {config.ranker.losses[0]}
    kept = {name: ranker for name, ranker in rankers.items() if name in used}
    found = write_ranker(out, kept, config.ranker, verdict.chosen, calibration, as_json(verdict) | figures, about)
    finished.remove()
    return found


def learned_orders(
    train: CandidateLists,
    held_out: CandidateLists,
    config: RecommendationsConfig,
    seed: int,
    say: _Say,
    draw: _Draw,
    finished: FinishedOrders,
    *,
    in_turn: bool = False,
) -> dict[str, Learned]:
    """By name; NothingToLearnError as ``learn``. Orders that ``finished`` has are not learned again."""

    def one(name: str, loss: str, on: CandidateLists, by: CandidateLists | None, **what: Any) -> ListRanker:
        if before := finished.get(name):
            say(f"{name}: learned before this training was interrupted")
            return before
        progress = partial(_log_epoch, say, draw, name)
        ranker = train_list_ranker(on, by, config.ranker, loss, k=config.k, seed=seed, progress=progress, **what)
        finished.put(name, ranker)
        return ranker

    def fit(name: str, loss: str, **what: bool) -> Learned:
        if not in_turn:
            ranker = one(name, loss, train, held_out, **what)
            return Learned(ranker, ranker.scores_of(held_out))
        inputs = ListInputs.fit(held_out.where(held_out.has_positive()), **what)
        return learned_in_turn(
            held_out, inputs, lambda part, others: one(f"{name}.{part}", loss, others, None, inputs=inputs)
        )

    losses, learned_from = config.ranker.losses, held_out if in_turn else train
    orders: dict[str, Learned] = {loss: fit(loss, loss) for loss in losses}
    if len(losses) > 1:  # logits of either loss are log-odds
        models = [model for order in orders.values() for model in order.ranker.models]
        scores_C = np.mean([order.scores_C for order in orders.values()], axis=0)
        orders[MEAN] = Learned(ListRanker(orders[losses[0]].ranker.inputs, models), scores_C)
    if not np.isnan(learned_from.precise_C2).all():
        orders[WITHOUT_PRECISE] = fit(WITHOUT_PRECISE, losses[0], with_precise=False)
        if learned_from.pairs is not None:
            orders[WITH_VECTORS] = fit(WITH_VECTORS, losses[0], with_vectors=True)
    tasks = sorted(set(train.tasks))
    if config.ranker.per_task and len(tasks) > 1:
        for task in tasks:
            of_task, by = train.where(train.tasks == task), held_out.where(held_out.tasks == task)
            try:
                ranker = one(f"{PER_TASK}{task}", losses[0], of_task, by)
            except NothingToLearnError:
                say(f"{task}: too little was taken for a model of its own")
            else:
                orders[f"{PER_TASK}{task}"] = Learned(ranker, ranker.scores_of(held_out))
    return orders


def _log_epoch(say: _Say, draw: _Draw, name: str, figures: Mapping[str, float]) -> None:
    draw(name, figures)
    say(f"{name}: " + ", ".join(f"{figure} {value:.4g}" for figure, value in figures.items()))


def _yesterday(previous: PublishedRanker, about: Mapping[str, Any], say: _Say) -> dict[str, ListRanker]:
    """The learned orders of the model in use, as rivals.

    None of a later night, or that may have learned from today's held-out users; those that read vectors are left out
    where today's are of another space.
    """
    if previous.about.get("as_of", "") > about.get("as_of", ""):
        say(f"{previous.ranker_version} is of a later night and no rival")
        return {}
    # Who is held out of a smaller share is of a larger one, too: never one that it has learned from. 0 = of all.
    today, before = (float(of.get("held_out_share") or 0) for of in (about, previous.about))
    if previous.about.get("held_out_by") != about.get("held_out_by") or (today or 1) > before:
        say(f"{previous.ranker_version} had other held-out users and is no rival")
        return {}
    is_alike = previous.about.get("space") == about.get("space")
    return {
        f"{PREVIOUS}.{name.removeprefix(f'{PREVIOUS}.')}": ranker
        for name, ranker in previous.rankers.items()
        if is_alike or not ranker.inputs.vector_width
    }
