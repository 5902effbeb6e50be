"""What a perfect ranking of the candidates would reach on held-out users, and which source finds what they took.

A list cannot hold what no source found. Everything that a held-out user took in the past period counts, of users of
whom no source found anything too; items that the vocabulary lacks do not: nothing could recommend them.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import numpy as np
import pandas as pd

from benchmarks.markdown import table
from precise_core.recommendations.batches import UserBlock
from precise_core.recommendations.history import item_tally, positions_in, split_keys
from precise_core.recommendations.knowledge import Log
from precise_core.recommendations.names import OF_POPULAR, SOURCES, TRENDING
from precise_core.recommendations.night import gather, learners
from precise_core.recommendations.spark import IS_HELD_OUT
from precise_core.run.job import Job
from precise_core.sequences.chunks import TASK_BITS
from precise_core.warehouse.instants import micros
from schemas import CANDIDATE_FEATURES
from schemas import columns as c
from schemas.recommendations import FEATURE_NAMES

FILTERS = {"all": None, "new": False, "repeat": True}
_RANKS = [name for name in FEATURE_NAMES if name.startswith("rank_")]
_POPULAR = tuple(f"rank_{start}" for start in OF_POPULAR)


def ceiling(job: Job) -> str:
    """Markdown tables with a row per task and filter: what could be reached, what each source finds, and each source's
    own order."""
    names = [c.USER_ID, c.TASK, c.LABEL, c.IS_REPEAT, c.AS_OF, *_RANKS]
    where = {c.SPLIT: c.VALIDATION}
    rows = job.warehouse.read_arrow(CANDIDATE_FEATURES, job.pin(CANDIDATE_FEATURES), names, where).to_pandas()
    if not len(rows):
        return "no held-out user took anything: nothing could be reached"
    taken = taken_by_held_out(job, gather(job), rows[c.AS_OF].iloc[0].to_pydatetime())
    k = job.settings.recommendations.k
    tables = (reachable(rows, taken, k), by_source(rows, taken), own_orders(rows, taken, k))
    return "\n\n".join("\n".join(lines) for lines in tables)


def taken_by_held_out(job: Job, log: Log, when: datetime) -> pd.DataFrame:
    """user_id, task, is_repeat: a row per item that a held-out user took in a task from the instant on."""
    of_held_out = learners(log.histories(), job, log, when)[0].where(IS_HELD_OUT)
    histories = of_held_out.select(c.USER_ID, c.ITEM_INDICES, c.EVENT_TS, TASK_BITS).toArrow().combine_chunks()
    frames = []
    for batch in histories.to_batches():
        block = UserBlock(batch, micros(when), log.vocabulary.count() + c.FIRST_ITEM_INDEX)
        had, users = item_tally(block.events).keys_P, np.asarray(block.user_ids, dtype=object)
        for task, bit in log.bits.items():
            keys = block.taken(bit)
            user_rows, items = split_keys(keys)
            columns = {c.USER_ID: users[user_rows], c.TASK: task, c.IS_REPEAT: positions_in(had, keys) < len(had)}
            frames.append(pd.DataFrame(columns)[items >= c.FIRST_ITEM_INDEX])
    return pd.concat(frames, ignore_index=True)


def reachable(rows: pd.DataFrame, taken: pd.DataFrame, k: int) -> list[str]:
    """NDCG@k of the ideal order of the candidates, beside the share of what was taken that is among them.

    Args:
        rows: Every candidate of every list of which something was taken: user_id, task, label, is_repeat.
        taken: Of ``taken_by_held_out``.
    """
    ideal = _ideal(k)
    found_rows = []
    for task, name, of_task, of_taken in _questions(rows, taken):
        number = of_taken.groupby(c.USER_ID).size()
        found = of_task[of_task[c.LABEL] == 1].groupby(c.USER_ID).size().reindex(number.index, fill_value=0)
        ndcg = ideal[np.minimum(found, k)] / ideal[np.minimum(number, k)]
        lists = max(rows[rows[c.TASK] == task][c.USER_ID].nunique(), 1)
        figures = (f"{ndcg.mean():.4f}", f"{(found / number).mean():.4f}", f"{len(of_task) / lists:.0f}")
        found_rows.append([task, name, *figures, f"{len(number):,}"])
    heads = ("task", "filter", f"NDCG@{k} of a perfect order", "of what was taken", "candidates a user", "users")
    return table(heads, found_rows, names=2)


def by_source(rows: pd.DataFrame, taken: pd.DataFrame) -> list[str]:
    """Share of what was taken that each source finds, and that it alone finds."""
    sources = [source for source in SOURCES if source == TRENDING or f"rank_{source}" in rows]
    found_rows = []
    for task, name, of_task, of_taken in _questions(rows, taken):
        positives = of_task[of_task[c.LABEL] == 1]
        by = np.stack([_finds(positives, source) for source in sources], axis=1)
        alone = by & (by.sum(axis=1, keepdims=True) == 1)
        shares = zip(by.sum(axis=0) / len(of_taken), alone.sum(axis=0) / len(of_taken), strict=True)
        found_rows.append([task, name, *(f"{100 * one:.1f} ({100 * only:.1f})" for one, only in shares)])
    return table(("task", "filter", *(f"{source} %" for source in sources)), found_rows, names=2)


def own_orders(rows: pd.DataFrame, taken: pd.DataFrame, k: int) -> list[str]:
    """NDCG@k of what each source finds, in its own order; of the lists of popular items one by one."""
    names = [name for name in rows.columns if name.startswith("rank_")]
    ideal, found_rows = _ideal(k), []
    for task, name, of_task, of_taken in _questions(rows, taken):
        best = ideal[np.minimum(of_taken.groupby(c.USER_ID).size(), k)]
        figures = []
        for source in names:
            found = of_task[of_task[source] > 0]  # 1 / sqrt(rank)
            places = found.groupby(c.USER_ID)[source].rank(method="first", ascending=False)
            gains = (found[c.LABEL] / np.log2(places + 1)).where(places <= k, 0).groupby(found[c.USER_ID]).sum()
            users = of_taken[c.USER_ID].drop_duplicates().sort_values()
            figures.append(f"{(gains.reindex(users, fill_value=0).to_numpy() / best).mean():.4f}")
        found_rows.append([task, name, *figures])
    heads = (f"task, NDCG@{k} of each source", "filter", *(name.removeprefix("rank_") for name in names))
    return table(heads, found_rows, names=2)


def _ideal(k: int) -> np.ndarray:
    """DCG of so many hits in the first places, 0 to ``k`` of them."""
    return np.append(0, np.cumsum(1 / np.log2(np.arange(k) + 2)))


def _questions(rows: pd.DataFrame, taken: pd.DataFrame) -> list[tuple[str, str, pd.DataFrame, pd.DataFrame]]:
    """Of each task and filter with something taken: its candidates, and what was taken."""
    found = []
    for task in pd.unique(taken[c.TASK]):
        for name, repeat in FILTERS.items():
            parts = [frame[frame[c.TASK] == task] for frame in (rows, taken)]
            if repeat is not None:
                parts = [part[part[c.IS_REPEAT] == repeat] for part in parts]
            if len(parts[1]):
                found.append((str(task), name, *parts))
    return found


def _finds(rows: pd.DataFrame, source: str) -> np.ndarray:
    names: Sequence[str] = [f"rank_{source}"]
    if source == TRENDING:
        names = [name for name in rows.columns if name.startswith(_POPULAR)]
    return (rows[list(names)] > 0).any(axis=1).to_numpy(bool)
