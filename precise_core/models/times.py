"""When things happened, for encoders that read it.

B batch, L positions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Times:
    """Epoch seconds, int64; what stands at padding means nothing.

    Attributes:
        events_BL: When the event of a position happened.
        asked_BL: When a position is asked what comes next: at the time of the next event or, at the newest position,
            when the answer is wanted. A masked position is asked at its own time.
    """

    events_BL: torch.Tensor
    asked_BL: torch.Tensor

    @classmethod
    def of_histories(cls, events_BL: torch.Tensor, asked_B: torch.Tensor) -> Times:
        """Of left-padded events; ``asked_B`` is when the newest position of each row is asked."""
        return cls(events_BL, torch.cat([events_BL[:, 1:], asked_B[:, None]], dim=1))

    @classmethod
    def just_now(cls, rows: int, device: torch.device) -> Times:
        """Of sequences of one event, each asked at the very time of it."""
        now_B1 = torch.zeros(rows, 1, dtype=torch.long, device=device)
        return cls(now_B1, now_B1)

    def each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Times:
        """Both tensors changed alike."""
        return Times(change(self.events_BL), change(self.asked_BL))


def usual_gap(histories: Sequence[np.ndarray]) -> int:
    """Median seconds between neighbouring instants of a user; 0 where nobody has two.

    Args:
        histories: Seconds of the events of each user, never decreasing.
    """
    gaps = np.concatenate([np.zeros(0, np.int64), *(np.diff(seconds) for seconds in histories)])
    return int(np.median(gaps[gaps > 0])) if (gaps > 0).any() else 0
