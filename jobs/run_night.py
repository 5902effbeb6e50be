"""Run every job of a night in order: from raw files to the report.

With --skip-up-to-date a job whose inputs, configuration and code have not changed since its last successful run is
left out. Ranking jobs are left out where the source has no impressions. The first job that fails ends the night. With
recommendations.past_model=train a first night trains and publishes a model as of the past instant of the lists first.

Reads and writes what its jobs do, and writes its own row in runs: every version and everything in use, so that
rollback can go back to it.
"""

import time
from argparse import Namespace
from collections.abc import Sequence
from datetime import UTC, datetime

from jobs import (
    build_candidate_features,
    build_index,
    build_neighbours,
    build_ranking_features,
    build_report,
    build_sequences,
    build_windows,
    embed_items,
    embed_tokens,
    embed_users,
    evaluate,
    ingest,
    publish_models,
    recall,
    recommend,
    score_pairs,
    score_ranking,
    tokenize_items,
    train_list_ranker,
    train_ranker,
    train_targeted,
    train_universal,
)
from precise_core.command import DATA, flags_of, switch
from precise_core.config import load_config, over
from precise_core.consume.publications import published_now
from precise_core.intake.chosen_sizes import sized
from precise_core.intake.read import has_impressions
from precise_core.operations.chain import Link, Stopped, chain, chain_command
from precise_core.operations.rollback import NIGHT as NIGHT_NAME
from precise_core.operations.rollback import whole_state
from precise_core.recommendations.night import past_instant
from precise_core.run.job import Job
from precise_core.run.progress import console
from precise_core.settings import Settings

INGEST = Link(ingest)
# From raw tables to published vectors.
MODELS = tuple(
    Link(job)
    for job in (
        tokenize_items,
        embed_tokens,
        build_sequences,
        build_windows,
        train_universal,
        train_targeted,
        embed_items,
        embed_users,
        build_index,
        publish_models,
    )
)
USES = tuple(
    Link(job)
    for job in (
        recall,
        score_pairs,
        build_ranking_features,
        train_ranker,
        score_ranking,
        build_neighbours,
        build_candidate_features,
        train_list_ranker,
        recommend,
        evaluate,
        build_report,
    )
)
NIGHT = (INGEST, *MODELS, *USES)
RANKING = ("build_ranking_features", "train_ranker", "score_ranking")


@chain_command(DATA, switch("--skip-up-to-date", "leave out jobs whose output is still current"))
def main(settings: Settings, arguments: Namespace, overrides: list[str]) -> int:
    """The night, and its row in `runs` with every version and everything in use, for a rollback to it."""
    started_at, started = datetime.now(UTC), time.monotonic()
    night = Job(NIGHT_NAME, settings, arguments)
    without = {} if has_impressions(settings.source) else dict.fromkeys(RANKING, "the source has no impressions")
    stopped = _run(settings, arguments, overrides, without)
    seconds = time.monotonic() - started
    if stopped:
        console.print(f"run_night stopped at {stopped.job} after {seconds:.0f} s", style="bold red")
    else:
        console.print(f"run_night: done in {seconds:.0f} s", style="bold")
    night.settings = sized(settings)  # as the jobs had it; before ingest there may have been no sizes
    whole_state(night)
    error = f"stopped with exit code {stopped.code}; the run of the job says why" if stopped else None
    night.record("failed" if stopped else "succeeded", started_at, time.monotonic() - started, error)
    console.print(f"run_night: {night.run_id}", markup=False)
    return stopped.code if stopped else 0


def _run(settings: Settings, arguments: Namespace, overrides: list[str], without: dict[str, str]) -> Stopped | None:
    """The jobs, on a first night with a model as of the past instant before them where the configuration wants one."""

    def links(chosen: Sequence[Link], of: Settings = settings, then: Sequence[str] = ()) -> Stopped | None:
        flags = flags_of(arguments, over(overrides, then))
        return chain(of, chosen, flags, skip=arguments.skip_up_to_date, left_out=without)

    # A model of the past would take back what is published: only where nothing is.
    if settings.recommendations.past_model != "train" or published_now(settings.warehouse):
        return links(NIGHT)
    if stopped := links((INGEST,)):
        return stopped
    when = past_instant(Job("past_model", sized(settings), arguments))
    console.print(f"nothing is published yet: first a model as of {when}", style="cyan", markup=False)
    then = [f"as_of={when.isoformat()}"]
    earlier = load_config(arguments.config, Settings, over(overrides, then))
    return links(MODELS, earlier, then) or links((*MODELS, *USES))


if __name__ == "__main__":
    raise SystemExit(main())
