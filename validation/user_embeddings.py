"""Gate of `user_embeddings`."""

from __future__ import annotations

from collections.abc import Collection

from schemas import USER_EMBEDDINGS
from schemas import columns as c
from validation import derived
from validation.checks import Check, declared, not_blank, one_of
from validation.embeddings import vectors

TABLE = USER_EMBEDDINGS
derive = derived.embedding_facts


def suite(*, width: int, tasks: Collection[str] | None = None) -> list[Check]:
    """Checks of `user_embeddings`.

    Args:
        width: Components of a vector.
        tasks: The tasks allowed (``Settings.task_names``); any by default.
    """
    checks = [*declared(USER_EMBEDDINGS), *not_blank(c.USER_ID, c.TASK, c.MODEL_VERSION), *vectors(width)]
    return checks if tasks is None else [*checks, one_of(c.TASK, tasks)]
