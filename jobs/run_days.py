"""Run the training jobs of one night after the other over simulated days, and measure each day (IV-E1, Fig. 4a).

Every day `as_of` advances: the vocabulary grows by what was published, windows are cut anew, Universal Training goes on
from the previous day (universal.start=continue, the first day from scratch), Targeted Training follows the policy
targeted.warm_up_every_days. Then the share of exposed items that Universal Training has not trained is counted. Days
that are recorded already are left out, so a killed run goes on where it stopped.

Reads the source, events, impressions, item_vocabulary and the checkpoints in use. Writes training_days, and what its
jobs write.
"""

import time
from argparse import Namespace
from datetime import date, datetime

from jobs import (
    build_sequences,
    build_windows,
    embed_tokens,
    ingest,
    tokenize_items,
    train_targeted,
    train_universal,
)
from precise_core.command import DATA, Command, flag, flags_of, overrides_of
from precise_core.config import load_config, over
from precise_core.errors import ConfigError
from precise_core.experiments.days import is_recorded, nights, record_day
from precise_core.operations.chain import Link, chain, chain_command
from precise_core.run.progress import console
from precise_core.settings import Settings
from precise_core.training.night import text_table

_DAY = (
    Link(ingest, ("source", "tasks")),
    Link(tokenize_items),
    Link(embed_tokens, ("text", "model")),
    Link(build_windows),
    Link(train_universal),
    Link(train_targeted),
)
# No training reads sequences: those of the last day are enough for serving.
_LAST_DAY = (Link(build_sequences),)
# They override the file; --set overrides them.
_DEFAULTS = ("universal.start=continue", "text.published_only=true")
# Records the figures of a day, as a run of its own.
RECORD = Command("run_days", __doc__, (), record_day)


def _overrides(arguments: Namespace, day: datetime) -> list[str]:
    policy = [] if arguments.policy is None else [f"targeted.warm_up_every_days={arguments.policy}"]
    return [*over(_DEFAULTS, overrides_of(arguments)), *policy, f"as_of={day:%Y-%m-%dT%H:%M:%SZ}"]


@chain_command(
    DATA,
    flag("--from", "first night, e.g. 2017-11-01", required=True, dest="first", metavar="DAY"),
    flag("--to", "last night, included", required=True, dest="last", metavar="DAY"),
    flag("--step-days", "days from one night to the next; 1", type=int, default=1, metavar="N"),
    flag("--policy", "days between warm-ups; short for --set targeted.warm_up_every_days=", type=int, metavar="DAYS"),
    overrides=lambda arguments: _overrides(arguments, _days(arguments)[0]),
)
def main(settings: Settings, arguments: Namespace, _first_day: list[str]) -> int:
    days, started = _days(arguments), time.monotonic()
    console.print(f"run_days: {', '.join(_DEFAULTS)}, unless --set says otherwise", markup=False)
    without = {} if text_table(settings.model.fusion) else {"embed_tokens": "the model reads no text"}
    for number, as_of in enumerate(days, start=1):
        console.print(f"[{number}/{len(days)}] {as_of:%Y-%m-%d}", style="bold cyan", markup=False)
        overrides = _overrides(arguments, as_of)
        tonight = load_config(arguments.config, Settings, overrides)
        if is_recorded(tonight):
            console.print("  recorded already, left out\n")
            continue
        flags = flags_of(arguments, overrides)
        links = (*_DAY, *(_LAST_DAY if number == len(days) else ()))
        stopped = chain(tonight, links, flags, left_out=without)
        if code := stopped.code if stopped else RECORD(flags):
            console.print(f"run_days stopped at {as_of:%Y-%m-%d}; start it again to go on", style="bold red")
            return code
    console.print(f"run_days: {len(days)} days done in {time.monotonic() - started:.0f} s", style="bold")
    return 0


def _days(arguments: Namespace) -> list[datetime]:
    return nights(_day("--from", arguments.first), _day("--to", arguments.last), arguments.step_days)


def _day(flag: str, value: str) -> date:
    try:
        return date.fromisoformat(value)
    except ValueError as error:
        raise ConfigError(f"{flag} {value!r}: a day like 2017-11-01 is needed") from error


if __name__ == "__main__":
    raise SystemExit(main())
