"""Watching a training that runs: its figures as JSON lines and TensorBoard's event files, and its progress."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from torch.utils.tensorboard import SummaryWriter


class MetricsLog:
    """Appends every line of a training's log to ``<folder>/metrics.jsonl`` and as scalars to event files beside it.

    Args:
        folder: One per training; None = nothing is written.
        known: Lines written before a kill: the files are cut back to them; empty = a new training, and the files of an
            older one are removed.
    """

    def __init__(self, folder: Path | None, known: Sequence[Mapping[str, Any]] = ()) -> None:
        self._writer: SummaryWriter | None = None
        if folder is None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        if not known:  # another training: its curves must not be mixed with the previous one's
            for events in folder.glob("events.out.tfevents.*"):
                events.unlink()
        self._file = folder / "metrics.jsonl"
        self._file.write_text("".join(json.dumps(line) + "\n" for line in known), encoding="utf-8")
        last_step = max((line["step"] for line in known), default=-1)
        self._writer = SummaryWriter(str(folder), purge_step=last_step + 1)

    def write(self, line: Mapping[str, Any]) -> None:
        """One line; ``step`` is the place on TensorBoard's axis, a list becomes one scalar per entry."""
        if self._writer is None:
            return
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        for name, value in line.items():
            entries = enumerate(value) if isinstance(value, list) else [("", value)]
            for number, entry in entries:
                if name != "step":
                    self._writer.add_scalar(f"{name}/{number}".rstrip("/"), entry, line["step"])
        self._writer.flush()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


class Progress(Protocol):
    """A progress bar, or anything else that follows a training."""

    def start(self, total_steps: int, description: str) -> None:
        """A training of so many steps begins."""

    def advance(self, n: int, **info: float) -> None:
        """``n`` more steps are done; ``info`` holds the latest figures, ``units`` among them how many sequences."""

    def finish(self) -> None:
        """The training is over."""


class NullProgress:
    """Shows nothing."""

    def start(self, total_steps: int, description: str) -> None:
        pass

    def advance(self, n: int, **info: float) -> None:
        pass

    def finish(self) -> None:
        pass
