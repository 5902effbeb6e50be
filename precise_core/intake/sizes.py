"""Which sizes fit a log: lengths, widths, epochs and periods for what a configuration leaves out; numbers in and out.

The tiers follow the configurations in conf/ that train in minutes on two cores; that they beat the defaults is not
shown yet (docs/decisions/0033-sizes-by-the-log.md).
"""

from __future__ import annotations

import math
from typing import NamedTuple

from pydantic import Field

from precise_core.config import Config, Instant

Value = int | float

_DAY_SECONDS = 86_400
_LENGTHS = (16, 100)  # of a training window
_LONGEST_SEQUENCE = 200
_YOUNG_DAYS = 28.0  # histories of a younger log will be longer than they are
_LONGEST_PERIOD = 28
_PARTS = 5  # a period is a fifth of the log
_JUDGES = 30  # held-out users who should have something in the validation period
_BATCHES = (16, 128)
_STEPS_PER_EPOCH = 64  # of a smaller log the batches are smaller, so that an epoch still has so many
_STEPS = 4000  # after so many, small logs have stopped to improve
_EPOCHS = (3, 60)


class LogProfile(Config):
    """What sizes are chosen by: counts and times of the events before ``as_of``, no value of any user.

    ``rows``: all events, those after ``as_of`` included; ``last_after``: the last of these, None where there is none.
    ``median_events``, ``q90_events``, ``q99_events``: half, 90 % and 99 % of the users have at most so many.
    ``idle_days``: share of the users -> days before ``as_of`` in which so many of them have an event.
    """

    as_of: Instant
    rows: int = Field(ge=1)
    events: int = Field(ge=1)
    users: int = Field(ge=1)
    items: int = Field(ge=1)
    first: Instant
    last: Instant
    last_after: Instant | None = None
    median_events: int = Field(ge=1)
    q90_events: int = Field(ge=1)
    q99_events: int = Field(ge=1)
    idle_days: dict[str, float]

    @property
    def span_days(self) -> float:
        """From the first event to ``as_of``."""
        return (self.as_of - self.first).total_seconds() / _DAY_SECONDS

    @property
    def days_after(self) -> float:
        """From ``as_of`` to the last event; 0 where there is none."""
        return (self.last_after - self.as_of).total_seconds() / _DAY_SECONDS if self.last_after else 0.0


class SizeGroup(Config):
    """Sizes that belong together: values by dotted key of the configuration, and why these."""

    values: dict[str, Value]
    why: str


class _Tier(NamedTuple):
    """Sizes of logs with fewer than ``below`` events.

    ``minutes`` is the budget of Universal Training, ``speed`` the events a second that a model of this size learns on
    two cores.
    """

    name: str
    below: float
    width: int
    layers: int
    heads: int
    ffn_width: int
    head_width: int
    learning_rate: float
    minutes: float
    speed: float


_TIERS = (
    _Tier("tiny", 10_000, 16, 1, 2, 64, 32, 3e-3, 10, 40_000),
    _Tier("small", 300_000, 64, 2, 4, 256, 128, 3e-3, 20, 15_000),
    _Tier("medium", 3_000_000, 64, 2, 4, 256, 128, 3e-3, 30, 15_000),
    _Tier("large", math.inf, 128, 2, 4, 512, 128, 1e-3, 120, 5_000),
)


def choose_sizes(profile: LogProfile) -> dict[str, SizeGroup]:
    """Sizes for a log, by group: `lengths`, `model`, `universal`, `targeted`, `periods`; valid beside all defaults."""
    tier = next(tier for tier in _TIERS if profile.events < tier.below)
    lengths = _lengths(profile)
    return {
        "lengths": lengths,
        "model": _model(profile, tier),
        **_trainings(profile, tier, int(lengths.values["windows.length"])),
        "periods": _periods(profile),
    }


def _lengths(profile: LogProfile) -> SizeGroup:
    is_young = profile.span_days < _YOUNG_DAYS
    tens = -(-profile.q99_events * (2 if is_young else 1) // 10) * 10
    length = min(max(tens, _LENGTHS[0]), _LENGTHS[1])
    why = f"99 % of the users have at most {profile.q99_events:,} events"
    return SizeGroup(
        values={
            "sequences.max_length": min(max(tens, length), _LONGEST_SEQUENCE),
            "windows.length": length,
            "windows.stride": length,
            "model.encoder.max_length": length,
        },
        why=f"{why}; twice that in a log of {profile.span_days:.1f} days, which will grow" if is_young else why,
    )


def _model(profile: LogProfile, tier: _Tier) -> SizeGroup:
    return SizeGroup(
        values={
            "model.fusion.id_width": tier.width,
            "model.fusion.token_width": tier.width,
            "model.encoder.layers": tier.layers,
            "model.encoder.heads": tier.heads,
            "model.encoder.ffn_width": tier.ffn_width,
            "model.head_width": tier.head_width,
        },
        why=f"a {tier.name} log, {profile.events:,} events on {profile.items:,} items",
    )


def _trainings(profile: LogProfile, tier: _Tier, length: int) -> dict[str, SizeGroup]:
    """Batches by the number of windows; epochs that are worth it, and that fit into the budget."""
    windows = profile.users + profile.events // length  # at most; a user's last window may be short
    batch = min(max(_power_of_two(windows // _STEPS_PER_EPOCH), _BATCHES[0]), _BATCHES[1])
    steps = -(-windows // batch)
    within_budget = tier.minutes * 60 * tier.speed / profile.events
    epochs = min(max(round(min(_STEPS / steps, within_budget)), _EPOCHS[0]), _EPOCHS[1])
    why = f"about {windows:,} windows, {steps:,} steps an epoch"
    universal = {
        "universal.epochs": epochs,
        "universal.batch_size": batch,
        "universal.patience": 3 if epochs > 10 else 2,
        "universal.optimizer.learning_rate": tier.learning_rate,
        "universal.max_minutes": tier.minutes,
    }
    targeted = {
        "targeted.epochs": min(epochs, 20),
        "targeted.batch_size": batch,
        "targeted.patience": 2,
        "targeted.max_minutes": tier.minutes / 2,
    }
    return {
        "universal": SizeGroup(values=universal, why=why),
        "targeted": SizeGroup(values=targeted, why=f"{why} at most; half the time a task"),
    }


def _periods(profile: LogProfile) -> SizeGroup:
    """Days to test and to validate on, and the share of users held out: enough of them must have something there."""
    share = _held_out_share(profile.users)
    usual = min(max(math.floor(profile.span_days / _PARTS), 1), _LONGEST_PERIOD)
    active = min(math.ceil(_days_with_judges(profile, share)), math.floor(profile.span_days / 2))
    validation = max(usual, active)
    why = f"a fifth of the {profile.span_days:,.1f} days before as_of, at most {_LONGEST_PERIOD}"
    if validation > usual:
        why = f"in {usual} days fewer than {_JUDGES} of the held-out users have an event"
    test = validation
    if profile.days_after >= 1:
        test = min(math.floor(profile.days_after), max(_LONGEST_PERIOD, validation))
        why += f"; {profile.days_after:,.1f} days lie after as_of"
    return SizeGroup(
        values={
            "evaluation.test_days": test,
            "windows.validation_days": validation,
            "windows.validation_user_share": share,
        },
        why=why,
    )


def _held_out_share(users: int) -> float:
    """A tenth; more of a few users, who would judge nothing, and 20,000 of very many."""
    if users < 1000:
        return 0.3 if users < 200 else 0.2
    return min(0.1, 20_000 / users)


def _days_with_judges(profile: LogProfile, share: float) -> float:
    """Days before ``as_of`` in which enough held-out users have an event; those of the most users known, if never."""
    shares = sorted((float(of_users), days) for of_users, days in profile.idle_days.items())
    enough = (days for of_users, days in shares if of_users * profile.users * share >= _JUDGES)
    return next(enough, shares[-1][1] if shares else 0.0)


def _power_of_two(number: int) -> int:
    """The largest that is not above ``number``; 1 for less than 2."""
    return 1 << max(number.bit_length() - 1, 0)
