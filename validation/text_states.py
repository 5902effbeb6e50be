"""Gate of `text_states`."""

from __future__ import annotations

from great_expectations import expectations as gxe

from schemas import TEXT_STATES
from schemas import columns as c
from validation import derived
from validation.checks import LARGEST, Check, between, declared, holds, not_blank

TABLE = TEXT_STATES
derive = derived.state_facts


def suite(*, width: int, max_tokens: int) -> list[Check]:
    """Checks of `text_states` of a language model of hidden size ``width``, texts of at most ``max_tokens``."""
    one_model = gxe.ExpectColumnUniqueValueCountToBeBetween(column=c.LANGUAGE_MODEL, max_value=1)
    return [
        *declared(TEXT_STATES),
        *not_blank(c.TEXT_HASH, c.TOKENIZER_ID, c.LANGUAGE_MODEL),
        between(c.TOKEN_COUNT, 1, max_tokens, "is between one token and the most that are kept"),
        between(derived.WIDTH, width, width, f"{c.STATES} has {width} components per token"),
        between(derived.NORM, 0, LARGEST, f"{c.STATES} is finite and not all zero", above=True),
        holds(derived.HAS_NO_NULL_ELEMENT, f"no component of {c.STATES} is null"),
        Check(one_model, "all rows come from one language model"),
    ]
