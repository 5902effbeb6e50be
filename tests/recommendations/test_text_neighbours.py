"""New items by their text: which are new, which were there, and what is near, against dense loops."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import sparse

from precise_core.recommendations import text_neighbours as module
from precise_core.recommendations.text_neighbours import NEVER, ItemTexts, text_neighbours
from tests.recommendations.world import DAY, INSTANT

OLD, NEW = INSTANT - 90 * DAY, INSTANT - 3 * DAY


def texts(words: np.ndarray, first_event: list[int], **changes: object) -> ItemTexts:
    """Every item is dated by the catalog, long ago; the row of a word count is an item."""
    size = len(words)
    long_ago, not_deleted = np.full(size, INSTANT - 900 * DAY), np.zeros(size, bool)
    made = ItemTexts(
        sparse.csr_matrix(words.astype(np.float32)),
        long_ago,
        long_ago,
        np.array(first_event),
        not_deleted,
        INSTANT + DAY,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


@settings(max_examples=60, deadline=None)
@given(
    arrays(np.int8, (8, 5), elements=st.integers(0, 2)),
    st.lists(st.sampled_from([OLD, NEW, INSTANT, NEVER]), min_size=8, max_size=8),
    st.integers(1, 4),
)
def test_neighbours_are_the_new_items_of_the_largest_cosine(words: np.ndarray, first: list[int], count: int) -> None:
    found = text_neighbours(texts(words, first), INSTANT, 28, count).toarray()
    has_text = words.any(axis=1)
    seeds = [item for item in range(8) if has_text[item] and first[item] < INSTANT]
    new = [item for item in range(8) if has_text[item] and first[item] != OLD]
    counted = sorted({*seeds, *new})
    rarity = np.array([np.log(max(len(counted), 1) / max((words[counted, word] > 0).sum(), 1)) for word in range(5)])
    weights = np.where(words > 0, (1 + np.log(np.maximum(words.astype(float), 1))) * rarity, 0)
    for seed in range(8):
        cosines = {}
        for item in new if seed in seeds else []:
            lengths = np.linalg.norm(weights[seed]) * np.linalg.norm(weights[item])
            if item != seed and lengths:
                cosines[item] = weights[seed] @ weights[item] / lengths
        near = {item: value for item, value in cosines.items() if value >= 0.2}
        best = sorted(near.values(), reverse=True)[:count]
        assert sorted(found[seed][found[seed] > 0], reverse=True) == pytest.approx(best, abs=1e-5)
        for item in np.flatnonzero(found[seed]):
            assert found[seed, item] == pytest.approx(near[int(item)], abs=1e-5)


@pytest.mark.parametrize(
    ("published", "first_seen", "first_event", "is_found"),
    [
        (OLD, OLD, OLD, False),  # not new
        (OLD, OLD, INSTANT - 28 * DAY - 1, False),
        (OLD, OLD, INSTANT - 28 * DAY, True),
        (OLD, OLD, NEVER, True),  # in the catalog for long, and nobody took it
        (INSTANT - 1, INSTANT + DAY, NEVER, True),
        (INSTANT, OLD, NEVER, False),  # it came later
        (INSTANT, INSTANT, INSTANT, False),
        (INSTANT + DAY, INSTANT + DAY, NEW, True),  # it was taken before its publication
        (NEVER, INSTANT - 1, NEVER, True),
        (NEVER, INSTANT, NEVER, False),  # nothing shows that it was there
        (NEVER, INSTANT + 1, INSTANT, False),
        (NEVER, INSTANT + 1, NEW, True),
    ],
)
def test_an_item_is_found_if_it_is_new_and_was_there(
    published: int, first_seen: int, first_event: int, is_found: bool
) -> None:
    words = np.array([[1, 0], [1, 0], [0, 1]])
    dated = {
        "published_N": np.array([OLD, published, OLD]),
        "first_seen_N": np.array([OLD, first_seen, OLD]),
    }
    near = text_neighbours(texts(words, [OLD, first_event, OLD], **dated), INSTANT, 28, 5)
    assert near[0].indices.tolist() == [1] * is_found


def test_what_tonights_catalog_has_is_there_tonight() -> None:
    words = np.array([[1, 0], [1, 0], [0, 1]])
    made = texts(words, [OLD, NEVER, OLD], published_N=np.full(3, NEVER), first_seen_N=np.full(3, INSTANT))
    assert text_neighbours(replace(made, tonight=INSTANT), INSTANT, 28, 5)[0].indices.tolist() == [1]
    assert not text_neighbours(made, INSTANT, 28, 5).nnz  # of a past instant the first night of all is no proof


def test_a_deleted_item_and_one_without_a_text_are_not_found() -> None:
    words = np.array([[1, 0], [1, 0], [0, 0], [0, 1]])
    made = texts(words, [OLD, NEVER, NEVER, OLD])
    assert text_neighbours(made, INSTANT, 28, 5)[0].indices.tolist() == [1]
    deleted = replace(made, deleted_N=np.array([False, True, False, False]))
    assert not text_neighbours(deleted, INSTANT, 28, 5).nnz


def test_a_catalog_without_text_has_no_neighbours() -> None:
    near = text_neighbours(texts(np.zeros((4, 1)), [OLD, NEW, NEVER, OLD]), INSTANT, 28, 5)
    assert near.shape == (4, 4) and not near.nnz


def test_of_many_new_items_the_newest_are_kept() -> None:
    made = texts(np.ones((6, 1)), [OLD, NEVER, NEVER, NEW, NEVER, NEVER])
    published = np.array([OLD, NEW - 5, NEVER, NEVER, NEW + 5, NEVER])
    seen = np.array([OLD, OLD, NEW + 1, NEW + 1, OLD, OLD])
    dated = replace(made, published_N=published, first_seen_N=seen)
    assert dated.newest(INSTANT, 28, 3).tolist() == [2, 3, 4]
    assert dated.newest(INSTANT, 28, 4).tolist() == [1, 2, 3, 4]


def test_seeds_in_blocks_are_the_seeds_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    made = texts(random.random((40, 9)) < 0.3, [OLD] * 25 + [NEW] * 15)
    whole = text_neighbours(made, INSTANT, 28, 4)
    monkeypatch.setattr(module, "_BLOCK_ROWS", 7)
    assert (text_neighbours(made, INSTANT, 28, 4) != whole).nnz == 0 and whole.nnz
