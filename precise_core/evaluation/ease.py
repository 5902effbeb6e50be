"""EASE, a linear model with a closed form, as a simple reference.

Shapes: U users, N items, M items that EASE knows, B users of one block.
"""

from __future__ import annotations

import numpy as np

from precise_core.errors import ConfigError
from precise_core.evaluation.references import TrainingLog
from precise_core.recommendations.ease import ease_weights, frequent_items


class Ease:
    """EASE: what a user had, predicted from what else the user had (Steck, WWW 2019, https://arxiv.org/abs/1905.03375).

    score(u) = x_u B, x_u = 1 for the items of u; B minimises |X - X B|² + λ |B|² with a diagonal of 0, so that no item
    predicts itself: B_ij = -P_ij / P_jj for i ≠ j, P = (XᵀX + λ)⁻¹.

    Only the ``items`` with most events (equal ones by row) are known; all others score 0. P takes time in proportion to
    items³ and memory to items²: 5,000 items need 200 MB in float64, in which P is solved, and keep 100 MB in float32.

    λ is ``penalty``, in users: it is added to each item's number of users. The paper chooses it on validation data; 250
    is the default of RecBole.

    Raises:
        ConfigError: ``penalty`` is not above 0.
    """

    def __init__(self, log: TrainingLog, *, items: int = 5000, penalty: float = 250.0) -> None:
        if not penalty > 0:
            raise ConfigError(f"penalty {penalty} of EASE must be above 0")
        self._width = log.items
        self._rows_M = frequent_items(log.item_counts(), items)
        self._had_UM = log.matrix()[:, self._rows_M].astype(np.float32)
        self._weights_MM = ease_weights(self._had_UM, penalty)

    def scores(self, user_rows_B: np.ndarray) -> np.ndarray:
        block = np.zeros((len(user_rows_B), self._width), np.float32)
        block[:, self._rows_M] = self._had_UM[user_rows_B] @ self._weights_MM
        return block
