"""The true probability of every item for every user of the synthetic world (an oracle's score).

T topics, S scenes, N items.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from precise_core.data_sets.synthetic import (
    AT_HOME,
    CANDIDATES,
    FIRST_INTEREST,
    SECOND_INTEREST,
    SHARE,
    SHARES_OF_SECOND,
)
from precise_core.sources.config import SyntheticSource


def topic_probabilities(source: SyntheticSource, first: int, second: int, action: str | None) -> np.ndarray:
    """P(topic) of a user's next event, float64 [T]; ``action`` is `click`, `share` or None (any)."""
    session_T = np.full(source.topics, (1 - FIRST_INTEREST - SECOND_INTEREST) / source.topics)
    session_T[first] += FIRST_INTEREST
    session_T[second] += SECOND_INTEREST
    share_T = (1 - SHARES_OF_SECOND) * session_T
    share_T[second] += SHARES_OF_SECOND
    share_rate = {None: source.share_rate, SHARE: 1.0}.get(action, 0.0)
    return (1 - share_rate) * session_T + share_rate * share_T


def scene_probabilities(source: SyntheticSource) -> np.ndarray:
    """P(scene) of an event, float64 [S]."""
    edges = np.sqrt(np.arange(len(source.scenes) + 1) / len(source.scenes))
    return np.diff(edges)


def item_probabilities(
    source: SyntheticSource, numbers_N: Sequence[int], is_published_N: np.ndarray, scene: str | None
) -> np.ndarray:
    """P(item | topic), float64 [T, N], among the items that are published, in a scene or (None) in any."""
    scenes_S = scene_probabilities(source)
    if scene is not None:
        scenes_S = np.array([float(name == scene) for name in source.scenes])
    column = {number: place for place, number in enumerate(numbers_N)}
    probabilities_TN = np.zeros((source.topics, len(numbers_N)))
    for topic in range(source.topics):
        numbers_R = np.arange(topic, source.items, source.topics)
        exists_R = np.array([number in column and bool(is_published_N[column[number]]) for number in numbers_R])
        drawn_R = _draws(len(numbers_R), scenes_S) * exists_R
        found = drawn_R.sum()
        # Tried until an item exists; the topic's first after that.
        tries = sum((1 - found) ** attempt for attempt in range(CANDIDATES))
        drawn_R = drawn_R * tries
        drawn_R[0] += (1 - found) ** CANDIDATES
        for number, probability in zip(numbers_R, drawn_R, strict=True):
            if number in column:
                probabilities_TN[topic, column[number]] = probability
    return probabilities_TN


def _draws(ranks: int, scenes_S: np.ndarray) -> np.ndarray:
    """P(rank) of one draw: falling as 1 / rank, then moved to its neighbour at home in the event's scene."""
    plain_R = np.diff(np.log(np.arange(1, ranks + 2))) / np.log(ranks + 1)
    moved_R = np.zeros(ranks)
    scenes = len(scenes_S)
    for scene, share in enumerate(scenes_S):
        to_R = np.minimum(np.arange(ranks) // scenes * scenes + scene, ranks - 1)
        np.add.at(moved_R, to_R, share * plain_R)
    return (1 - AT_HOME) * plain_R + AT_HOME * moved_R
