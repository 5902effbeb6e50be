"""Keeps the release that answers, and takes over the next one while it does."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection

from precise_core.errors import PreciseError
from precise_core.serving.metrics import AS_OF, IS_NEWEST, REFUSALS, TAKEOVERS
from precise_core.serving.plan import Plan, plan, state_of_logs
from precise_core.serving.prepare import prepared_elsewhere, remove_parts
from precise_core.serving.release import Release
from precise_core.serving.served import Served
from precise_core.store import Place

_log = logging.getLogger("uvicorn.error")


class Keeper:
    """Looks at what is published again and again; a request takes ``release`` once and answers from it alone.

    Attributes:
        release: What answers; None until a first publication is open.
        refused: Why what is published now is not what answers; None where it is.
    """

    def __init__(
        self, served: Served, prepare: Callable[[Place, Plan, Collection[str]], None] = prepared_elsewhere
    ) -> None:
        self._served, self._prepare = served, prepare
        self.release: Release | None = None
        self.refused: str | None = "the first publication is being opened"
        self._failed: tuple[str, float] = ("", 0.0)
        self._seen: object = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep_looking, name="keeper", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Stop looking; a preparation that is under way is given up, its process ends with this one."""
        self._stop.set()
        self._thread.join(self._served.serving.timeout_seconds)

    def look(self) -> None:
        """Take over what is published now, where it is another release; whatever is wrong with it is in ``refused``."""
        try:
            state = state_of_logs(self._served.root)
            if state == self._seen and self.refused is None:
                return
            found = plan(self._served)
            self._seen = state
            if found is None:
                self.refused = "nothing is published"
            elif self.release is not None and found.name == self.release.name:
                self.refused = None
            elif found.name != self._failed[0] or time.monotonic() >= self._failed[1]:
                self._take_over(found)
        except Exception as error:  # nothing that is published may end the server
            self._refuse(error)
        IS_NEWEST.set(self.refused is None)

    def _take_over(self, found: Plan) -> None:
        IS_NEWEST.set(False)  # it may take long
        self._failed = (found.name, time.monotonic() + self._served.serving.retry_seconds)
        self._prepare(self._served.root, found, set(self.release.opened) if self.release else set())
        self.release = Release.open(self._served, found, self.release)
        self.refused, self._failed = None, ("", 0.0)
        TAKEOVERS.inc()
        for task, own in found.tasks.items():
            AS_OF.labels(task).set(own.as_of.timestamp())
        _log.info("serving %s: %s", found.name, {task: own.model_version for task, own in found.tasks.items()})
        if state_of_logs(self._served.root) == self._seen:  # else they may be of what another worker opens next
            remove_parts(self._served.root, keep=found.parts)

    def _refuse(self, error: Exception) -> None:
        reason = str(error) if isinstance(error, PreciseError) else f"{type(error).__name__}: {error}"
        if reason != self.refused:
            REFUSALS.inc()
            _log.warning("not taken over: %s", reason, exc_info=not isinstance(error, PreciseError))
        self.refused = reason

    def _keep_looking(self) -> None:
        while not self._stop.is_set():
            self.look()
            self._stop.wait(self._served.serving.poll_seconds)
