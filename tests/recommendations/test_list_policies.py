"""Policies hold on the lists that are made: of users with a history and of those without."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pyarrow as pa

from precise_core.recall.config import RecallConfig
from precise_core.recommendations.batches import CandidateMaker
from precise_core.recommendations.config import ListConfig
from precise_core.recommendations.precise_scores import PreciseScores
from precise_core.recommendations.ranker_files import PublishedRanker
from precise_core.recommendations.rows import popular_places
from precise_core.recommendations.spark import Shipped, lists_of
from schemas import columns as c
from tests.recommendations.world import BITS, DAY, INSTANT, Histories, block, config, known, random_histories

LISTS = {"all": ListConfig(), "front": ListConfig(max_per_text=1), "again": ListConfig(repeat="only")}


def test_who_has_no_history_gets_what_is_popular_by_the_policy_of_each_list() -> None:
    """Items 2, 7 and 12 have one text, 3 and 8 another; of `buy` nothing was taken lately."""
    times = {2: 6, 7: 5, 12: 4, 3: 3, 8: 2, 4: 1}
    lately = [(item, INSTANT - DAY, 1) for item, count in times.items() for _ in range(count)]
    histories: Histories = {"u": [*lately, (9, INSTANT - 40 * DAY, 3)]}
    settings = config(k=3, lists=LISTS)
    found: dict[tuple[str, str], list[tuple[int, int, float, str]]] = {}
    for task, name, rank, score, item, _, order in popular_places(known(histories, settings), settings):
        found.setdefault((task, name), []).append((rank, item, score, order))
    assert found == {
        ("all", "all"): [(1, 2, 6, "popular_28d"), (2, 7, 5, "popular_28d"), (3, 12, 4, "popular_28d")],
        ("all", "front"): [(1, 2, 6, "popular_28d"), (2, 3, 3, "popular_28d"), (3, 4, 1, "popular_28d")],
        ("buy", "all"): [(1, 9, 1, "popular")],
        ("buy", "front"): [(1, 9, 1, "popular")],
    }


def test_who_has_a_history_gets_lists_by_the_policy_of_each() -> None:
    histories, settings = random_histories(3), config(k=8, lists=LISTS)
    of = known(histories, settings)
    sent = Shipped("", {}, BITS, settings, RecallConfig())
    unlearned = PublishedRanker("", {}, {}, {}, {}, {}, Path())
    precise = PreciseScores({}, sent.recall, {}, {}, has_history=True)
    batches = lists_of([block(histories).rows], CandidateMaker(of, settings, BITS), precise, unlearned, sent)
    rows = pa.Table.from_batches(list(batches)).to_pandas()
    had = {(user, item) for user, events in histories.items() for item, time, _ in events if time < INSTANT}
    most = {name: 0 for name in LISTS}
    for (user, _, name), own in rows.groupby([c.USER_ID, c.TASK, c.LIST]):
        counts = Counter(int(of.texts_N[item]) for item in own[c.ITEM_INDEX])
        most[name] = max(most[name], *(count for text, count in counts.items() if text), 0)
        assert name != "again" or {(user, item) for item in own[c.ITEM_INDEX]} <= had
    assert most["front"] == 1 < most["all"]
