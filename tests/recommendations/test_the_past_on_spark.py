"""What Spark gathers of a past instant: nothing from it on is in a feature, and what is kept to learn from."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from precise_core.config.tasks import TaskConfig
from precise_core.recall.config import RecallConfig
from precise_core.recommendations.batches import TaskCandidates, UserBlock
from precise_core.recommendations.history import pair_keys
from precise_core.recommendations.knowledge import Log, known_at, read_catalog, read_sample
from precise_core.recommendations.rows import feature_rows
from precise_core.recommendations.sources import Candidates
from precise_core.recommendations.spark import IS_HELD_OUT, SHOWN, Shipped, _kept, _shown, ship_known, training_rows
from precise_core.warehouse.instants import micros
from schemas import EVENTS, ITEM_TOKENS, ITEM_VOCABULARY, ITEMS
from schemas import columns as c
from schemas.recommendations import FEATURE_NAMES
from tests.fake_warehouse import rows_with_defaults
from tests.recommendations.world import config

WHEN, END = datetime(2024, 3, 1, tzinfo=UTC), datetime(2024, 3, 11, tzinfo=UTC)
USERS, NUM_ITEMS = 8, 12

Taken = tuple[str, int, datetime, str]  # user, item, when, action


def before() -> list[Taken]:
    """Everybody has some items in common with others, some of them in pairs; nobody has the last two."""
    return [
        (
            f"u{user}",
            (user + step * step) % (NUM_ITEMS - 2),
            WHEN - timedelta(days=3 * (step // 2) + 1, hours=user // 3),
            action,
        )
        for user in range(USERS)
        for step, action in enumerate(("view", "buy", "view", "buy", "buy"), start=1)
    ]


def since() -> list[Taken]:
    """What could show in a feature: at the instant itself too, in pairs, on items without an event, by a newcomer."""
    taken = [(f"u{user}", (5 * user + step) % NUM_ITEMS, step) for user in range(USERS) for step in range(4)]
    taken += [("newcomer", item, 0) for item in range(NUM_ITEMS)]
    return [(user, item, WHEN + timedelta(days=2 * step), "buy") for user, item, step in taken]


def log_of(spark: SparkSession, taken: Sequence[Taken]) -> Log:
    events = [
        {c.EVENT_ID: str(number), c.USER_ID: user, c.ITEM_ID: f"i{item}", c.EVENT_TS: when, c.ACTION: action,
         c.EVENT_DATE: when.date()}
        for number, (user, item, when, action) in enumerate(taken)
    ]  # fmt: skip
    first = WHEN - timedelta(days=60)
    items = [
        {c.ITEM_ID: f"i{item}", c.TITLE: f"{item % 3}", c.CATEGORIES: [f"{item % 4}"], c.PUBLISHED_TS: first}
        for item in range(NUM_ITEMS)
    ]
    known = [
        {c.ITEM_ID: f"i{item}", c.ITEM_INDEX: item + c.FIRST_ITEM_INDEX, c.FIRST_SEEN: first}
        for item in range(NUM_ITEMS)
    ]
    tokens = [
        {c.ITEM_INDEX: item + c.FIRST_ITEM_INDEX, c.TOKEN_IDS: [10 + item % 3, 20 + item % 2], c.TOKEN_COUNT: 2}
        for item in range(NUM_ITEMS)
    ]
    tables = ((EVENTS, events), (ITEMS, items), (ITEM_VOCABULARY, known), (ITEM_TOKENS, tokens))
    frames = [spark.createDataFrame(rows_with_defaults(table, rows)) for table, rows in tables]
    return Log(*frames[:3], {"buy": TaskConfig(action="buy")}, END, config(text_new_days=28), frames[3])


def features(spark: SparkSession, taken: Sequence[Taken]) -> pd.DataFrame:
    """Rows of `candidate_features` as of ``WHEN``; with everybody held out all candidates are kept."""
    log = log_of(spark, taken)
    histories = log.histories()
    known = known_at(spark, histories, log, read_catalog(log.items, log.vocabulary), micros(WHEN))
    sent = Shipped(ship_known(spark, known), {}, log.bits, log.config, RecallConfig(), of_past=True)
    chosen = histories.withColumns({IS_HELD_OUT: F.lit(True), SHOWN: F.array().cast("array<int>")})
    rows = feature_rows(training_rows(chosen, sent, seed=1), log, WHEN, None, 1.0).toPandas()
    return rows.set_index([c.USER_ID, c.TASK, c.ITEM_ID]).sort_index()


def test_events_from_the_instant_on_change_no_feature(spark: SparkSession) -> None:
    without, with_later = features(spark, before()), features(spark, [*before(), *since()])
    with_later = with_later.drop("newcomer")  # no history before the instant, but candidates
    names = [*FEATURE_NAMES, c.IS_REPEAT]
    pd.testing.assert_frame_equal(with_later[names], without[names], check_exact=True)
    assert not without[c.LABEL].any() and with_later[c.LABEL].any()
    used = without[list(FEATURE_NAMES)].any()
    assert used[["all_popular_28d", "rank_neighbours", "rank_baskets", "rank_ease", "rank_text", "rank_users"]].all()


def test_a_sample_has_so_many_users_or_fewer_where_they_have_more_events_than_memory_is_meant_for(
    spark: SparkSession,
) -> None:
    taken = [(f"u{user}", item, WHEN, "buy") for user in range(400) for item in range(10)]
    histories = log_of(spark, taken).histories().persist()
    by_users, by_events, all_of_them = (
        read_sample(histories, users, events).column(c.USER_ID).to_pylist()
        for users, events in ((200, None), (400, 1000), (400, 4000))
    )
    histories.unpersist()
    assert 150 < len(by_users) < 250 and 60 < len(by_events) < 140 and len(all_of_them) == 400
    assert set(by_events) < set(by_users) and by_users == sorted(by_users)


def made_of(items: dict[str, Sequence[int]]) -> TaskCandidates:
    users_C = np.repeat(np.arange(len(items)), [len(own) for own in items.values()])
    found = Candidates(users_C, np.concatenate([np.asarray(own, np.int64) for own in items.values()]), {}, {})
    return TaskCandidates("all", found, np.zeros((len(users_C), 0), np.float32), np.full(len(users_C), np.inf))


def kept(items: dict[str, Sequence[int]], taken: int, shown: Sequence[int], negatives: int) -> dict[str, set[int]]:
    """Items kept of each user; those called `h...` are held out, `n...` took nothing, the others the item ``taken``."""
    made, names = made_of(items), list(items)
    taken_C = (made.candidates.item_rows_C == taken) & ~np.isin(
        made.candidates.user_rows_C, [row for row, name in enumerate(names) if name[0] == "n"]
    )
    keys = np.sort(pair_keys(np.repeat(np.arange(len(names)), len(shown)), np.tile(shown, len(names))))
    held_out_B = np.array([name[0] == "h" for name in names])
    keep_C = _kept(made, taken_C, keys, held_out_B, names, negatives, seed=3)
    found: dict[str, set[int]] = {name: set() for name in names}
    for user, item in zip(made.candidates.user_rows_C[keep_C], made.candidates.item_rows_C[keep_C], strict=True):
        found[names[user]].add(int(item))
    return found


@pytest.mark.parametrize(("negatives", "shown"), [(3, [5, 6]), (1, [5, 6]), (40, []), (4, [])])
def test_what_is_kept_is_all_of_held_out_users_and_else_what_was_taken_and_what_was_shown_before_others(
    negatives: int, shown: list[int]
) -> None:
    items = {name: range(2, 32) for name in ("a", "h", "n", "b", "hn")}
    found = kept(items, taken=9, shown=shown, negatives=negatives)
    assert found["h"] == found["hn"] == set(range(2, 32)) and found["n"] == set()
    for user in ("a", "b"):
        others = found[user] - {9}
        assert 9 in found[user] and len(others) == min(negatives, 29)
        assert set(shown) <= others if negatives >= len(shown) else others <= set(shown)
    assert kept({"b": range(2, 32)}, 9, shown, negatives)["b"] == found["b"]  # wherever the user is drawn
    if negatives == 4:
        assert found["a"] != found["b"]


def test_what_a_user_was_shown_is_of_that_user() -> None:
    shown = pa.array([[7, 3, 7], None, [], [3]], pa.list_(pa.int32()))
    rows = pa.RecordBatch.from_arrays([pa.array(list("abcd")), shown], names=[c.USER_ID, SHOWN])
    assert _shown(UserBlock(rows, 0, 10)).tolist() == pair_keys(np.array([0, 0, 3]), np.array([3, 7, 3])).tolist()
