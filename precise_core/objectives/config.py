"""Configuration of negative sampling."""

from __future__ import annotations

from pydantic import Field, model_validator

from precise_core.config import Config


class NegativesConfig(Config):
    """Where negatives come from (N_u in eq. 5). ``whole_catalog``: every trained item, the full softmax.

    Whatever the source, what is right for a position (every item of the next instant, or within the horizon) is never
    its negative. ``hide_own_items``: nor is any other item of its window, earlier or later. ``alike_above``: nor is an
    item whose vector has a higher cosine with one of the position's targets, because it is nearly the same item; HLLM
    has .99.
    """

    in_batch: bool = Field(True, description="Targets of other positions of the batch are negatives.")
    uniform: int = Field(1024, ge=0, description="Items drawn uniformly from the trained ones, per batch.")
    logq_correction: bool = Field(True, description="Subtract the log of the sampling probability; false = the paper.")
    whole_catalog: bool = Field(
        False, description="Every trained item is a negative (full softmax), nothing is sampled."
    )
    hide_own_items: bool = Field(False, description="No item of a user's window is its negative.")
    alike_above: float | None = Field(
        None, gt=0, lt=1, description="Cosine with a target above which an item is no negative; null = no limit."
    )

    @model_validator(mode="after")
    def _has_a_source(self) -> NegativesConfig:
        if not (self.in_batch or self.uniform or self.whole_catalog):
            raise ValueError("no source of negatives: set in_batch, uniform or whole_catalog")
        return self
