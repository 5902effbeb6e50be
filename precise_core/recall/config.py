"""Configuration of recall."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from precise_core.config import Config
from schemas import columns as c


class RecallConfig(Config):
    """U2I and U2I2I (VI-B, Fig. 6), merged, and what a user without history gets instead."""

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
    quotas: dict[str, float] = Field(
        {c.U2I: 1.0, c.U2I2I: 1.0},
        description="Places of each source in the merged list, in proportion; 0 = the source is not merged.",
    )
    popular: bool = Field(True, description="Users without a vector get the task's most popular items.")
    popular_days: int = Field(28, ge=1, description="Days of events that the fallback counts.")

    @field_validator("quotas")
    @classmethod
    def _of_the_sources(cls, value: dict[str, float]) -> dict[str, float]:
        if set(value) - {c.U2I, c.U2I2I} or min(value.values(), default=-1.0) < 0 or sum(value.values()) == 0:
            raise ValueError(f"{value}: quotas of {c.U2I} and {c.U2I2I} are needed, at least 0, and one above 0")
        return value
