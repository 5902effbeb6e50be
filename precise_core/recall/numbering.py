"""Places within runs of equal keys."""

from __future__ import annotations

import numpy as np


def first_of_each_pair(order: np.ndarray, users: np.ndarray, items: np.ndarray) -> np.ndarray:
    """Of positions in an ``order`` by user and item, the first of each (user, item)."""
    is_first = np.ones(len(order), bool)
    is_first[1:] = (users[order][1:] != users[order][:-1]) | (items[order][1:] != items[order][:-1])
    return order[is_first]


def numbered(sorted_keys: np.ndarray) -> np.ndarray:
    """1, 2, 3 ... within each run of equal keys."""
    return np.arange(len(sorted_keys)) - np.searchsorted(sorted_keys, sorted_keys) + 1
