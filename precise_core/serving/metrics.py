"""What `/metrics` shows, in the text format of Prometheus."""

from __future__ import annotations

import os
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from precise_core.serving.served import SEVERAL

_REGISTRY = CollectorRegistry()
_BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.015, 0.025, 0.05, 0.06, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)

SECONDS = Histogram(
    "precise_request_seconds",
    "Seconds from the head of a request to the end of its answer.",
    ["path", "status"],
    buckets=_BUCKETS,
    registry=_REGISTRY,
)
IN_FLIGHT = Gauge(
    "precise_requests_in_flight",
    "Requests that are being answered.",
    multiprocess_mode="livesum",
    registry=_REGISTRY,
)
TAKEOVERS = Counter("precise_takeovers", "Publications that were opened.", registry=_REGISTRY)
REFUSALS = Counter("precise_refusals", "Publications that were refused.", registry=_REGISTRY)
AS_OF = Gauge(
    "precise_as_of_seconds",
    "The instant up to which what answers knows the world, seconds since 1970 (UTC).",
    ["task"],
    multiprocess_mode="livemin",
    registry=_REGISTRY,
)
IS_NEWEST = Gauge(
    "precise_serves_newest",
    "1 = what answers is what is published now.",
    multiprocess_mode="livemin",
    registry=_REGISTRY,
)


def exposition() -> bytes:
    """The numbers of this process, or of all workers where there are several."""
    if SEVERAL not in os.environ:
        return generate_latest(_REGISTRY)
    for file in Path(os.environ[SEVERAL]).glob("gauge_live*_*.db"):
        if not Path("/proc", pid := file.stem.rpartition("_")[2]).exists():  # a worker that was killed
            mark_process_dead(int(pid))
    registry = CollectorRegistry()
    MultiProcessCollector(registry)
    return generate_latest(registry)
