"""Configuration of negative sampling."""

from __future__ import annotations

from pydantic import Field, model_validator

from precise_core.config import Config


class NegativesConfig(Config):
    """Where negatives come from (N_u in eq. 5). ``whole_catalog``: every trained item, the full softmax.

    Whatever the source, what is right for a position (every item of the next instant, or within the horizon) is never
    its negative. ``hide_own_items``: nor is any other item of its window, earlier or later.
    """

    in_batch: bool = True
    uniform: int = Field(1024, ge=0)
    logq_correction: bool = True
    whole_catalog: bool = False
    hide_own_items: bool = Field(False, description="No item of a user's window is its negative.")

    @model_validator(mode="after")
    def _has_a_source(self) -> NegativesConfig:
        if not (self.in_batch or self.uniform or self.whole_catalog):
            raise ValueError("no source of negatives: set in_batch, uniform or whole_catalog")
        return self
