"""Redis: a key a vector, and one key that names where the published ones are.

<prefix>:current                              hash: `<task>:users`, `<task>:items` -> the first part of their keys,
                                              `<task>:model_version`, `<task>:as_of`
<prefix>:<task>:<users or items>:<digest>:<id> the vector: little-endian float32, 4 bytes a dimension

A set has a prefix of its own, named after its content, so nothing that readers are led to is ever written to, and a
set that is published again, or is the same in the next publication, stays. What is the same vector in the previous set
is copied by the server itself, which compares sums: nothing has to be remembered here of what was sent before.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

from precise_core.errors import StoreError
from precise_core.export.clients import require_client
from precise_core.export.config import ExportConfig, RedisConfig
from precise_core.export.published import Batch, VectorSet
from precise_core.export.push import Sampled

_SCANNED = 1000
# KEYS: new and old key by turns; ARGV: SHA-1 of what the new ones have to hold. Returns the places that are lacking.
_TAKE_OVER = """
local lacking = {}
for place = 1, #ARGV do
  local new, old = KEYS[2 * place - 1], KEYS[2 * place]
  local there = redis.call('GET', new)
  if there and redis.sha1hex(there) == ARGV[place] then
    redis.call('PERSIST', new)
  else
    local before = redis.call('GET', old)
    if before and redis.sha1hex(before) == ARGV[place] then
      redis.call('SET', new, before)
    else
      lacking[#lacking + 1] = place
    end
  end
end
return lacking
"""
# KEYS: what nobody is led to any more; ARGV[1]: seconds until it goes. One that is on its way out keeps its time.
_EXPIRE = """
local begun = 0
for _, key in ipairs(KEYS) do
  if redis.call('TTL', key) == -1 then
    begun = begun + redis.call('EXPIRE', key, ARGV[1])
  end
end
return begun
"""


class RedisStore:
    """A connection; ``password`` None = the server asks for none."""

    def __init__(self, config: RedisConfig, export: ExportConfig, password: str | None) -> None:
        redis = require_client("redis", "redis")
        retry = redis.retry.Retry(redis.backoff.ExponentialBackoff(cap=2, base=0.1), export.tries - 1)
        self.address, self._config = config.url, config
        self._rows, self._error = export.batch_rows, redis.RedisError
        self._client: Any = redis.Redis.from_url(
            config.url,
            username=config.user,
            password=password,
            retry=retry,
            socket_timeout=export.timeout_seconds,
            socket_connect_timeout=export.timeout_seconds,
        )
        self._take_over = self._client.register_script(_TAKE_OVER)
        self._expire = self._client.register_script(_EXPIRE)
        with self._answering():
            self._client.ping()

    def takes(self, vectors: VectorSet) -> bool:  # noqa: ARG002 - both kinds
        return True

    def has(self, vectors: VectorSet) -> bool:
        return self._led_to().get(vectors.name.encode()) == self._prefix(vectors)

    def send(self, vectors: VectorSet, batches: Iterable[Batch], *, whole: bool) -> int:
        prefix, sent = self._prefix(vectors), 0
        before = b"" if whole else self._led_to().get(vectors.name.encode(), prefix)
        for ids, vectors_BD in batches:
            names = [one.encode() for one in ids]
            values = [row.tobytes() for row in vectors_BD]
            lacking = range(len(ids)) if whole else self._lacking(names, values, prefix, before)
            if lacking:
                with self._answering():
                    self._client.mset({prefix + names[place]: values[place] for place in lacking})
            sent += len(lacking)
        return sent

    def count(self, vectors: VectorSet) -> int:
        prefix, there = self._prefix(vectors), 0
        for ids in vectors.ids(self._rows):
            with self._answering():
                there += self._client.exists(*(prefix + one.encode() for one in ids))
        return there

    def read(self, vectors: VectorSet, sample: Sampled) -> Sequence[bytes | None]:
        prefix, found = self._prefix(vectors), list[bytes | None]()
        for start in range(0, len(sample.ids), self._rows):
            keys = [prefix + one.encode() for one in sample.ids[start : start + self._rows]]
            with self._answering():
                found += self._client.mget(keys)
        return found

    def switch(self, sets: Sequence[VectorSet], *, only_these: bool) -> None:
        names = self._led_to() if only_these else {}
        for vectors in sets:
            task = vectors.task.encode()
            names[vectors.name.encode()] = self._prefix(vectors)
            names[task + b":model_version"] = vectors.model_version.encode()
            names[task + b":as_of"] = vectors.as_of.isoformat().encode()
        with self._answering():
            both = self._client.pipeline(transaction=True)
            both.delete(self._current)
            both.hset(self._current, mapping=names)
            both.execute()

    def remove_old(self) -> int:
        prefix = self._config.prefix
        is_ours = re.compile(rb"%s:[^:]+:(users|items):[0-9a-f]{16}:" % prefix.encode())
        kept, begun, cursor = set(self._led_to().values()), 0, -1
        while cursor:
            with self._answering():
                cursor, keys = self._client.scan(max(cursor, 0), match=f"{prefix}:*", count=_SCANNED)
                found = [(key, is_ours.match(key)) for key in keys]
                old = [key for key, match in found if match and match[0] not in kept]
                begun += self._expire(keys=old, args=[self._config.grace_seconds]) if old else 0
        return begun

    def close(self) -> None:
        self._client.close()

    @property
    def _current(self) -> str:
        return f"{self._config.prefix}:current"

    def _prefix(self, vectors: VectorSet) -> bytes:
        return f"{self._config.prefix}:{vectors.name}:{vectors.digest}:".encode()

    def _led_to(self) -> dict[bytes, bytes]:
        with self._answering():
            return cast(dict[bytes, bytes], self._client.hgetall(self._current))

    def _lacking(self, names: list[bytes], values: list[bytes], prefix: bytes, before: bytes) -> list[int]:
        keys = [first + name for name in names for first in (prefix, before)]
        sums = [hashlib.sha1(value).hexdigest() for value in values]
        with self._answering():
            return [place - 1 for place in self._take_over(keys=keys, args=sums)]

    @contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except self._error as error:
            raise StoreError(f"{self.address}: {error}") from error
