"""Watch a command and all its processes: wall clock, CPU seconds, peak memory, the machine's load."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import psutil

_PERIOD_SECONDS = 0.2


@dataclass(frozen=True)
class Cost:
    """What a command took: ``cpu_seconds`` of all its processes, Java's and Python's, ``peak_gib`` of them together at
    one moment, and the machine's load over the last minute at its end."""

    seconds: float
    cpu_seconds: float
    peak_gib: float
    load: float


def run_watched(command: Sequence[str], *, folder: str, environment: Mapping[str, str] | None = None) -> Cost:
    """Run ``command`` in ``folder`` to its end.

    Raises:
        RuntimeError: It failed; the message ends with what it wrote last.
    """
    started = time.monotonic()
    process = subprocess.Popen(
        list(command), cwd=folder, env={**os.environ, **(environment or {})}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    watch = ProcessTree(process.pid)
    watch.start()
    out, _ = process.communicate()
    seconds = time.monotonic() - started
    watch.stop()
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}: {out[-2000:]}")
    return Cost(seconds, sum(watch.cpu.values()), watch.peak_gib, os.getloadavg()[0])


class ProcessTree(threading.Thread):
    """CPU seconds of every process of a tree as last seen, and peaks of resident memory in GiB: of its JVMs, of
    everything else, and of both at the same moment; shared pages count once per process."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.cpu: dict[tuple[int, float], float] = {}
        self.jvm_gib = self.others_gib = self.peak_gib = 0.0
        self._root = psutil.Process(pid)
        self._known: dict[int, psutil.Process] = {pid: self._root}
        self._is_over = threading.Event()

    def run(self) -> None:
        while not self._is_over.wait(_PERIOD_SECONDS):
            self._look()

    def stop(self) -> None:
        self._is_over.set()
        self.join()

    def _look(self) -> None:
        with suppress(psutil.Error):
            # Once known, a process is watched to its end: Java is nobody's child any more when Python has ended.
            self._known |= {child.pid: child for child in self._root.children(recursive=True)}
        jvm = others = 0
        for process in list(self._known.values()):
            try:
                times = process.cpu_times()
                self.cpu[process.pid, process.create_time()] = times.user + times.system
                resident = process.memory_info().rss
                if process.name() == "java":
                    jvm += resident
                else:
                    others += resident
            except psutil.Error:
                self._known.pop(process.pid, None)
        self.jvm_gib, self.others_gib = max(self.jvm_gib, jvm / 2**30), max(self.others_gib, others / 2**30)
        self.peak_gib = max(self.peak_gib, (jvm + others) / 2**30)
