"""Names of simple references and main figures; imports nothing of here, so that the configuration can use them."""

from __future__ import annotations

from collections.abc import Iterable

MOST_POPULAR, ALL_TIME = "most_popular_{days}d", "most_popular"
PERSONAL_FREQUENCY, OWN_DECAYED = "personal_frequency", "own_decayed"
ITEM_KNN, LAST_ITEM_KNN = "item_knn", "last_item_knn"
USER_KNN, TIFU_KNN = "user_knn", "tifu_knn"
EASE = "ease"
ORACLE = "oracle"
SIMPLE_REFERENCES = (ALL_TIME, PERSONAL_FREQUENCY, OWN_DECAYED, ITEM_KNN, LAST_ITEM_KNN, USER_KNN, TIFU_KNN, EASE)

RECOMMENDATIONS = "recommendations"  # the question about the published lists, and the system they are
NDCG_GAIN = "ndcg_gain"  # the paired difference to the best reference

_LONGEST_LIST = 50

# Metric and K of the main tables of docs/results.md.
MAIN_FIGURES = (("recall", 10), ("recall", 50), ("ndcg", 10), ("ndcg", 50))


def with_history(system: str) -> str:
    """Name of a system blended with the user's own history."""
    return f"{system} + history"


def asked_at_the_target(system: str) -> str:
    """Name of a system that reads times, asked when the truth happened: that is not known to who asks before it."""
    return f"{system}, asked at the target's time"


def reweighted(system: str) -> str:
    """Name of a system under late fusion whose halves have weights that were chosen on validation."""
    return f"{system}, reweighted"


def sum_of_seeds(system: str) -> str:
    """Name of the sum of a system's scores over all seeds."""
    return f"{system}, sum of seeds"


def main_cut(ks: Iterable[int]) -> int:
    """The cut that decides: the largest of at most 50, or the smallest where all are larger."""
    cuts = sorted(ks)
    return max((k for k in cuts if k <= _LONGEST_LIST), default=cuts[0])
