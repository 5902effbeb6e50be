"""Send what is published to a store outside: all of it first, then counted and compared, then readers are switched.

Whoever reads the store sees the old version until ``switch``; a push that ends before it has changed nothing for them,
and the next one goes on from what is there. ``switch`` is one step in Redis; in Milvus it is one a set, and may end
between two of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from precise_core.errors import StoreError
from precise_core.export.config import ExportConfig
from precise_core.export.published import Batch, VectorSet


class Store(Protocol):
    """A place of vectors that others read."""

    address: str

    def takes(self, vectors: VectorSet) -> bool:
        """Whether the set is one that belongs there."""
        ...

    def has(self, vectors: VectorSet) -> bool:
        """Whether readers are led to exactly this set already."""
        ...

    def send(self, vectors: VectorSet, batches: Iterable[Batch], *, whole: bool) -> int:
        """Make the set complete where no reader looks yet; returns how many vectors were sent over the network.

        Without ``whole`` what is there already is not sent again.
        """
        ...

    def count(self, vectors: VectorSet) -> int:
        """How many vectors of the set are there."""
        ...

    def read(self, vectors: VectorSet, sample: Sampled) -> Sequence[bytes | None]:
        """The vectors of a sample as the store returns them: little-endian float32; None where there is none."""
        ...

    def switch(self, sets: Sequence[VectorSet], *, only_these: bool) -> None:
        """Lead readers to these sets; with ``only_these`` those of other tasks stay."""
        ...

    def remove_old(self) -> int:
        """Have what no reader is led to removed, after a grace; how many keys or collections that concerns now."""
        ...


class Sampled:
    """About ``size`` vectors of a set, evenly spread, gathered while it is read for another purpose.

    Attributes:
        rows: Their places in the set.
        ids, expected: Id and bytes of each.
    """

    def __init__(self, vectors: VectorSet, size: int) -> None:
        self._every = max(1, vectors.rows // size)
        self.rows: list[int] = []
        self.ids: list[str] = []
        self.expected: list[bytes] = []

    def of(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        first = 0
        for ids, vectors_BD in batches:
            for place in range(-first % self._every, len(ids), self._every):
                self.rows.append(first + place)
                self.ids.append(ids[place])
                self.expected.append(vectors_BD[place].tobytes())
            first += len(ids)
            yield ids, vectors_BD


@dataclass(frozen=True)
class Pushed:
    """What became of the vectors: how many there are, and how many of them were sent."""

    rows: int
    sent: int


def push(
    store: Store,
    sets: Sequence[VectorSet],
    config: ExportConfig,
    *,
    whole: bool,
    only_these: bool,
    warn: Callable[[str], None],
) -> dict[str, Pushed]:
    """Bring a store to what is published; by name of the set.

    Raises:
        StoreError: It does not answer, or what it holds is not what was sent; the message says what readers see.
    """
    with _saying("readers still see what they saw before"):
        pushed = _send(store, sets, config, whole=whole)
    with _saying("while readers were being switched; run the job again"):
        store.switch(sets, only_these=only_these)
    try:
        store.remove_old()
    except StoreError as error:
        warn(f"{error}; readers see the new version, what it replaced is not removed yet: the next export does it")
    return pushed


@contextmanager
def _saying(what: str) -> Iterator[None]:
    try:
        yield
    except StoreError as error:
        raise StoreError(f"{error}; {what}") from error


def _send(store: Store, sets: Sequence[VectorSet], config: ExportConfig, *, whole: bool) -> dict[str, Pushed]:
    """All of it, counted and compared, where no reader looks yet."""
    pushed = {}
    for vectors in sets:
        if not vectors.rows:
            raise StoreError(f"{vectors.name}: {vectors.model_version} has no vectors")
        sampled = Sampled(vectors, config.sample)
        batches = sampled.of(vectors.batches(config.batch_rows))
        if whole or not store.has(vectors) or store.count(vectors) != vectors.rows:
            sent = store.send(vectors, batches, whole=whole)
        else:
            sent = sum(0 for _ in batches)
        _verify(store, vectors, sampled)
        pushed[vectors.name] = Pushed(vectors.rows, sent)
    return pushed


def _verify(store: Store, vectors: VectorSet, sampled: Sampled) -> None:
    """Refuse a store that does not hold every vector, or not bit for bit."""
    there = store.count(vectors)
    if there != vectors.rows:
        raise StoreError(
            f"{store.address}: {there:,} of {vectors.rows:,} vectors of {vectors.name} are there after all were sent; "
            "does the store evict or drop what is new?"
        )
    found = store.read(vectors, sampled)
    wrong = sum(one != expected for one, expected in zip(found, sampled.expected, strict=True))
    if wrong:
        raise StoreError(
            f"{store.address}: {wrong:,} of {len(found):,} vectors of {vectors.name} that were read back are not those "
            "that were sent; run the job again with --whole"
        )


def as_bytes(vector: Sequence[float] | np.ndarray) -> bytes:
    """Little-endian float32."""
    return np.asarray(vector, "<f4").tobytes()
