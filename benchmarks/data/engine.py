"""What every engine of the comparison shares; the standard library only, so that any environment can run it.

An engine reads `events` and `vocabulary` as Parquet, keeps the last N events per user and task before an instant,
oldest first, ties by event_id, and writes user_id, task, item_indices, scenes and event_ts as Parquet (snappy).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

AS_OF = datetime(2024, 3, 1, tzinfo=UTC)  # the end of the world
TASKS: dict[str, dict[str, str]] = {
    "all": {},
    "click_articles": {"scene": "articles", "action": "click"},
    "share": {"action": "share"},
}
COLUMNS = ("user_id", "task", "item_indices", "scenes", "event_ts")
UNKNOWN_INDEX = 1

# events folder, vocabulary folder, output folder, N
Build = Callable[[Path, Path, Path, int], None]


def run_engine(build: Build, prepare: Callable[[], object] | None = None) -> None:
    """Command line of an engine: builds once and prints the seconds as JSON; ``prepare`` (a session) is not timed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--world", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--max-length", type=int, default=500)
    arguments = parser.parse_args()
    if prepare:
        prepare()
    start = time.perf_counter()
    build(arguments.world / "events", arguments.world / "vocabulary", arguments.out, arguments.max_length)
    print(json.dumps({"seconds": time.perf_counter() - start}))
