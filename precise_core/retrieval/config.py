"""Configuration of the FAISS index and of recall."""

from typing import Literal

from pydantic import Field

from precise_core.config import Config


class IndexConfig(Config):
    """``kind`` `auto` = flat below 20,000 items, IVF above. Publication is gated on recall against exact search."""

    kind: Literal["auto", "flat", "ivf", "hnsw"] = "auto"
    lists: int | None = Field(None, ge=1)
    probes: int = Field(32, ge=1)
    min_recall: float = Field(0.95, ge=0, le=1)
    check_queries: int = Field(1000, ge=1)


class RecallConfig(Config):
    """U2I and U2I2I (VI-B, Fig. 6)."""

    k: int = Field(100, ge=1)
    seeds: int = Field(10, ge=1, description="Recent items of the user that neighbours are looked up for.")
    neighbours: int = Field(30, ge=1)
    decay: float = Field(0.9, gt=0, le=1, description="Weight of the next older seed.")
    filter_seen: bool = False
