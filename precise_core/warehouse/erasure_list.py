"""Who asked to be forgotten: the one place that remembers it, without remembering who they are.

<warehouse>/erasures/list.json   a salt, and the salted SHA-256 of every erased user_id with the time; of an id of
                                 several words also of what a text is searched for (id_words), with their number

Whoever holds the salt can test whether a given user was erased; nobody can list them. It is no table: a rollback must
not bring it back to an earlier state, and teams that read tables do not get to see the salt.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from pyspark.sql import Column
from pyspark.sql import functions as F

from precise_core.artefacts import ERASURES, replace_file
from precise_core.warehouse.id_words import phrase_of, words_of


@dataclass
class ErasureList:
    """Who was erased, as salted hashes.

    Attributes:
        users: Hash of a user_id -> when it was erased, ISO 8601.
        phrases: Hash of the phrase of an id that is not the id itself (``id_words``) -> its number of words.
    """

    file: Path
    salt: str
    users: dict[str, str] = field(default_factory=dict)
    phrases: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, warehouse: str | Path) -> ErasureList:
        """The list of a warehouse; an empty one where nobody was erased."""
        file = Path(warehouse) / ERASURES / "list.json"
        if not file.is_file():
            return cls(file, secrets.token_hex(16))
        described = json.loads(file.read_text(encoding="utf-8"))
        return cls(file, described["salt"], described["users"], described.get("phrases", {}))

    @property
    def newest(self) -> datetime | None:
        """When the last user was erased."""
        return max(map(datetime.fromisoformat, self.users.values()), default=None)

    def hash_of(self, user_id: str) -> str:
        return hashlib.sha256(f"{self.salt}:{user_id}".encode()).hexdigest()

    def add(self, user_ids: Iterable[str]) -> None:
        """Remember the users, in one step; one who is there keeps the time of the first erasure."""
        now, ids = datetime.now(UTC).isoformat(), list(user_ids)
        self.users = {self.hash_of(user_id): now for user_id in ids} | self.users
        others = [user_id for user_id in ids if words_of(user_id) not in ([], [user_id])]
        self.phrases |= {self.hash_of(phrase_of(user_id)): len(words_of(user_id)) for user_id in others}
        content = {"salt": self.salt, "users": self.users, "phrases": self.phrases}
        replace_file(self.file, json.dumps(content, indent=2), mode=0o600)

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
