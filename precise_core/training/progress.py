"""What a training tells about its progress."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """A progress bar, or anything else that wants to know."""

    def start(self, total_steps: int, description: str) -> None:
        """A training of so many steps begins."""

    def advance(self, n: int, **info: float) -> None:
        """``n`` more steps are done; ``info`` holds the latest figures, ``units`` among them how many sequences."""

    def finish(self) -> None:
        """The training is over."""


class NullProgress:
    """Says nothing."""

    def start(self, total_steps: int, description: str) -> None:
        pass

    def advance(self, n: int, **info: float) -> None:
        pass

    def finish(self) -> None:
        pass
