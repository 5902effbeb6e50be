"""Configuration of batch encoding."""

from __future__ import annotations

from pydantic import Field

from precise_core.config import Config


class EncodingConfig(Config):
    """How `embed_items` and `embed_users` write their vectors."""

    part_mib: float = Field(
        128.0,
        gt=0,
        le=1024,
        description="A new checkpoint's vectors are committed in parts of about this size, each a file or a few; a "
        "killed job loses one part.",
    )


class PairListConfig(Config):
    """A team's own list of candidate pairs: a Delta table, or a folder or file of Parquet, with two columns."""

    path: str = Field(description="Folder of the Delta table, or of Parquet files.")
    user: str = Field("user_id", description="Its column with the user's id.")
    item: str = Field("item_id", description="Its column with the item's id.")
