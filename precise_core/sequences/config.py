"""Configuration of sequences and training windows."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Literal

from pydantic import Field, model_validator

from precise_core.config import Config

LEAVE_ONE_OUT = "leave_one_out"


class SequencesConfig(Config):
    """`user_sequences`: the last `max_length` events per user and task, in `buckets` partitions."""

    max_length: int = Field(200, ge=1, description="Newest events kept per user and task; no task keeps more.")
    max_lengths: dict[str, Annotated[int, Field(ge=1)]] = Field(
        default_factory=dict, description="Tasks that keep fewer: name -> number; a smaller number later only trims."
    )
    buckets: int = Field(4, ge=1, le=65_536, description="Partitions by hash of the user, per task.")

    @model_validator(mode="after")
    def _within_the_common_maximum(self) -> SequencesConfig:
        longer = {task: length for task, length in self.max_lengths.items() if length > self.max_length}
        if longer:
            raise ValueError(f"max_lengths {longer} are above max_length {self.max_length}, the maximum of every task")
        return self

    def length_of(self, task: str) -> int:
        """N of a task."""
        return self.max_lengths.get(task, self.max_length)


class WindowsConfig(Config):
    """`training_windows`: slices of `length` events, a new one every `stride` events, counted from the newest.

    Split `time`: a share of the users is held out for validation: their events of the last `validation_days` before
    `as_of` are not in the train split but are the truth of the validation split.

    A user with fewer than `min_events` events of a task gives it no train window; the paper: 3. The last events that
    leave-one-out holds out count, those that split `time` holds out do not.

    Split `leave_one_out`: every user's last event is the truth of the test split, the one before it that of the
    validation split (users with at least three events); `validation_days` and `validation_user_share` are not used.
    """

    length: int = Field(100, ge=2, description="Positions of a training window.")
    stride: int = Field(100, ge=1, description="Events between the starts of two windows of a user.")
    split: Literal["time", "leave_one_out"] = Field(
        "time", description="What is held out: the last days of some users, or the last two events of everybody."
    )
    train_includes_validation: bool = Field(False, description="Leave-one-out: the validation item is trained on too.")
    validation_days: int = Field(28, ge=1, description="Days before `as_of` that are the truth of the held-out users.")
    validation_user_share: float = Field(
        0.1, gt=0, lt=1, description="Share of the users held out for model selection."
    )
    max_targets: int = Field(64, ge=1, description="Truth items kept per held-out user.")
    min_events: int = Field(1, ge=1, description="Users with fewer events of a task are not trained on.")

    def validation_begins(self, as_of: datetime) -> datetime | None:
        """The instant from which on events of held-out users are the truth; None where it is each user's last event."""
        return None if self.split == LEAVE_ONE_OUT else as_of - timedelta(days=self.validation_days)

    @model_validator(mode="after")
    def _no_gaps(self) -> WindowsConfig:
        if self.stride > self.length:
            raise ValueError(
                f"stride {self.stride} is above length {self.length}: events between windows would be lost"
            )
        return self

    @model_validator(mode="after")
    def _validation_is_an_event(self) -> WindowsConfig:
        if self.train_includes_validation and self.split != LEAVE_ONE_OUT:
            raise ValueError(
                f"train_includes_validation needs split {LEAVE_ONE_OUT!r}, it is {self.split!r}: by time, the other "
                "users are trained on every event already"
            )
        return self
