"""A user's own history is what the formula says, and the blend is the one that did best on validation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from precise_core.errors import ConfigError
from precise_core.evaluation.references import OwnHistory, Scorer, TrainingLog
from precise_core.experiments.blend import Blend, choose_blend

DAY = 86_400


class Fixed:
    """The same scores for every user."""

    def __init__(self, scores_N: list[float]) -> None:
        self._scores_N = np.array(scores_N, np.float32)

    def scores(self, user_rows_B: np.ndarray) -> np.ndarray:
        return np.tile(self._scores_N, (len(user_rows_B), 1))


def own_history(days: float = 10.0) -> OwnHistory:
    users, items = np.array([0, 0, 0, 2]), np.array([1, 1, 3, 0])
    seconds = np.array([80, 90, 50, 100]) * DAY
    return OwnHistory(TrainingLog(users, items, seconds, users=3, items=4), as_of_seconds=100 * DAY, days=days)


def test_repeats_add_up_and_fade() -> None:
    scores = own_history().scores(np.array([0, 1, 2]))
    twice = math.log1p(math.exp(-2) + math.exp(-1))
    expected = [[0, twice, 0, math.log1p(math.exp(-5))], [0, 0, 0, 0], [math.log(2), 0, 0, 0]]
    np.testing.assert_allclose(scores, expected, rtol=1e-6)


def test_memory_must_last() -> None:
    with pytest.raises(ConfigError, match="days 0 of the own history"):
        own_history(days=0)


def test_a_blend_adds_the_weighted_history() -> None:
    model = Fixed([0.4, 0.1, 0.3, 0.2])
    users = np.array([0, 2])
    expected = model.scores(users) + 2 * own_history().scores(users)
    np.testing.assert_allclose(Blend(model, own_history(), 2.0).scores(users), expected)
    np.testing.assert_array_equal(Blend(model, own_history(), 0.0).scores(users), model.scores(users))


def test_the_best_on_validation_is_chosen_and_all_are_told() -> None:
    blends = [Blend(Fixed([0.0]), Fixed([1.0]), weight) for weight in (0.0, 1.0, 2.0, 3.0)]

    def quality(system: Scorer) -> float:
        return -abs(float(system.scores(np.array([0]))[0, 0]) - 2)  # best where the history counts twice

    chosen, measured = choose_blend(blends, quality)
    assert chosen.weight == 2.0
    assert measured == [(0.0, -2.0), (1.0, -1.0), (2.0, 0.0), (3.0, -1.0)]
    with pytest.raises(ConfigError, match="name at least one weight"):
        choose_blend([], quality)
