"""What of a configuration a server needs, and the names under which its workers find it in their environment."""

from __future__ import annotations

from pydantic import Field

from precise_core.config import Config
from precise_core.config.tasks import TaskConfig
from precise_core.recall.config import RecallConfig
from precise_core.serving.config import ServingConfig
from precise_core.store import Place, below

TOKEN = "PRECISE_SERVING_TOKEN"
SERVED = "PRECISE_SERVED"  # a ``Served`` as JSON
CHECKED = "PRECISE_SERVING_CHECKED"  # a folder: what one of several workers has verified, the others need not
SEVERAL = "PROMETHEUS_MULTIPROC_DIR"  # where several workers put their numbers, so that one answers for all
LOOPBACK = ("127.0.0.1", "localhost", "::1")


class Served(Config):
    """What of a configuration a server needs; workers get it as JSON."""

    warehouse: str
    tasks: dict[str, TaskConfig] = Field(default_factory=dict)
    recall: RecallConfig = RecallConfig()
    serving: ServingConfig = ServingConfig()

    @property
    def root(self) -> Place:
        return below(self.warehouse)
