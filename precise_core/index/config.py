"""Configuration of the FAISS index and of recall."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from precise_core.config import Config

U2I, U2I2I, POPULAR = "u2i", "u2i2i", "popular"  # values of the column `source`


class IndexConfig(Config):
    """``kind`` `auto` = flat below 20,000 items, IVF above, IVF-PQ from two million.

    `ivf_sq` and `ivf_pq` search compressed vectors, of a byte and of half a byte per direction, and rank ``rerank``
    times as many as are asked for by their whole vectors.
    Publication is gated on recall against exact search. ``probes`` None = as many lists as that recall takes.
    """

    kind: Literal["auto", "flat", "ivf", "ivf_sq", "ivf_pq", "hnsw"] = "auto"
    lists: int | None = Field(None, ge=1)
    probes: int | None = Field(None, ge=1)
    rerank: int = Field(4, ge=1, description="`ivf_sq`, `ivf_pq`: places looked at per place returned.")
    min_recall: float = Field(0.95, ge=0, le=1)
    check_queries: int = Field(1000, ge=1000)


class RecallConfig(Config):
    """U2I and U2I2I (VI-B, Fig. 6), merged, and what a user without history gets instead."""

    k: int = Field(100, ge=1)
    seeds: int = Field(10, ge=1, description="Recent items of the user that neighbours are looked up for.")
    neighbours: int = Field(30, ge=1)
    decay: float = Field(0.9, gt=0, le=1, description="Weight of the next older seed.")
    filter_seen: bool = False
    quotas: dict[str, float] = Field(
        {U2I: 1.0, U2I2I: 1.0},
        description="Places of each source in the merged list, in proportion; 0 = the source is not merged.",
    )
    popular: bool = Field(True, description="Users without a vector get the task's most popular items.")
    popular_days: int = Field(28, ge=1, description="Days of events that the fallback counts.")

    @field_validator("quotas")
    @classmethod
    def _of_the_sources(cls, value: dict[str, float]) -> dict[str, float]:
        if set(value) - {U2I, U2I2I} or min(value.values(), default=-1.0) < 0 or sum(value.values()) == 0:
            raise ValueError(f"{value}: quotas of {U2I} and {U2I2I} are needed, at least 0, and one above 0")
        return value
