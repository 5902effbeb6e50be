"""The user's own history as a source of candidates beside a model, blended by a weight chosen on validation.

B users of one block, N items, E events.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from precise_core.errors import ConfigError
from precise_core.evaluation.references import Scorer


class Blend:
    """A model's score plus ``weight`` times the own history's."""

    def __init__(self, model: Scorer, history: Scorer, weight: float) -> None:
        self._model, self._history, self.weight = model, history, weight

    def scores(self, user_rows_B: np.ndarray) -> np.ndarray:
        return self._model.scores(user_rows_B) + np.float32(self.weight) * self._history.scores(user_rows_B)


def choose_blend(
    candidates: Sequence[Blend], quality: Callable[[Scorer], float]
) -> tuple[Blend, list[tuple[float, float]]]:
    """The blend of the highest quality on a validation question, and (weight, quality) of all; the first of equals.

    Raises:
        ConfigError: There is none to choose from.
    """
    if not candidates:
        raise ConfigError("no blend to choose from: name at least one weight")
    measured = [(blend.weight, quality(blend)) for blend in candidates]
    best = max(range(len(measured)), key=lambda number: measured[number][1])
    return candidates[best], measured
