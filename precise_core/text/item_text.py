"""The text of an item (T_i, section III) as a Spark column."""

from collections.abc import Sequence

from pyspark.sql import Column
from pyspark.sql import functions as F

from schemas import columns as c


def item_text(fields: Sequence[str], max_characters: int) -> Column:
    """The fields joined by a space, white space collapsed, capped; empty where the item has no text.

    Args:
        fields: Any of title, description, categories, in the order in which the model reads them.
        max_characters: Longer texts are cut: a tokenizer given ten megabytes stalls a task.
    """
    parts = [F.concat_ws(" ", F.col(name)) if name == c.CATEGORIES else F.col(name) for name in fields]
    # Runs of white space but for a single space, which stays as it is: most texts have none, and cost no replacement.
    joined = F.regexp_replace(F.concat_ws(" ", *parts), r" \s+|[^\S ]\s*", " ")
    return F.substring(F.trim(joined), 1, max_characters)
