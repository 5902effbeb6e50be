"""Run the training jobs of one night after the other over simulated days, and measure each day (IV-E1, Fig. 4a).

Every day `as_of` moves on by itself: the vocabulary grows by what was published, windows are cut anew, Universal
Training goes on from the day before (universal.start=continue, the first day from scratch), Targeted Training follows
the policy targeted.warm_up_every_days. Then the share of exposed items that Universal Training has not trained is
written to training_days. Days that are there already are left out, so a killed run goes on where it stopped.
"""

import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from datetime import date, datetime
from types import ModuleType

from jobs import (
    build_sequences,
    build_windows,
    embed_tokens,
    ingest,
    tokenize_items,
    train_targeted,
    train_universal,
)
from precise_core.config import load_config, over
from precise_core.errors import ConfigError
from precise_core.experiments.days import is_recorded, nights, record_day
from precise_core.operations.chain import is_up_to_date
from precise_core.run.command_line import flags_of, night_parser, overrides_of
from precise_core.run.job import report, run_job
from precise_core.run.progress import console
from precise_core.settings import Settings
from precise_core.training.night import text_table
from precise_core.warehouse.locks import warehouse_lock

# A job, and the parts of the configuration that decide what it writes; None = all of it, `as_of` included.
_DAY: tuple[tuple[ModuleType, tuple[str, ...] | None], ...] = (
    (ingest, ("source", "tasks")),
    (tokenize_items, None),
    (embed_tokens, ("text", "model")),
    (build_windows, None),
    (train_universal, None),
    (train_targeted, None),
)
# No training reads sequences: those of the last day are enough to serve from it.
_LAST_DAY = ((build_sequences, None),)
# Over what the file says; --set may say otherwise.
_DEFAULTS = ("universal.start=continue", "text.published_only=true")


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parse(argv)
    overrides = over(_DEFAULTS, overrides_of(arguments))
    if arguments.policy is not None:
        overrides.append(f"targeted.warm_up_every_days={arguments.policy}")
    started = time.monotonic()
    try:
        days = nights(_day("--from", arguments.first), _day("--to", arguments.last), arguments.step_days)
        settings = load_config(arguments.config, Settings, [*overrides, _as_of(days[0])])
        console.print(f"run_days: {', '.join(_DEFAULTS)}, unless --set says otherwise", markup=False)
        with warehouse_lock(settings.warehouse):
            for number, as_of in enumerate(days, start=1):
                console.print(f"[{number}/{len(days)}] {as_of:%Y-%m-%d}", style="bold cyan", markup=False)
                tonight = [*overrides, _as_of(as_of)]
                if code := _run_day(arguments, tonight, is_last=number == len(days)):
                    console.print(f"run_days stopped at {as_of:%Y-%m-%d}; start it again to go on", style="bold red")
                    return code
    except Exception as error:
        return report("run_days", error, is_verbose=arguments.verbose)
    console.print(f"run_days: {len(days)} days done in {time.monotonic() - started:.0f} s", style="bold")
    return 0


def _as_of(instant: datetime) -> str:
    return f"as_of={instant:%Y-%m-%dT%H:%M:%SZ}"


def _run_day(arguments: Namespace, overrides: list[str], is_last: bool) -> int:
    settings = load_config(arguments.config, Settings, overrides)
    flags = flags_of(arguments, overrides)
    if is_recorded(settings):
        console.print("  recorded already, left out\n")
        return 0
    for job, parts in (*_DAY, *(_LAST_DAY if is_last else ())):
        name = job.__name__.rsplit(".", 1)[-1]
        if job is embed_tokens and text_table(settings.model.fusion) is None:
            console.print(f"  {name}: not needed, left out")
        elif is_up_to_date(settings, name, parts):
            console.print(f"  {name}: up to date, left out")
        elif code := job.main(flags):
            return int(code)
    return run_job("run_days", __doc__, record_day, flags)


def _parse(argv: Sequence[str] | None) -> Namespace:
    parser = night_parser("run_days", __doc__)
    parser.add_argument("--from", required=True, dest="first", metavar="DAY", help="first night, e.g. 2017-11-01")
    parser.add_argument("--to", required=True, dest="last", metavar="DAY", help="last night, included")
    parser.add_argument("--step-days", type=int, default=1, metavar="N", help="days from one night to the next; 1")
    parser.add_argument(
        "--policy", type=int, metavar="DAYS", help="days between warm-ups; short for --set targeted.warm_up_every_days="
    )
    return parser.parse_args(sys.argv[1:] if argv is None else argv)


def _day(flag: str, value: str) -> date:
    try:
        return date.fromisoformat(value)
    except ValueError as error:
        raise ConfigError(f"{flag} {value!r}: a day like 2017-11-01 is needed") from error


if __name__ == "__main__":
    raise SystemExit(main())
