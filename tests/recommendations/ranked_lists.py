"""Rows of `candidate_features` with a planted signal: what is taken depends on two features together."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from precise_core.recommendations.config import ListRankerConfig
from precise_core.recommendations.lists import CandidateLists
from schemas import columns as c
from schemas.recommendations import FEATURE_NAMES

SIGNAL = ("item_overdue", "category_decayed_31d")


def rows(seed: int, lists: int = 60, candidates: int = 30, tasks: tuple[str, ...] = ("all", "buy")) -> pa.Table:
    """The simple orders see noise; precise scores are missing for a third of the candidates."""
    random = np.random.default_rng(seed)
    number = lists * candidates
    features = {name: random.random(number).astype(np.float32) for name in FEATURE_NAMES}
    signal = sum(features[name] for name in SIGNAL) + 0.05 * random.random(number)
    best = np.argsort(np.argsort(-signal.reshape(lists, candidates), axis=1), axis=1).ravel() < 3
    precise = random.normal(size=(2, number)).astype(np.float32)
    missing = random.random(number) < 1 / 3
    columns: dict[str, Any] = {
        c.USER_ID: [f"{seed}-{row // len(tasks):03}" for row in range(lists) for _ in range(candidates)],
        c.TASK: [tasks[row % len(tasks)] for row in range(lists) for _ in range(candidates)],
        c.ITEM_ID: [f"i{item:03}" for _ in range(lists) for item in range(candidates)],
        c.LABEL: pa.array(best.astype(np.int32)),
        c.IS_REPEAT: pa.array(random.random(number) < 0.5),
        "precise_universal": pa.array(precise[0], mask=missing),
        "precise_targeted": pa.array(precise[1], mask=missing | (np.arange(number) % 2 == 0)),
    }
    return pa.table({**columns, **features})


def candidate_lists(seed: int, **sizes: Any) -> CandidateLists:
    return CandidateLists.from_arrow(rows(seed, **sizes))


def small(**changes: Any) -> ListRankerConfig:
    """Learns the signal in a second; every list is enough to choose an order by."""
    quick = {"epochs": 12, "batch_lists": 8, "deep_widths": (16,), "learning_rate": 1e-2, "dropout": 0.0}
    return ListRankerConfig(**{**quick, "least_lists": 1, **changes})
