"""How far new vectors are from those they replace, on one sample of keys: row i of both is the same item or user.

S keys, D width; two checkpoints may have different widths.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from precise_core.training.closeness import mean_cosine, neighbour_overlap

NEIGHBOURS = 10
_DECILES = np.linspace(0.1, 0.9, 9)


def drift_figures(
    samples: Mapping[str, tuple[np.ndarray, np.ndarray]],
) -> tuple[dict[str, float], dict[str, float]]:
    """Figures that `gates.drift` has limits for, by name, and the cosines, which are comparable in one space only.

    ``samples`` are the old and the new vectors [S, D] of an `item` and of a `user`, whichever there are.
    """
    figures, cosines = {}, {}
    for name, (old_SD, new_SD) in samples.items():
        figures[f"{name}_norm_change"] = norm_change(old_SD, new_SD)
        cosines[f"{name}_cosine"] = mean_cosine(old_SD, new_SD)
        if name == "item":
            figures["neighbour_overlap"] = neighbour_overlap(old_SD, new_SD, NEIGHBOURS)
    return figures, cosines


def norm_change(old_SD: np.ndarray, new_SD: np.ndarray) -> float:
    """The largest relative change of a decile of the vectors' lengths; 0 = lengths are spread as before."""
    old, new = (np.quantile(np.linalg.norm(vectors, axis=1), _DECILES) for vectors in (old_SD, new_SD))
    return float(np.abs(new / old - 1).max())


def unknown_token_share(token_ids_K: np.ndarray, counts_K: np.ndarray, known_token_ids: np.ndarray) -> float:
    """Share of the tokens, each of which occurs ``counts_K`` times, that are not known; 0 where there are none."""
    if not len(counts_K):
        return 0.0
    return float(counts_K[~np.isin(token_ids_K, known_token_ids)].sum() / counts_K.sum())
