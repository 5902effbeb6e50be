"""Train the DCN that ranks lists on candidates of the period before `as_of`, and choose what is published.

A learned order is published of a list only where it is above every simple order on held-out users, by more than two
standard errors; otherwise the best of those is, and it is said. A task with too few of them is ordered as `all` is.

Reads candidate_features; published_models, user_embeddings and item_embeddings, for the vectors that its scores are of.
Writes a folder under <warehouse>/list_rankers.
"""

from collections.abc import Mapping

import pyarrow.compute as pc

from precise_core.artefacts import LIST_RANKERS, put_rankers_in_use, rankers_in_use
from precise_core.command import command
from precise_core.errors import NothingToLearnError
from precise_core.monitoring.night import track_model
from precise_core.recommendations.learning import learn, split_lists
from precise_core.recommendations.lists import PRECISE_SCORES
from precise_core.recommendations.names import ALL_LISTS, UNLEARNED_IN_USE
from precise_core.recommendations.night import (
    is_later,
    is_of_space,
    ranker_folder,
    universal_vectors_then,
    yesterdays_ranker,
)
from precise_core.recommendations.ranker_files import PublishedRanker
from precise_core.run.job import Job
from schemas import CANDIDATE_FEATURES
from schemas import columns as c


@command()
def main(job: Job) -> None:
    rows = job.warehouse.read_arrow(CANDIDATE_FEATURES, job.pin(CANDIDATE_FEATURES))
    vectors, space = universal_vectors_then(job, rows)
    share = pc.max(rows[c.HELD_OUT_SHARE]).as_py()
    in_turn = share == 1
    train, held_out = split_lists(rows, vectors)
    rows_in, with_precise = rows.num_rows, any(rows[name].null_count < rows.num_rows for name in PRECISE_SCORES)
    del rows  # as large as the lists
    previous, config = yesterdays_ranker(job), job.settings.recommendations
    as_of = f"{job.settings.as_of:%Y-%m-%dT%H:%M:%SZ}"
    about = {
        "candidate_features": job.pin(CANDIDATE_FEATURES), "as_of": as_of, "space": space,
        "held_out_by": job.settings.seed, "held_out_share": 0.0 if in_turn else share,  # of whom it learns nothing
        "with_precise": with_precise,
    }  # fmt: skip
    if in_turn:
        job.say(f"{len(set(held_out.users)):,} users are few: all of them are held out in turn")
    curves: list[dict[str, float]] = []

    def draw(order: str, figures: Mapping[str, float]) -> None:  # the epochs of all orders in a row
        curves.append({"step": len(curves), **{f"{order}/{name}": value for name, value in figures.items()}})

    try:
        ranker = learn(train, held_out, config, previous, job.settings.seed, ranker_folder(job), about, job.say, draw)
    except NothingToLearnError as error:
        job.require_held()
        if previous is not None and (not is_of_space(job, previous) or is_later(job, previous)):
            previous = None
        in_use = f"{previous.ranker_version} is in use" if previous else UNLEARNED_IN_USE
        job.say(f"nothing was learned, {error}; {in_use}")
        if previous is None and rankers_in_use(job.root, LIST_RANKERS):  # it would stop `recommend`
            put_rankers_in_use(job.root, {}, LIST_RANKERS)
    else:
        job.require_held()
        put_rankers_in_use(job.root, {ALL_LISTS: ranker.ranker_version}, LIST_RANKERS)
        job.artefacts[f"list_ranker:{ALL_LISTS}"] = ranker.ranker_version
        track_model(job, ranker.ranker_version, _parameters(job, about), curves, _figures(ranker))
    job.balance("candidates", rows_in=rows_in, rows_out=len(train.labels_C) + len(held_out.labels_C))


def _parameters(job: Job, about: Mapping[str, object]) -> dict[str, object]:
    return {"ranker": job.settings.recommendations.ranker.model_dump(mode="json"), "seed": job.settings.seed, **about}


def _figures(ranker: PublishedRanker) -> dict[str, float]:
    """NDCG on held-out lists, by task, list and order."""
    return {
        f"ndcg/{task}/{name}/{order}": value
        for task, by_list in ranker.figures["ndcg"].items()
        for name, by_order in by_list.items()
        for order, value in by_order.items()
    }


if __name__ == "__main__":
    raise SystemExit(main())
