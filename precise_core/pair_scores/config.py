"""Configuration of the scores of pairs."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from precise_core.config import Config


class PairListConfig(Config):
    """A team's own list of candidate pairs: a Delta table, or a folder or file of Parquet, with two columns."""

    path: str = Field(description="Folder of the Delta table, or of Parquet files.")
    user: str = Field("user_id", description="Its column with the user's id.")
    item: str = Field("item_id", description="Its column with the item's id.")


class ScoringConfig(Config):
    """``score_pairs``: which pairs, by which similarity, and how vectors and pairs come together.

    ``plan``: `broadcast` (every node gets all item vectors once), `shuffle` (pairs and item vectors meet by bucket of
    items), `auto` (by the size of the item vectors). ``unknown_items``, for a pair whose item has no vector: `count`
    (left out, counted and reported) or `text` (an item that is in `items` gets a vector from its text alone; the others
    are counted).
    """

    similarity: Literal["dot", "cosine"] = Field("dot", description="Of the two vectors; dot is the model's own score.")
    plan: Literal["auto", "broadcast", "shuffle"] = Field("auto", description="How vectors and pairs come together.")
    broadcast_mb: int = Field(512, ge=1, description="`auto` sends item vectors of up to this size (MB) to every node.")
    unknown_items: Literal["count", "text"] = Field("count", description="What becomes of an item without a vector.")
    tables: tuple[Literal["recall_candidates", "impressions"], ...] = Field(
        ("recall_candidates", "impressions"), description="Tables whose pairs are scored, where they exist."
    )
    pairs: tuple[PairListConfig, ...] = Field((), description="Further lists of pairs.")
