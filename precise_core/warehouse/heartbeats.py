"""The lock and the leases of a warehouse in an object store, where no kernel knows who lives: a sign of life instead.

Whoever holds something writes it again every ``BEAT_SECONDS``, each time as other content, so that each sign has a tag
of its own. What was not written for ``LIFE_SECONDS``, by the clock of the store, is void. A lock is taken over by
writing it under the condition that it is still as it was read: of two who do, one wins, and the one before, should it
come back to life, finds its tag gone. So it asks before each commit (``Beats.ask``) instead of reading a clock.
"""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from precise_core.artefacts import READERS
from precise_core.errors import ConflictError, StoreError, WarehouseBusyError
from precise_core.store import Store, Stored
from precise_core.warehouse.holders import LOCK_FILE, Holder, Lease, read_holder, read_lease

BEAT_SECONDS, LIFE_SECONDS = 20.0, 180.0


class Beats:
    """The lock that this process holds."""

    def __init__(self, store: Store, holder: Holder, found: Stored | None) -> None:
        self._store, self._holder, self._token, self._count = store, holder, uuid.uuid4().hex, 0
        self._mutex = threading.Lock()
        if found is None:
            self._tag = store.put_if_absent(LOCK_FILE, self._content())
        else:
            self._tag = store.put_if_match(LOCK_FILE, self._content(), found.tag)

    def ask(self) -> None:
        """Give a sign of life.

        Raises:
            WarehouseBusyError: Someone else has taken over.
            StoreError: The store does not answer.
        """
        with self._mutex:
            self._count += 1
            try:
                self._tag = self._store.put_if_match(LOCK_FILE, self._content(), self._tag)
            except ConflictError as error:
                # Where the answer to the last sign was lost, the object is ours under a tag that we do not know.
                found = self._store.get(LOCK_FILE)
                if found is None or _content(found).get("token") != self._token:
                    raise WarehouseBusyError(
                        f"warehouse {self._store.root} is no longer held by this process, which gave no sign for "
                        f"{LIFE_SECONDS:g} s, but by {(found and read_holder(found.content)) or 'nobody'}; nothing "
                        "more is written, start again"
                    ) from error
                self._tag = self._store.put_if_match(LOCK_FILE, self._content(), found.tag)

    def release(self) -> None:
        """Say that nobody holds it; where someone else has taken over, that is left as it is."""
        with self._mutex, suppress(StoreError):
            self._store.put_if_match(LOCK_FILE, "", self._tag)

    def _content(self) -> str:
        return json.dumps({**vars(self._holder), "token": self._token, "sign": self._count})


@contextmanager
def remote_lock(store: Store, holder: Holder) -> Iterator[tuple[Holder | None, Beats]]:
    """Hold the warehouse; yields the holder before, where it was killed, and what asks whether it is still held."""
    found = store.get(LOCK_FILE)
    before = read_holder(found.content) if found else None
    if found and before:
        silent_seconds = (store.now() - found.modified).total_seconds()
        if silent_seconds <= LIFE_SECONDS:
            raise WarehouseBusyError(
                f"warehouse {store.root} is in use by {before}, last sign of life {max(silent_seconds, 0):.0f} s ago; "
                f"wait for it to end; one that was killed can be followed {LIFE_SECONDS:g} s after its last sign"
            )
    try:
        beats = Beats(store, holder, found)
    except ConflictError as error:
        raise WarehouseBusyError(
            f"warehouse {store.root} was taken by another process at this very moment; wait for it to end"
        ) from error
    _require_conditions(store)
    with repeated(beats.ask):
        try:
            yield before, beats
        finally:
            beats.release()


def _require_conditions(store: Store) -> None:
    """Refuse a server that ignores conditions: it keeps no two writers apart, and says nothing."""
    of_nobody = json.dumps({"e_tag": '"of nobody"', "version": "0"})
    for header, put in (
        ("If-None-Match", lambda: store.put_if_absent(LOCK_FILE, "")),
        ("If-Match", lambda: store.put_if_match(LOCK_FILE, "", of_nobody)),
    ):
        with suppress(ConflictError):
            put()
            raise StoreError(
                f"{store.root}: its server ignores {header}, so that two writers could not be kept apart; it needs "
                "conditional writes, as S3 has them since 2024"
            )


@contextmanager
def remote_lease(store: Store, lease: Lease) -> Iterator[Lease]:
    """Keep a reader registered while the block runs."""
    mutex, count = threading.Lock(), 0

    def sign() -> None:
        nonlocal count
        with mutex:
            count += 1
            store.put(lease.place, json.dumps({**lease.content, "sign": count}))

    lease.save = sign
    sign()
    with repeated(sign):
        try:
            yield lease
        finally:
            lease.save = lambda: None
    store.delete(lease.place)


def remote_leases(store: Store) -> tuple[list[Lease], list[Lease]]:
    """Readers that have given a sign of life, other than this process, and those that were killed."""
    living: list[Lease] = []
    stale: list[Lease] = []
    now = store.now()
    for name in store.names(READERS):
        found = store.get(f"{READERS}/{name}")
        if found is None:  # ended at this very moment
            continue
        lease = read_lease(found.content, f"{READERS}/{name}", found.modified)
        if not lease.is_this:
            is_alive = (now - found.modified).total_seconds() <= LIFE_SECONDS
            (living if is_alive else stale).append(lease)
    return living, stale


@contextmanager
def repeated(sign: Callable[[], None]) -> Iterator[None]:
    """Call ``sign`` every ``BEAT_SECONDS`` while the block runs, be the store away or not; until the lock is lost."""
    is_over = threading.Event()

    def run() -> None:
        while not is_over.wait(BEAT_SECONDS):
            try:
                sign()
            except StoreError:
                continue
            except WarehouseBusyError:  # the next commit asks itself, and says it
                return

    thread = threading.Thread(target=run, name="signs of life", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def _content(found: Stored) -> dict[str, Any]:
    try:
        return dict(json.loads(found.content))
    except ValueError:
        return {}
