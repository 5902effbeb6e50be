"""Groups of items by their training events (section V-B) and by their scene."""

from __future__ import annotations

import numpy as np
import pandas as pd

ALL = "all"
RARE_EVENTS = 5  # below this an item is rare
SCENE_PREFIX = "scene:"


def item_groups(train_counts_N: np.ndarray, hot_share: float) -> dict[str, np.ndarray]:
    """Masks [N] by name.

    `hot` is the top ``hot_share`` of the items with at least one training event (equal counts by row), `cold` every
    other item, `seen` has training events, `rare` 1 to 4 of them, `unseen` none.
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
        "seen": counts > 0,
        "rare": (counts > 0) & (counts < RARE_EVENTS),
        "unseen": counts == 0,
    }


def scene_groups(item_rows_E: np.ndarray, scenes_E: np.ndarray, items: int) -> dict[str, np.ndarray]:
    """Masks [N] named `scene:<name>`: the items with most of their training events in that scene.

    Equal counts go to the scene of smaller name; items without events are in no group. Empty where all events are of
    one scene: the group would be `seen` again. E training events, each of an item row and a scene.
    """
    codes_E, names = pd.factorize(scenes_E, sort=True)
    if len(names) < 2:
        return {}
    pairs, counts = np.unique(item_rows_E * len(names) + codes_E, return_counts=True)
    rows, codes = pairs // len(names), pairs % len(names)
    home_N = np.full(items, -1)
    rising = np.lexsort((-codes, counts))  # what is assigned last stays: most events, then the smaller name
    home_N[rows[rising]] = codes[rising]
    return {f"{SCENE_PREFIX}{name}": home_N == code for code, name in enumerate(names)}
