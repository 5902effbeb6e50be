"""Logs of a few rows for the tests of references; the last user and the last item have no event in ``events``."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from precise_core.evaluation.references import SECONDS_PER_DAY as DAY
from precise_core.evaluation.references import TrainingLog

__all__ = ["DAY", "ITEMS", "USERS", "Rows", "events", "had_by", "make_log"]

Rows = list[tuple[int, int, int]]  # user, item, seconds

USERS, ITEMS = 4, 8
events = st.lists(st.tuples(st.integers(0, USERS - 2), st.integers(0, ITEMS - 2), st.integers(0, 5)), max_size=40)


def make_log(rows: Rows, users: int = USERS, items: int = ITEMS) -> TrainingLog:
    user_rows, item_rows, seconds = np.array(rows, np.int64).reshape(-1, 3).T
    return TrainingLog(user_rows, item_rows, seconds, users, items)


def had_by(rows: Rows, users: int = USERS, items: int = ITEMS) -> np.ndarray:
    """Whether a user had an item, float64 [users, items]."""
    had = np.zeros((users, items))
    for user, item, _ in rows:
        had[user, item] = 1
    return had
