"""Words that programs write where an id is missing. As ids they would be one user, or one item, of very many rows."""

from __future__ import annotations

from collections.abc import Mapping

from pyspark.sql import Column
from pyspark.sql import functions as F

from schemas import EVENTS, IMPRESSIONS, ITEMS
from schemas import columns as c

# Compared without case and without blanks around them.
MISSING_WORDS = (
    *(
        "null",
        "(null)",
        "[null]",
        "<null>",
        "nil",
        "none",
        "(none)",
        "<none>",
        "nan",
        "-nan",
        "na",
        "n/a",
        "n.a.",
        "#n/a",
    ),
    *("<na>", "nat", "\\n", "undefined", "missing", "empty", "(empty)", "(blank)", "blank", "unknown", "anonymous"),
    *("-", "--", "?", ".", "_", '""', "''", "{}", "[]", "-1", "00000000-0000-0000-0000-000000000000"),
)
IDS: Mapping[str, tuple[str, ...]] = {
    EVENTS.name: (c.USER_ID, c.ITEM_ID),
    ITEMS.name: (c.ITEM_ID,),
    IMPRESSIONS.name: (c.USER_ID, c.ITEM_ID),
}


def missing_word(name: str) -> Column:
    """The id of an accepted row, as it is, where it is such a word; else null."""
    is_word = F.col(c.REASON).isNull() & F.lower(F.trim(name)).isin(*MISSING_WORDS)
    return F.when(is_word, F.col(name)).alias(name)
