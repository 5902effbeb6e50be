"""Configuration of the FAISS index."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from precise_core.config import Config


class IndexConfig(Config):
    """``kind`` `auto` = flat below 20,000 items, IVF above, IVF-PQ from two million.

    `ivf_sq` and `ivf_pq` search compressed vectors, of a byte and of half a byte per direction, and rank ``rerank``
    times as many as are requested by their whole vectors.
    Publication is gated on recall against exact search. ``probes`` None = as many lists as that recall needs.
    """

    kind: Literal["auto", "flat", "ivf", "ivf_sq", "ivf_pq", "hnsw"] = Field(
        "auto", description="Structure of the FAISS index."
    )
    lists: int | None = Field(
        None, ge=1, description="Inverted lists of `ivf`; about four times the root of the number of items by default."
    )
    probes: int | None = Field(
        None, ge=1, description="Lists searched per query; none = as many as `index.min_recall` needs."
    )
    rerank: int = Field(4, ge=1, description="`ivf_sq`, `ivf_pq`: places looked at per place returned.")
    min_recall: float = Field(
        0.95, ge=0, le=1, description="An index that finds less of the exact top 100 is not published."
    )
    check_queries: int = Field(1000, ge=1000, description="Queries it is measured with.")
