"""Which users were erased, kept as salted hashes: the only record of it.

<warehouse>/erasures/list.json   a salt, and the salted SHA-256 of every erased user_id with the time; of an id of
                                 several words also of its phrase, with their number

With the salt one can test whether a given user was erased, but not list the users. It is no table: a rollback must
not bring back an earlier state of it, and teams that read tables must not see the salt.

Inside text that is not a user's alone (a raw row that could not be read, a message) an id is looked for word by word,
and what is between two words does not count: JSON escapes a quote, CSV doubles it, and an id may hold any of them.
``auth0|42`` is the phrase ``auth0 42`` of two words, wherever it is.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from pyspark.sql import Column
from pyspark.sql import functions as F

from precise_core.artefacts import ERASURES
from precise_core.store import Store, store_at

_LIST = f"{ERASURES}/list.json"
# What is between the values of a row; spelt out, because Java, Python and RE2 differ about `\s`.
BETWEEN = r"""[\t\n\x0b\f\r "',:;|{}\[\]\\]"""
# What is before and after an id in a sentence, where quotes and slashes are not always the ones around it.
EDGE = r"[^\p{L}\p{N}]"


@dataclass
class ErasureList:
    """Who was erased, as salted hashes.

    Attributes:
        users: Hash of a user_id -> when it was erased, ISO 8601.
        phrases: Hash of the phrase of an id that is not the id itself -> its number of words.
        tag: Of the list as it was read; None where there is none yet.
    """

    store: Store
    salt: str
    users: dict[str, str] = field(default_factory=dict)
    phrases: dict[str, int] = field(default_factory=dict)
    tag: str | None = None

    @classmethod
    def of(cls, warehouse: str | Path) -> ErasureList:
        """The list of a warehouse; an empty one where nobody was erased."""
        store = store_at(warehouse)
        found = store.get(_LIST)
        if found is None:
            return cls(store, secrets.token_hex(16))
        described = json.loads(found.text)
        return cls(store, described["salt"], described["users"], described.get("phrases", {}), found.tag)

    @property
    def newest(self) -> datetime | None:
        """When the last user was erased."""
        return max(map(datetime.fromisoformat, self.users.values()), default=None)

    def hash_of(self, user_id: str) -> str:
        return hashlib.sha256(f"{self.salt}:{user_id}".encode()).hexdigest()

    def add(self, user_ids: Iterable[str]) -> None:
        """Remember the users, in one step; one who is there keeps the time of the first erasure.

        Raises:
            ConflictError: The list has changed since it was read, and nothing was written.
        """
        now, ids = datetime.now(UTC).isoformat(), list(user_ids)
        self.users = {self.hash_of(user_id): now for user_id in ids} | self.users
        others = [user_id for user_id in ids if words_of(user_id) not in ([], [user_id])]
        self.phrases |= {self.hash_of(phrase_of(user_id)): len(words_of(user_id)) for user_id in others}
        content = json.dumps({"salt": self.salt, "users": self.users, "phrases": self.phrases}, indent=2)
        if self.tag is None:
            self.tag = self.store.put_if_absent(_LIST, content, is_private=True)
        else:
            self.tag = self.store.put_if_match(_LIST, content, self.tag)

    def holds(self, user_id: Column) -> Column:
        """True where ``user_id`` is of an erased user; null where it is null."""
        return self._hash(user_id).isin(*self.users)

    @property
    def phrase_sizes(self) -> set[int]:
        """Numbers of words that a phrase of an erased user can have."""
        return {1, *self.phrases.values()}

    def holds_phrase(self, phrase: Column) -> Column:
        """True where ``phrase`` is what a text names an erased user by."""
        return self._hash(phrase).isin(*self.users, *self.phrases)

    def _hash(self, text: Column) -> Column:
        return F.sha2(F.concat(F.lit(f"{self.salt}:"), text), 256)


def words_of(user_id: str) -> list[str]:
    """``user_id`` without what may be between values; empty where it consists of nothing else."""
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
    """Every run of words in ``text`` whose length is one of ``sizes`` (>= 1), as an array; null where it is null."""
    words = F.filter(F.split(text, f"{BETWEEN}+"), lambda word: word != "")
    return F.concat(*[words if size == 1 else _of_size(words, size) for size in sorted(sizes)])


def _of_size(words: Column, size: int) -> Column:
    def starting_at(position: Column) -> Column:
        return F.array_join(F.slice(words, position, size), " ")

    # A sequence from 1 to 0 would count backwards.
    starts = F.when(F.size(words) >= size, F.sequence(F.lit(1), F.size(words) - (size - 1)))
    return F.transform(F.coalesce(starts, F.array().cast("array<int>")), starting_at)
