"""The best items of every user over the whole catalog, exactly.

U users, N items, D width, K places of a list, G groups of W neighbouring items.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

# Scores of so many users are made and ranked at a time: they stay in a core's cache.
_USERS = 64
_GROUP = 64


def top_items(users_UD: np.ndarray, items_ND: np.ndarray, k: int) -> np.ndarray:
    """Rows of the ``k`` items with the highest dot product for each user, best first; int64, U x min(k, N).

    An item among the k best lies in one of the k groups with the highest maximum, so that one pass over all scores
    finds the groups and only their items are sorted; torch's own top-k of a row takes several times as long. Which of
    several items of one score comes first is not defined.
    """
    N, places = len(items_ND), min(k, len(items_ND))
    if not len(users_UD) or not places:
        return np.zeros((len(users_UD), places), np.int64)
    groups = -(-N // _GROUP)
    items_DN = F.pad(torch.from_numpy(items_ND), (0, 0, 0, groups * _GROUP - N)).T
    scores_UN = torch.empty(_USERS, groups * _GROUP)
    found = []
    with torch.inference_mode():
        for block_UD in torch.from_numpy(users_UD).split(_USERS):
            block_UN = torch.mm(block_UD, items_DN, out=scores_UN[: len(block_UD)])
            block_UN[:, N:] = -torch.inf
            found.append(_best(block_UN.unflatten(1, (groups, _GROUP)), places))
    return torch.cat(found).numpy()


def _best(scores_UGW: torch.Tensor, places: int) -> torch.Tensor:
    _, G, W = scores_UGW.shape
    groups_UK = scores_UGW.amax(dim=2).topk(min(places, G), sorted=False).indices
    candidates_UKW = scores_UGW.gather(1, groups_UK[:, :, None].expand(-1, -1, W))
    at_UK = candidates_UKW.flatten(1).topk(places).indices
    return groups_UK.gather(1, at_UK // W) * W + at_UK % W
