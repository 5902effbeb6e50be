"""Train the DCN that ranks lists on candidates of the period before `as_of`, and choose what is published.

A learned order is published of a list only where it is above every simple order on enough held-out users; otherwise
the best of those is, and it is said.

Reads candidate_features; published_models, user_embeddings and item_embeddings, for the vectors that its scores are of.
Writes a folder under <warehouse>/list_rankers.
"""

from precise_core.artefacts import LIST_RANKERS, put_rankers_in_use, rankers_in_use
from precise_core.command import command
from precise_core.errors import NothingToLearnError
from precise_core.recommendations.learning import learn, split_lists
from precise_core.recommendations.names import ALL_LISTS
from precise_core.recommendations.night import (
    is_of_space,
    ranker_folder,
    universal_vectors_then,
    yesterdays_ranker,
)
from precise_core.recommendations.orders import UNLEARNED
from precise_core.run.job import Job
from schemas import CANDIDATE_FEATURES


@command()
def main(job: Job) -> None:
    rows = job.warehouse.read_arrow(CANDIDATE_FEATURES, job.pin(CANDIDATE_FEATURES))
    vectors, space = universal_vectors_then(job, rows)
    train, held_out = split_lists(rows, vectors)
    rows_in = rows.num_rows
    del rows  # as large as the lists
    previous, config = yesterdays_ranker(job), job.settings.recommendations
    as_of = f"{job.settings.as_of:%Y-%m-%dT%H:%M:%SZ}"
    about = {"candidate_features": job.pin(CANDIDATE_FEATURES), "as_of": as_of, "space": space}
    try:
        ranker = learn(train, held_out, config, previous, job.settings.seed, ranker_folder(job), about, job.say)
    except NothingToLearnError as error:
        if previous is not None and not is_of_space(job, previous):
            previous = None
        job.say(f"nothing was learned, {error}; {previous.ranker_version if previous else UNLEARNED} is in use")
        if previous is None and rankers_in_use(job.folder, LIST_RANKERS):  # it would stop `recommend`
            put_rankers_in_use(job.folder, {}, LIST_RANKERS)
    else:
        put_rankers_in_use(job.folder, {ALL_LISTS: ranker.ranker_version}, LIST_RANKERS)
        job.artefacts[f"list_ranker:{ALL_LISTS}"] = ranker.ranker_version
    job.balance("candidates", rows_in=rows_in, rows_out=len(train.labels_C) + len(held_out.labels_C))


if __name__ == "__main__":
    raise SystemExit(main())
