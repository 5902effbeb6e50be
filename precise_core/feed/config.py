"""Configuration of the feed."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from precise_core.config import Config

Reader = Literal["petastorm", "arrow"]


class FeedConfig(Config):
    """How training reads its windows. ``reader`` and ``prefetch_batches`` change the speed, never a batch."""

    reader: Reader = Field("petastorm", description="`petastorm`, or `arrow`: pyarrow alone, several times as fast.")
    prefetch_batches: int = Field(2, ge=0, description="Batches a thread prepares ahead of the trainer; 0 = none.")
    bucket_batches: int = Field(
        16,
        ge=0,
        description="Rows of so many batches are sorted by length, so that trimming pays; 0 or 1 = none. "
        "Validation rows are all sorted, unless none.",
    )


DEFAULT_FEED = FeedConfig()
