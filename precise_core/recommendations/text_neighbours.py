"""Item to item by text: the new items that read most like what was taken, which nobody had together with anything yet.

Shapes: N vocabulary rows, T tokens, S seed items, M new items.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from precise_core.recommendations.batches import MICROS_PER_DAY
from precise_core.recommendations.neighbours import entries, entry_rows, largest, placed

NEVER = int(np.iinfo(np.int64).max)
_MOST_NEW = 20_000  # of more new items the newest
_COMMON = 5_000  # a token of more new items than this tells too little apart for what it costs
_LEAST = 0.2  # a cosine below comes of one common word
_BLOCK_ROWS = 512  # seed items at a time: 80 MB where each has a word in common with every new one


@dataclass(frozen=True)
class ItemTexts:
    """Texts of items, and when they appeared, in microseconds since 1970 (UTC), ``NEVER`` where that is unknown.

    What the catalog says of an item is what it says tonight: for an earlier instant it is assumed that an item had the
    same text, and was not yet deleted. Its age is of then.

    Attributes:
        tokens_NT: How often each token is in the text of each item, float32 CSR.
        published_N: When the item appeared, as the catalog has it.
        first_seen_N: The night that first met it.
        tonight: The instant that the catalog is of.
        first_event_N: Its first event of all; one from an instant on is none before it.
        deleted_N: Mask of what may not be recommended.
    """

    tokens_NT: sparse.csr_matrix
    published_N: np.ndarray
    first_seen_N: np.ndarray
    first_event_N: np.ndarray
    deleted_N: np.ndarray
    tonight: int

    def has_text(self) -> np.ndarray:
        """Mask [N]."""
        return np.diff(self.tokens_NT.indptr) > 0

    def seeds(self, instant: int) -> np.ndarray:
        """Rows of the items with an event before the instant, and a text."""
        return np.flatnonzero(self.has_text() & (self.first_event_N < instant))

    def newest(self, instant: int, days: float, count: int = _MOST_NEW) -> np.ndarray:
        """Rows, ascending, of the items with a text that had no event before the last ``days``: the newest ones.

        Only an item that was there before the instant, as an event or its publication shows. Of one that the catalog
        does not date, the night before the instant that gave it its row shows it: before the first night of a warehouse
        there is no such proof, and what nobody had taken by then is not new but unknown. Tonight's catalog is there.
        """
        seen_N = np.full(len(self.first_seen_N), True) if instant == self.tonight else self.first_seen_N < instant
        listed_N = np.where(self.published_N == NEVER, seen_N, self.published_N < instant)
        is_there_N = listed_N | (self.first_event_N < instant)
        is_new_N = self.first_event_N >= instant - int(days * MICROS_PER_DAY)
        rows = np.flatnonzero(self.has_text() & is_there_N & is_new_N & ~self.deleted_N)
        undated_N = np.minimum(self.first_seen_N, self.first_event_N)
        appeared = np.where(self.published_N == NEVER, undated_N, self.published_N)[rows]
        return np.sort(rows[np.lexsort((-rows, -appeared))][:count])


def text_neighbours(texts: ItemTexts, instant: int, days: float, neighbours: int) -> sparse.csr_matrix:
    """Of every item with an event the new items nearest to it by cosine of TF-IDF, float32 [N, N].

    How rare a token is, is counted over these items alone; a token that all of them have, or too many, counts nothing.
    Equal cosines are kept by row. No item is its own neighbour.
    """
    seeds, new = texts.seeds(instant), texts.newest(instant, days)
    vectors_NT = _tf_idf(texts.tokens_NT, np.union1d(seeds, new), new)
    new_TM = vectors_NT[new].T.tocsr()
    blocks = []
    for start in range(0, len(seeds), _BLOCK_ROWS):
        of_block = seeds[start : start + _BLOCK_ROWS]
        cosines = (vectors_NT[of_block] @ new_TM).tocsr()
        is_other = of_block[entry_rows(cosines)] != new[cosines.indices]
        near = entries(cosines, is_other & (cosines.data >= _LEAST))  # few of many: sorting waits for that
        near.sort_indices()
        blocks.append(largest(near, neighbours))
    found = sparse.vstack(blocks, format="csr") if blocks else sparse.csr_matrix((0, len(new)), dtype=np.float32)
    size = len(texts.deleted_N)
    wide = sparse.csr_matrix((found.data, new[found.indices], found.indptr), shape=(len(seeds), size))
    return placed(wide, seeds)


def _tf_idf(tokens_NT: sparse.csr_matrix, counted: np.ndarray, new: np.ndarray) -> sparse.csr_matrix:
    """Rows of length 1 (or 0): (1 + ln count) x ln(items / items with the token), over the ``counted`` items."""
    tokens = tokens_NT.shape[1]
    with_token_T = np.bincount(tokens_NT[counted].indices, minlength=tokens)
    rarity_T = np.log(max(len(counted), 1) / np.maximum(with_token_T, 1))
    rarity_T[np.bincount(tokens_NT[new].indices, minlength=tokens) > _COMMON] = 0
    weights = ((1 + np.log(tokens_NT.data)) * rarity_T[tokens_NT.indices]).astype(np.float32)
    rows = entry_rows(tokens_NT)
    lengths_N = np.sqrt(np.bincount(rows, weights**2, tokens_NT.shape[0]))
    kept = weights > 0
    weights[kept] /= lengths_N[rows[kept]]
    return entries(sparse.csr_matrix((weights, tokens_NT.indices, tokens_NT.indptr), shape=tokens_NT.shape), kept)
