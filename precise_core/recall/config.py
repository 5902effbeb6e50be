"""Configuration of recall."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from precise_core.config import Config


class RecallConfig(Config):
    """U2I and U2I2I (VI-B, Fig. 6), and what a user without history gets instead."""

    k: int = Field(100, ge=1, description="Candidates per user and source.")
    seeds: int = Field(10, ge=1, description="Recent items of the user that others are looked up for.")
    neighbours: int = Field(30, ge=1, description="Items looked up per seed.")
    seed_vector: Literal["query", "item"] = Field(
        "query",
        description="What a seed's items are looked up with: `query`, the vector of a user with nothing but the seed, "
        "finds what comes next; `item`, the seed's own vector, finds what is like it.",
    )
    decay: float = Field(0.9, gt=0, le=1, description="Weight of the next older seed.")
    filter_seen: bool = Field(False, description="Leave out items of the user's sequence.")
    popular: bool = Field(True, description="Users without a vector get the task's most popular items.")
    popular_days: int = Field(28, ge=1, description="Days of events that the fallback counts.")
