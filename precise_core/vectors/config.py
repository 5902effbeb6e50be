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
