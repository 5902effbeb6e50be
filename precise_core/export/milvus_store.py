"""Milvus: a collection a set of vectors, and an alias that leads to the published one.

<prefix>_<task>_<items or users>           alias, what readers search
<prefix>_<task>_<items or users>_<digest>  collection: `row` (its key), `id`, `model_version`, `vector`;
                                           searched by inner product

A collection is named after its content, so one that readers are led to changes only to be repaired, and one that is the
same in the next publication stays. Ids are no keys: clients put keys into expressions without escaping them.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from precise_core.errors import StoreError
from precise_core.export.clients import require_client
from precise_core.export.config import ExportConfig, MilvusConfig
from precise_core.export.published import USERS, Batch, VectorSet
from precise_core.export.push import Sampled, as_bytes
from schemas import columns as c

_ROW, _ID, _VECTOR, _COUNT = "row", "id", "vector", "count(*)"
_LONGEST_ID = 2048  # bytes: 512 characters, as the server takes them


class MilvusStore:
    """A connection; ``token`` None = the server asks for none."""

    def __init__(self, config: MilvusConfig, export: ExportConfig, token: str | None) -> None:
        self._milvus = require_client("pymilvus", "pymilvus")
        logging.getLogger("pymilvus").setLevel(logging.CRITICAL)  # it prints the stack of what is told in one line
        self.address, self._config, self._export = config.uri, config, export
        self._before: set[str] = set()
        self._client: Any = self._answer(
            self._milvus.MilvusClient, config.uri, token=token or "", timeout=export.timeout_seconds
        )

    def takes(self, vectors: VectorSet) -> bool:
        return self._config.users or vectors.kind != USERS

    def has(self, vectors: VectorSet) -> bool:
        return self._led_to().get(self._alias(vectors)) == self._collection(vectors)

    def send(self, vectors: VectorSet, batches: Iterable[Batch], *, whole: bool) -> int:  # noqa: ARG002 - always whole
        name, sent = self._collection(vectors), 0
        if not self.has(vectors):
            self._create(name, vectors)
        for ids, vectors_BD in batches:
            rows = [
                {_ROW: sent + place, _ID: one, c.MODEL_VERSION: vectors.model_version, _VECTOR: vector}
                for place, (one, vector) in enumerate(zip(ids, vectors_BD, strict=True))
            ]
            self._answer(self._client.upsert, name, rows)
            sent += len(ids)
        self._answer(self._client.flush, name)
        self._answer(self._client.load_collection, name)
        return sent

    def count(self, vectors: VectorSet) -> int:
        name = self._collection(vectors)
        found = self._answer(self._client.query, name, filter="", output_fields=[_COUNT], consistency_level="Strong")
        return int(found[0][_COUNT])

    def read(self, vectors: VectorSet, sample: Sampled) -> Sequence[bytes | None]:
        name, found = self._collection(vectors), dict[int, tuple[str, bytes]]()
        for start in range(0, len(sample.rows), self._export.batch_rows):
            rows = sample.rows[start : start + self._export.batch_rows]
            answer = self._answer(self._client.get, name, ids=rows, output_fields=[_ROW, _ID, _VECTOR])
            found |= {one[_ROW]: (one[_ID], as_bytes(one[_VECTOR])) for one in answer}
        pairs = [found.get(row, (None, None)) for row in sample.rows]
        return [vector if one == own else None for (one, vector), own in zip(pairs, sample.ids, strict=True)]

    def switch(self, sets: Sequence[VectorSet], *, only_these: bool) -> None:
        """One alias after another: a switch that ends half way leaves readers some old sets, until the next push."""
        led_to = self._led_to()
        self._before = set(led_to.values())
        for vectors in sets:
            alias, name = self._alias(vectors), self._collection(vectors)
            if alias not in led_to:
                self._answer(self._client.create_alias, name, alias)
            elif led_to[alias] != name:
                self._answer(self._client.alter_alias, name, alias)
        for alias in led_to.keys() - {self._alias(vectors) for vectors in sets} if not only_these else ():
            self._answer(self._client.drop_alias, alias)

    def remove_old(self) -> int:
        """Collections that were replaced before this push; those that it has replaced go with the next one."""
        old = set(self._collections()) - set(self._led_to().values()) - self._before
        for name in old:
            self._answer(self._client.drop_collection, name)
        return len(old)

    def close(self) -> None:
        self._client.close()

    def _alias(self, vectors: VectorSet) -> str:
        return f"{self._config.prefix}_{vectors.task}_{vectors.kind}"

    def _collection(self, vectors: VectorSet) -> str:
        return f"{self._alias(vectors)}_{vectors.digest}"

    def _collections(self) -> list[str]:
        is_ours = re.compile(rf"{self._config.prefix}_.+_(users|items)_[0-9a-f]{{16}}")
        return [name for name in self._answer(self._client.list_collections) if is_ours.fullmatch(name)]

    def _led_to(self) -> dict[str, str]:
        """Collection by alias, of ours."""
        found: dict[str, str] = {}
        for name in self._collections():
            aliases = self._answer(self._client.list_aliases, name)["aliases"]
            found |= {alias: name for alias in aliases if name.startswith(alias)}
        return found

    def _create(self, name: str, vectors: VectorSet) -> None:
        """An empty collection; what a push that was killed has left in it is gone."""
        kinds = self._milvus.DataType
        schema = self._client.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field(_ROW, kinds.INT64, is_primary=True)
        schema.add_field(_ID, kinds.VARCHAR, max_length=_LONGEST_ID)
        schema.add_field(c.MODEL_VERSION, kinds.VARCHAR, max_length=_LONGEST_ID)
        schema.add_field(_VECTOR, kinds.FLOAT_VECTOR, dim=vectors.width)
        index = self._client.prepare_index_params()
        index.add_index(_VECTOR, index_type="AUTOINDEX", metric_type="IP")
        self._answer(self._client.drop_collection, name)
        self._answer(self._client.create_collection, name, schema=schema, index_params=index)

    def _answer(self, ask: Callable[..., Any], *what: Any, **how: Any) -> Any:
        """What the store answers; every question may be asked again."""
        for wait in (*(min(2.0, 0.1 * 2**n) for n in range(self._export.tries - 1)), None):
            try:
                return ask(*what, **how)
            except self._milvus.MilvusException as error:
                if wait is None:
                    raise StoreError(f"{self.address}: {error.message}") from error
                time.sleep(wait)
        raise AssertionError("the last try returns or raises")
