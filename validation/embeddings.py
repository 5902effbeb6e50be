"""What every table of vectors must be: one width, usable numbers, one checkpoint."""

from __future__ import annotations

from great_expectations import expectations as gxe

from schemas import columns as c
from validation import derived
from validation.checks import LARGEST, Check, between, holds


def vectors(width: int) -> list[Check]:
    """Checks of an `embedding` column of ``width`` components and of its `model_version`."""
    one_version = gxe.ExpectColumnUniqueValueCountToBeBetween(column=c.MODEL_VERSION, max_value=1)
    return [
        between(derived.WIDTH, width, width, f"{c.EMBEDDING} has {width} components"),
        between(derived.NORM, 0, LARGEST, f"{c.EMBEDDING} is finite and not all zero", above=True),
        holds(derived.HAS_NO_NULL_ELEMENT, f"no component of {c.EMBEDDING} is null"),
        Check(one_version, "all rows come from one checkpoint"),
    ]
