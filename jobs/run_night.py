"""Run every job of a night in order: from raw files to the report.

With --skip-up-to-date a job whose inputs, configuration and code have not changed since its last successful run is
left out. Ranking jobs are left out where the source has no impressions. The first job that fails ends the night.
"""

import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime

from jobs import (
    build_index,
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
    score_pairs,
    score_ranking,
    tokenize_items,
    train_ranker,
    train_targeted,
    train_universal,
)
from precise_core.config import load_config
from precise_core.operations.chain import is_up_to_date
from precise_core.operations.rollback import NIGHT as NIGHT_NAME
from precise_core.operations.rollback import whole_state
from precise_core.run.command_line import flags_of, night_parser, overrides_of
from precise_core.run.job import Job, report, require_no_rollback, tell_of_stale
from precise_core.run.progress import console
from precise_core.settings import Settings
from precise_core.sources.read import has_impressions
from precise_core.warehouse.locks import warehouse_lock

NIGHT = (
    ingest,
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
    recall,
    score_pairs,
    build_ranking_features,
    train_ranker,
    score_ranking,
    evaluate,
    build_report,
)
RANKING = (build_ranking_features, train_ranker, score_ranking)


def main(argv: Sequence[str] | None = None) -> int:
    parser = night_parser("run_night", __doc__)
    parser.add_argument("--skip-up-to-date", action="store_true", help="leave out jobs whose output is still current")
    arguments = parser.parse_args(sys.argv[1:] if argv is None else argv)
    overrides = overrides_of(arguments)
    try:
        settings = load_config(arguments.config, Settings, overrides)
        night = Job(NIGHT_NAME, settings, arguments)
        with warehouse_lock(settings.warehouse) as stale:
            tell_of_stale(stale)
            require_no_rollback(night)
            return _recorded(night, overrides)
    except Exception as error:
        return report("run_night", error, is_verbose=arguments.verbose)


def _recorded(night: Job, overrides: list[str]) -> int:
    """The night, and its row in `runs`: every version and everything in use, so that one can go back to it."""
    started_at, started = datetime.now(UTC), time.monotonic()
    arguments = night.arguments
    code = _night(night.settings, flags_of(arguments, overrides), arguments.skip_up_to_date)
    whole_state(night)
    error = f"stopped with exit code {code}; the run of the job says why" if code else None
    night.record("failed" if code else "succeeded", started_at, time.monotonic() - started, error)
    console.print(f"run_night: {night.run_id}", markup=False)
    return code


def _night(settings: Settings, flags: list[str], skip: bool) -> int:
    started = time.monotonic()
    for number, job in enumerate(NIGHT, start=1):
        name = job.__name__.rsplit(".", 1)[-1]
        console.print(f"[{number}/{len(NIGHT)}] {name}", style="cyan", markup=False)
        if job in RANKING and not has_impressions(settings.source):
            console.print("  left out: the source has no impressions\n")
        elif skip and is_up_to_date(settings, name):
            console.print("  up to date, left out\n")
        elif code := job.main(flags):
            console.print(f"run_night stopped at {name} after {time.monotonic() - started:.0f} s", style="bold red")
            return code
    console.print(f"run_night: done in {time.monotonic() - started:.0f} s", style="bold")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
