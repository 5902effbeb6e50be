"""User ids inside text that is not theirs alone: a raw row that could not be read, a message.

An id is looked for word by word, and what stands between two words does not count: JSON escapes a quote, CSV doubles
it, and an id may hold any of them. ``auth0|42`` is the phrase ``auth0 42`` of two words, wherever it stands.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from pyspark.sql import Column
from pyspark.sql import functions as F

# What stands between the values of a row; spelt out, because Java, Python and RE2 differ about `\s`.
BETWEEN = r"""[\t\n\x0b\f\r "',:;|{}\[\]\\]"""

# What stands before and after an id in a sentence, where quotes and slashes are not always the ones around it.
EDGE = r"[^\p{L}\p{N}]"


def words_of(user_id: str) -> list[str]:
    """``user_id`` without what may stand between values; empty where it consists of nothing else."""
    return [word for word in re.split(f"{BETWEEN}+", user_id) if word]


def phrase_of(user_id: str) -> str:
    """What ``phrases`` holds where a text names ``user_id``."""
    return " ".join(words_of(user_id))


def phrase_pattern(user_id: str) -> str:
    """A regular expression of the same, for Python and RE2; to be put between two ``BETWEEN``."""
    return f"{BETWEEN}+".join(map(re.escape, words_of(user_id)))


def message_pattern(user_id: str) -> str:
    """A regular expression, for Java and RE2, of a sentence that names ``user_id``: no letter or digit is beside it."""
    return f"(^|{EDGE})({phrase_pattern(user_id) or re.escape(user_id)})($|{EDGE})"


def phrases(text: Column, sizes: Collection[int]) -> Column:
    """Every run of so many words in ``text``, as an array; null where it is null.

    Args:
        text: A column of strings.
        sizes: Numbers of words, each at least 1.
    """
    words = F.filter(F.split(text, f"{BETWEEN}+"), lambda word: word != "")
    return F.concat(*[words if size == 1 else _of_size(words, size) for size in sorted(sizes)])


def _of_size(words: Column, size: int) -> Column:
    def starting_at(position: Column) -> Column:
        return F.array_join(F.slice(words, position, size), " ")

    # A sequence from 1 to 0 would count backwards.
    starts = F.when(F.size(words) >= size, F.sequence(F.lit(1), F.size(words) - (size - 1)))
    return F.transform(F.coalesce(starts, F.array().cast("array<int>")), starting_at)
