"""Configuration of negative sampling."""

from __future__ import annotations

from pydantic import Field, model_validator

from precise_core.config import Config


class NegativesConfig(Config):
    """Where negatives come from (N_u in eq. 5). ``whole_catalog``: every trained item, the full softmax."""

    in_batch: bool = True
    uniform: int = Field(1024, ge=0)
    logq_correction: bool = True
    whole_catalog: bool = False
    hide_own_items: bool = Field(False, description="A user's own items of the window are never its negatives.")

    @model_validator(mode="after")
    def _has_a_source(self) -> NegativesConfig:
        if not (self.in_batch or self.uniform or self.whole_catalog):
            raise ValueError("no source of negatives: set in_batch, uniform or whole_catalog")
        return self
