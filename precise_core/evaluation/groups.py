"""Groups of items by how often they were seen in training (section V-B and the evaluation protocol)."""

from __future__ import annotations

import numpy as np

ALL = "all"
RARE_EVENTS = 5  # below this an item is rare


def item_groups(train_counts_N: np.ndarray, hot_share: float) -> dict[str, np.ndarray]:
    """Masks [N] by name.

    `hot` is the top ``hot_share`` of the items with at least one training event (equal counts by row), `cold` every
    other item, `rare` has 1 to 4 training events, `unseen` none.
    """
    counts = np.asarray(train_counts_N)
    seen = np.flatnonzero(counts > 0)
    by_count = seen[np.argsort(-counts[seen], kind="stable")]
    hot = np.zeros(len(counts), bool)
    hot[by_count[: round(hot_share * len(seen))]] = True
    return {
        ALL: np.ones(len(counts), bool),
        "hot": hot,
        "cold": ~hot,
        "rare": (counts > 0) & (counts < RARE_EVENTS),
        "unseen": counts == 0,
    }
