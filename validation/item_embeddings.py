"""Gate of `item_embeddings`."""

from __future__ import annotations

from schemas import ITEM_EMBEDDINGS
from schemas import columns as c
from validation import derived
from validation.checks import Check, between, declared, not_blank
from validation.embeddings import vectors

TABLE = ITEM_EMBEDDINGS
derive = derived.embedding_facts


def suite(*, width: int) -> list[Check]:
    """Checks of `item_embeddings`, whose vectors have ``width`` components."""
    return [
        *declared(ITEM_EMBEDDINGS),
        *not_blank(c.ITEM_ID, c.MODEL_VERSION),
        between(c.ITEM_INDEX, 1, None, "is a row of the vocabulary, not padding"),
        *vectors(width),
    ]
