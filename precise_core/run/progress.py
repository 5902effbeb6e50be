"""Progress on a terminal (rich bars) and in a log file (a line every few seconds)."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pyspark.sql import SparkSession
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

console = Console(highlight=False, soft_wrap=True)

_LOG_EVERY_SECONDS = 10.0
_POLL_SECONDS = 0.5


class StepProgress:
    """Steps done, their rate and the time left; what the training loops report to.

    Args:
        unit: What one step advances by, for example `sequences`; `advance` may be given `units=` to count them. Steps
            of 0 units were done before a restart: rate and time left are those of the steps since.
    """

    def __init__(self, unit: str = "steps") -> None:
        self._unit = unit
        self._bar: Progress | None = None
        self._task = TaskID(0)

    def start(self, total_steps: int, description: str) -> None:
        self._total, self._description = total_steps, description
        self._done = self._skipped = self._shown = 0
        self._units = 0.0
        self._started = self._logged = time.monotonic()
        if console.is_terminal:
            self._bar = Progress(
                TextColumn("  {task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[info]}"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=console,
            )
            self._bar.start()
            self._task = self._bar.add_task(description, total=total_steps, info="")

    def advance(self, n: int = 1, **info: Any) -> None:
        units = float(info.pop("units", n))
        self._done += n
        self._units += units
        self._skipped += 0 if units else n
        now = time.monotonic()
        if self._bar is None and now - self._logged < _LOG_EVERY_SECONDS:
            return
        parts = [self._rate(now), *(f"{key} {_short(value)}" for key, value in info.items())]
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done, info=" · ".join(parts))
            return
        if (counted := self._done - self._skipped) and self._total:
            parts.append(f"{_clock((self._total - self._done) * (now - self._started) / counted)} left")
        self._log(now, parts)

    def finish(self) -> None:
        """Also logs the steps since the last line."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        elif self._units and self._done > self._shown:
            now = time.monotonic()
            self._log(now, [self._rate(now), f"{_clock(now - self._started)} in all"])

    def _rate(self, now: float) -> str:
        return f"{self._units / max(now - self._started, 1e-9):,.0f} {self._unit}/s"

    def _log(self, now: float, parts: list[str]) -> None:
        self._logged, self._shown = now, self._done
        console.print(f"  {self._description}: {self._done}/{self._total} {' · '.join(parts)}")


@contextmanager
def spark_progress(spark: SparkSession, description: str) -> Iterator[None]:
    """Show the tasks of the running Spark stages while the block runs."""
    stop = threading.Event()
    watcher = threading.Thread(target=_watch, args=(spark, description, stop), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        stop.set()
        watcher.join()


def _watch(spark: SparkSession, description: str, stop: threading.Event) -> None:
    tracker = spark.sparkContext.statusTracker()
    started = logged = time.monotonic()
    status = console.status(f"  {description}") if console.is_terminal else None
    if status:
        status.start()
    while not stop.wait(_POLL_SECONDS):
        stages = [info for info in map(tracker.getStageInfo, tracker.getActiveStageIds()) if info]
        text = ", ".join(f"stage {s.stageId}: {s.numCompletedTasks}/{s.numTasks} tasks" for s in stages) or "planning"
        now = time.monotonic()
        line = f"  {description}: {text} · {now - started:.0f} s"
        if status:
            status.update(line)
        elif now - logged >= _LOG_EVERY_SECONDS:
            logged = now
            console.print(line)
    if status:
        status.stop()


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(max(seconds, 0.0)), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
