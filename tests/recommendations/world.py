"""Small logs of events, written as plain tuples, and everything that lists are made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st
from scipy import sparse

from precise_core.recommendations.batches import CandidateMaker, TaskCandidates, UserBlock
from precise_core.recommendations.config import RecommendationsConfig
from precise_core.recommendations.ease import ease_neighbours
from precise_core.recommendations.fact_parts import item_facts, part
from precise_core.recommendations.history import item_tally
from precise_core.recommendations.item_facts import ItemFacts
from precise_core.recommendations.names import BASKETS, EASE, NEIGHBOURS, SOURCES, TEXT
from precise_core.recommendations.neighbours import Cooccurrence, baskets, pair_matrix, placed
from precise_core.recommendations.point_in_time import PointInTime, Similarities
from precise_core.recommendations.sources import profiles
from precise_core.recommendations.text_neighbours import NEVER, ItemTexts, text_neighbours
from precise_core.sequences.chunks import TASK_BITS
from schemas import columns as c

INSTANT = 1_709_251_200_000_000  # 2024-03-01
DAY = 86_400_000_000
ITEMS = 14  # rows 0 and 1 are no items
BITS = {"all": 0, "buy": 1}

Event = tuple[int, int, int]  # item, microseconds since 1970, task bits
Histories = Mapping[str, Sequence[Event]]


def block(histories: Histories, instant: int = INSTANT, items: int = ITEMS) -> UserBlock:
    """The histories as workers get them: each oldest first."""
    ordered = [sorted(events, key=lambda event: event[1]) for events in histories.values()]
    types = {c.ITEM_INDICES: pa.int32(), c.EVENT_TS: pa.int64(), TASK_BITS: pa.int64()}
    columns = [
        pa.array([[event[place] for event in events] for events in ordered], pa.list_(type_))
        for place, type_ in enumerate(types.values())
    ]
    rows = pa.RecordBatch.from_arrays([pa.array(list(histories), pa.string()), *columns], names=[c.USER_ID, *types])
    return UserBlock(rows, instant, items)


def config(**changes: Any) -> RecommendationsConfig:
    """All sources on, small and hardly shrunk."""
    small = {"sources": {source: 5 for source in SOURCES}, "shrinkage": 1.0, "ease_penalty": 2.0, "similar_users": 3}
    return RecommendationsConfig(**{"text_new_days": 100.0, **small, **changes})


def facts_of(histories: Histories, bit: int, items: int = ITEMS, allowed: np.ndarray | None = None) -> ItemFacts:
    whole = pa.Table.from_batches([part(block(histories, items=items), bit)])
    return item_facts(whole, items, real_items(items) if allowed is None else allowed)


def real_items(items: int = ITEMS) -> np.ndarray:
    return np.arange(items) >= c.FIRST_ITEM_INDEX


def known(
    histories: Histories, settings: RecommendationsConfig, items: int = ITEMS, allowed: np.ndarray | None = None
) -> PointInTime:
    """What is known before the instant; the first half of the users is the sample."""
    events = block(histories, items=items).events
    own = item_tally(events)
    had = pair_matrix(own.user_rows_P, own.things_P, events.users, items)
    near = {EASE: ease_neighbours(had, settings.ease_items, settings.ease_penalty, settings.neighbours)}
    for name, of in ((NEIGHBOURS, had), (BASKETS, baskets(events.of_items()))):
        together = Cooccurrence(of, settings.shrinkage, settings.neighbours)
        near[name] = placed(together.near(together.seeds), together.seeds)
    texts = item_texts(histories, items, allowed)
    near[TEXT] = text_neighbours(texts, INSTANT, settings.text_new_days, settings.neighbours)
    sample = list(histories)[: max(len(histories) // 2, 1)]
    similar = Similarities(
        near, profiles(own, events.users, items)[: len(sample)], {name: row for row, name in enumerate(sample)}
    )
    facts = {task: facts_of(histories, bit, items, allowed) for task, bit in BITS.items()}
    return PointInTime(INSTANT, facts, similar, kinds(items, 3), kinds(items, 5))


def item_texts(histories: Histories, items: int = ITEMS, allowed: np.ndarray | None = None) -> ItemTexts:
    """Of the log with all its later events: some words in common, every third item without a date in the catalog.

    The last item is published an hour after the instant, and the one before it is not dated and seen first by then.
    """
    numbers = np.arange(items)
    words = np.eye(3, dtype=np.float32)[numbers % 3] + 2 * np.eye(3, dtype=np.float32)[numbers // 5 % 3]
    words[: c.FIRST_ITEM_INDEX] = 0
    published_N = np.where(numbers % 3 == 0, NEVER, INSTANT - 300 * DAY + numbers)
    first_seen_N = np.full(items, INSTANT - 200 * DAY)
    if items == ITEMS:
        published_N[-2:], first_seen_N[-2:] = [NEVER, INSTANT + DAY // 24], INSTANT + 1
    first_event_N = np.full(items, NEVER)
    for item, micros, _ in (event for events in histories.values() for event in events):
        first_event_N[item] = min(first_event_N[item], micros)
    deleted_N = ~(real_items(items) if allowed is None else allowed)
    return ItemTexts(sparse.csr_matrix(words), published_N, first_seen_N, first_event_N, deleted_N, INSTANT + DAY)


def kinds(items: int, groups: int) -> np.ndarray:
    """Categories or texts; every group-th item has none (0)."""
    return np.arange(items) % groups


def make(
    histories: Histories,
    of: PointInTime,
    settings: RecommendationsConfig,
    only: Sequence[str] | None = None,
) -> dict[str, TaskCandidates]:
    """Candidates by task, of all users or of some."""
    some = {name: histories[name] for name in (only or histories)}
    maker = CandidateMaker(of, settings, BITS)
    return {made.task: made for made in maker.make(block(some, items=of.num_rows))}


def random_histories(seed: int, users: int = 16, longest: int = 14, items: int = ITEMS) -> dict[str, list[Event]]:
    """Users with a taste, tied times, and one user without events; some events are after the instant."""
    random = np.random.default_rng(seed)
    found: dict[str, list[Event]] = {"nobody": []}
    for user in range(users):
        taste = random.choice(np.arange(2, items), 5)
        times = INSTANT - DAY * random.choice([1, 2, 3, 5, 8, 13, 21, 40, 90, 400], longest)
        times -= random.integers(0, 2, longest) * 3_600_000_000
        times[:2] = INSTANT + DAY
        count = int(random.integers(1, longest + 1))
        bits = 1 + 2 * random.integers(0, 2, longest)
        rows = zip(random.choice(taste, count), times[-count:], bits[:count], strict=True)
        found[f"u{user}"] = [(int(item), int(time), int(bit)) for item, time, bit in rows]
    return found


def any_histories(items: int = ITEMS, most_users: int = 6) -> st.SearchStrategy[dict[str, list[Event]]]:
    """Any users with any events before the instant: a microsecond, exactly 7 days, 20 years before it."""
    special = st.sampled_from([1, DAY - 1, DAY, DAY + 1, 7 * DAY, 28 * DAY, 28 * DAY + 1, 84 * DAY, 7305 * DAY])
    ages = special | st.integers(1, 200 * DAY)
    event = st.tuples(st.integers(c.FIRST_ITEM_INDEX, items - 1), ages, st.sampled_from([1, 3]))
    lists = st.lists(st.lists(event, max_size=8), min_size=1, max_size=most_users)
    return lists.map(
        lambda users: {
            f"u{row}": [(item, INSTANT - age, bits) for item, age, bits in events] for row, events in enumerate(users)
        }
    )
