"""The user's own history as a source of candidates beside a model, blended by a weight chosen on validation.

B users of one block, N items, E events.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy import sparse

from precise_core.errors import ConfigError
from precise_core.evaluation.references import SECONDS_PER_DAY, Scorer, TrainingLog


class OwnHistory:
    """log(1 + Σ exp(-age / τ)) over a user's events with an item: how often, and how lately; 0 for other items.

    Args:
        log: Events before the question.
        as_of_seconds: Its instant; ages count from here.
        days: τ.
    """

    def __init__(self, log: TrainingLog, *, as_of_seconds: int, days: float) -> None:
        if not days > 0:
            raise ConfigError(f"days {days} of the own history must be above 0")
        ages_E = (as_of_seconds - log.seconds_E) / SECONDS_PER_DAY
        strength_E = np.exp(-np.maximum(ages_E, 0) / days)
        places = (log.user_rows_E, log.item_rows_E)
        self._strength_UN = sparse.csr_matrix((strength_E, places), shape=(log.users, log.items))

    def scores(self, user_rows_B: np.ndarray) -> np.ndarray:
        return np.log1p(self._strength_UN[user_rows_B].toarray()).astype(np.float32)


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
