"""What is known at an instant, gathered on Spark: facts of items from all users, similarities from a fixed sample."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from scipy import sparse

from precise_core.config.tasks import ALL_TASK, TaskConfig
from precise_core.recommendations.batches import UserBlock, user_blocks
from precise_core.recommendations.config import RecommendationsConfig
from precise_core.recommendations.ease import ease_neighbours
from precise_core.recommendations.fact_parts import NEWEST, OLDEST, PART_COLUMNS, SUMS, TASK_BIT, item_facts, part
from precise_core.recommendations.history import UserEvents, item_tally
from precise_core.recommendations.item_facts import ItemFacts
from precise_core.recommendations.names import BASKETS, EASE, NEIGHBOURS, TEXT
from precise_core.recommendations.neighbours import Cooccurrence, baskets, pair_matrix, placed
from precise_core.recommendations.point_in_time import PointInTime, Similarities
from precise_core.recommendations.sources import profiles
from precise_core.recommendations.text_neighbours import NEVER, ItemTexts, text_neighbours
from precise_core.sequences.build import user_histories
from precise_core.sequences.chunks import TASK_BITS
from precise_core.tasks import events_before
from precise_core.vectors.shipping import ship, shipped
from precise_core.warehouse.instants import micros
from schemas import columns as c

_Batches = Iterable[pa.RecordBatch]

_PART_USERS = 4096  # of a part of the facts: enough that most of its items are met often
_SEEDS_PER_TASK = 8192
_FINE = 1_000_000  # of a share of users
_FIRST_EVENT = "first_event"
_NEAR = f"{c.ITEM_INDEX} int, near array<int>, scores array<float>"


@dataclass(frozen=True)
class Log:
    """The tables that lists are made from, at the versions that the run reads.

    Attributes:
        tasks: Declared ones; `all` is added.
        end: Later events are not read.
        tokens: `item_tokens`; None where the source `text` is off or not made here.
    """

    events: DataFrame
    items: DataFrame
    vocabulary: DataFrame
    tasks: Mapping[str, TaskConfig]
    end: datetime
    config: RecommendationsConfig
    tokens: DataFrame | None = None

    @property
    def bits(self) -> dict[str, int]:
        """Bit of each task in ``histories``."""
        return {name: bit for bit, name in enumerate((ALL_TASK, *self.tasks))}

    def histories(self) -> DataFrame:
        """``sequences.build.user_histories``: one row a user with an event before ``end``."""
        return user_histories(self.events, self.vocabulary, self.tasks, self.end, self.config.history_events)


@dataclass(frozen=True)
class Catalog:
    """Items by vocabulary row [N].

    Attributes:
        item_ids_N: None where a row is no item.
        deleted_N: Mask of what may not be recommended to anybody, rows without an item among it.
        categories_N, texts_N: Number of the narrowest category and of the text (title and categories); 0 = none.
    """

    item_ids_N: pa.Array
    deleted_N: np.ndarray
    categories_N: np.ndarray
    texts_N: np.ndarray

    def __len__(self) -> int:
        return len(self.deleted_N)


def read_catalog(items: DataFrame, vocabulary: DataFrame) -> Catalog:
    """The catalog in this process: some 50 bytes an item and its id."""
    narrowest = F.coalesce(F.try_element_at(c.CATEGORIES, F.lit(-1)), F.lit("")).alias(c.CATEGORY)
    text = F.xxhash64(c.TITLE, c.CATEGORIES).alias(c.TEXT_GROUP)
    has_text = (F.length(c.TITLE) > 0) | (F.size(c.CATEGORIES) > 0)
    columns = (c.ITEM_ID, c.IS_DELETED, narrowest, F.when(has_text, text).alias(c.TEXT_GROUP))
    known = vocabulary.select(c.ITEM_ID, c.ITEM_INDEX).join(items.select(*columns), on=c.ITEM_ID, how="left")
    rows = known.toArrow()
    at = rows[c.ITEM_INDEX].to_numpy()
    size = int(at.max(initial=c.FIRST_ITEM_INDEX - 1)) + 1
    order = np.full(size, -1, np.int64)
    order[at] = np.arange(len(at))
    deleted_N = np.ones(size, bool)
    deleted_N[at] = pc.fill_null(rows[c.IS_DELETED], True).to_numpy(zero_copy_only=False)
    ids = rows[c.ITEM_ID].combine_chunks().take(pa.array(order, mask=order < 0))
    return Catalog(ids, deleted_N, _numbered(rows[c.CATEGORY], at, size, ""), _numbered(rows[c.TEXT_GROUP], at, size))


def _numbered(values: pa.ChunkedArray, at: np.ndarray, size: int, none: str | None = None) -> np.ndarray:
    """Numbers from 1 of distinct values at ``at``, 0 elsewhere and for null or ``none``; int64 [size]."""
    codes = values.combine_chunks().dictionary_encode()
    numbers = pc.fill_null(codes.indices, -1).to_numpy().astype(np.int64) + 1
    if none is not None:
        numbers[pc.fill_null(pc.equal(values, none), False).to_numpy(zero_copy_only=False)] = 0
    numbers_N = np.zeros(size, np.int64)
    numbers_N[at] = numbers
    return numbers_N


def known_at(
    spark: SparkSession,
    histories: DataFrame,
    log: Log,
    catalog: Catalog,
    instant: int,
    near: Mapping[str, sparse.csr_matrix] | None = None,
    say: Callable[[str], None] | None = None,
) -> PointInTime:
    """What is known at an instant (microseconds), from a pass over the histories for facts and one for each sample.

    ``near`` is given where the item to item similarities of the instant are in a table already; ``say`` is as in
    ``similar_items``.
    """
    facts = _facts(histories, log, catalog, instant)
    sample = UserBlock(read_sample(histories, log.config.sample_users), instant, len(catalog))
    own = profiles(item_tally(sample.events), len(sample.user_ids), len(catalog))
    rows = {user_id: row for row, user_id in enumerate(sample.user_ids)}
    found = similar_items(spark, histories, log, catalog, instant, say) if near is None else near
    similarities = Similarities(found, own, rows)
    return PointInTime(instant, facts, similarities, catalog.categories_N, catalog.texts_N)


def read_sample(histories: DataFrame, users: int, events: int | None = None) -> pa.RecordBatch:
    """Histories of a fixed sample of about so many users, with about so many events at most; ordered by user.

    In this process: some 16 bytes an event.
    """
    sums = F.count("*").alias("users"), F.coalesce(F.sum(F.size(c.EVENT_TS)), F.lit(0)).alias("events")
    total = histories.agg(*sums).collect()[0]
    share = min(users / max(total["users"], 1), (events or np.inf) / max(total["events"], 1))
    chosen = histories.where(is_sampled(share))
    columns = [c.USER_ID, c.ITEM_INDICES, c.EVENT_TS, TASK_BITS]
    rows = chosen.select(*columns).toArrow().combine_chunks().sort_by(c.USER_ID).combine_chunks()
    return rows.to_batches()[0] if rows.num_rows else pa.RecordBatch.from_pylist([], schema=rows.schema)


def is_sampled(share: float, salt: str = "sample") -> F.Column:
    """The same users every night; a larger share has those of a smaller one."""
    return F.pmod(F.xxhash64(c.USER_ID, F.lit(salt)), F.lit(_FINE)) < F.lit(int(min(share, 1.0) * _FINE))


def similar_items(
    spark: SparkSession,
    histories: DataFrame,
    log: Log,
    catalog: Catalog,
    instant: int,
    say: Callable[[str], None] | None = None,
) -> dict[str, sparse.csr_matrix]:
    """Item to item at an instant (microseconds), by source: co-occurrence of users and of baskets, EASE, and text.

    Of the sources that are on; ``say`` is told how much each found.
    """
    say, config, found = say or (lambda _: None), log.config, {}
    most_events = config.pair_users * config.pair_events
    sample = UserBlock(read_sample(histories, config.pair_users, most_events), instant, len(catalog))
    events = sample.events.of_items()
    newest = events.newest(config.pair_events)
    for source, had in ((NEIGHBOURS, _had), (BASKETS, baskets)):
        if config.k_of(source):
            found[source] = cooccurrence(spark, had(newest), config.shrinkage, config.neighbours, ~catalog.deleted_N)
    if config.k_of(EASE):
        sizes = (config.ease_items, config.ease_penalty, config.neighbours)
        found[EASE] = ease_neighbours(_had(events), *sizes, ~catalog.deleted_N)
    for source, matrix in found.items():
        say(f"{source}: {matrix.nnz:,} pairs from {len(sample.user_ids):,} users")
    if log.tokens is not None:
        texts = read_texts(log, log.tokens, catalog)
        found[TEXT] = text_neighbours(texts, instant, config.text_new_days, config.neighbours)
        say(_of_text(texts, found[TEXT], instant, config.text_new_days))
    return found


def read_texts(log: Log, tokens: DataFrame, catalog: Catalog) -> ItemTexts:
    """Tokens of every item and when it appeared, in this process: some 8 bytes a token."""
    first_event = F.unix_micros(F.min(c.EVENT_TS)).alias(_FIRST_EVENT)
    firsts = events_before(log.events, log.end).groupBy(c.ITEM_ID).agg(first_event)
    published = log.items.select(c.ITEM_ID, F.unix_micros(c.PUBLISHED_TS).alias(c.PUBLISHED_TS))
    known = log.vocabulary.select(c.ITEM_ID, c.ITEM_INDEX, F.unix_micros(c.FIRST_SEEN).alias(c.FIRST_SEEN))
    dated = known.join(published, on=c.ITEM_ID, how="left").join(firsts, on=c.ITEM_ID, how="left")
    rows = dated.select(c.ITEM_INDEX, c.PUBLISHED_TS, c.FIRST_SEEN, _FIRST_EVENT).toArrow()
    times = []
    for name in (c.PUBLISHED_TS, c.FIRST_SEEN, _FIRST_EVENT):
        times.append(np.full(len(catalog), NEVER))
        times[-1][rows[c.ITEM_INDEX].to_numpy()] = pc.fill_null(rows[name], NEVER).to_numpy()
    real = F.slice(c.TOKEN_IDS, F.lit(1), F.col(c.TOKEN_COUNT)).alias(c.TOKEN_IDS)
    read = tokens.where(F.col(c.TOKEN_COUNT) > 0).select(c.ITEM_INDEX, real).toArrow().combine_chunks()
    ids = read[c.TOKEN_IDS].combine_chunks()
    at = np.repeat(read[c.ITEM_INDEX].to_numpy(), pc.list_value_length(ids).to_numpy())
    token_ids = ids.flatten().to_numpy()
    shape = (len(catalog), int(token_ids.max(initial=0)) + 1)
    tokens_NT = sparse.csr_matrix((np.ones(len(at), np.float32), (at, token_ids)), shape)
    published_N, first_seen_N, first_event_N = times
    return ItemTexts(tokens_NT, published_N, first_seen_N, first_event_N, catalog.deleted_N, micros(log.end))


def _of_text(texts: ItemTexts, near: sparse.csr_matrix, instant: int, days: float) -> str:
    if not texts.has_text().any():
        return f"{TEXT}: nothing, no item of the catalog has a text"
    new = len(texts.newest(instant, days))
    if not new:
        return f"{TEXT}: nothing, every item had an event more than {days:g} days ago"
    return f"{TEXT}: {near.nnz:,} pairs of items with an event and {new:,} without one before the last {days:g} days"


def _had(events: UserEvents) -> sparse.csr_matrix:
    return pair_matrix(events.user_rows_E, events.item_rows_E, events.users, events.items)


def cooccurrence(
    spark: SparkSession, had_RN: sparse.csr_matrix, shrinkage: float, neighbours: int, allowed_N: np.ndarray
) -> sparse.csr_matrix:
    """``neighbours.Cooccurrence`` of every item, float32 [N, N]; tasks share the seed items."""
    seeds = np.flatnonzero(np.bincount(had_RN.indices, minlength=had_RN.shape[1]))
    blocks = -(-len(seeds) // _SEEDS_PER_TASK)
    if not blocks:
        return sparse.csr_matrix((had_RN.shape[1], had_RN.shape[1]), dtype=np.float32)
    with tempfile.TemporaryDirectory(prefix="precise-pairs-") as scratch:
        folder = Path(scratch) / "pairs"
        folder.mkdir()
        np.save(folder / "indices.npy", had_RN.indices)
        np.save(folder / "indptr.npy", had_RN.indptr)
        np.save(folder / "allowed.npy", allowed_N)
        name = ship(spark, folder)
    numbers = spark.range(0, blocks, numPartitions=blocks)
    rows = numbers.mapInArrow(_near_rows(name, shrinkage, neighbours), _NEAR).toArrow().combine_chunks()
    rows = rows.sort_by(c.ITEM_INDEX)
    near = rows["near"].combine_chunks()
    lengths = pc.list_value_length(near).to_numpy()
    parts = (rows["scores"].combine_chunks().flatten().to_numpy(), near.flatten().to_numpy())
    matrix = sparse.csr_matrix((*parts, np.append(0, np.cumsum(lengths))), shape=(len(rows), had_RN.shape[1]))
    return placed(matrix, rows[c.ITEM_INDEX].to_numpy())


def _near_rows(name: str, shrinkage: float, neighbours: int) -> Callable[[_Batches], Iterator[pa.RecordBatch]]:
    def apply(batches: _Batches) -> Iterator[pa.RecordBatch]:
        pairs_seen = _open_pairs(name, shrinkage, neighbours)
        for batch in batches:
            for number in batch.column(0).to_pylist():
                seeds = pairs_seen.seeds[number * _SEEDS_PER_TASK : (number + 1) * _SEEDS_PER_TASK]
                near = pairs_seen.near(seeds)
                offsets = pa.array(near.indptr.astype(np.int32))
                lists = [pa.ListArray.from_arrays(offsets, pa.array(part)) for part in (near.indices, near.data)]
                yield pa.RecordBatch.from_arrays(
                    [pa.array(seeds.astype(np.int32)), *lists], names=[c.ITEM_INDEX, "near", "scores"]
                )

    return apply


@lru_cache(maxsize=2)
def _open_pairs(name: str, shrinkage: float, neighbours: int) -> Cooccurrence:
    folder = shipped(name)
    indices, indptr, allowed_N = (np.load(folder / f"{name}.npy") for name in ("indices", "indptr", "allowed"))
    had_RN = sparse.csr_matrix((np.ones(len(indices), bool), indices, indptr), (len(indptr) - 1, len(allowed_N)))
    return Cooccurrence(had_RN, shrinkage, neighbours, allowed_N=allowed_N)


def _facts(histories: DataFrame, log: Log, catalog: Catalog, instant: int) -> dict[str, ItemFacts]:
    """Facts of every task."""
    tasks = log.bits
    parts = histories.mapInArrow(_fact_parts(instant, list(tasks.values()), len(catalog)), PART_COLUMNS)
    sums = [F.sum(name).alias(name) for name in SUMS]
    whole = parts.groupBy(TASK_BIT, c.ITEM_INDEX).agg(*sums, F.max(OLDEST).alias(OLDEST), F.min(NEWEST).alias(NEWEST))
    rows = whole.toArrow()
    found: dict[str, ItemFacts] = {}
    for task, bit in tasks.items():
        mine = rows.filter(pc.equal(rows[TASK_BIT], bit)).combine_chunks()
        facts = item_facts(mine, len(catalog), ~catalog.deleted_N)
        is_foreign_N = (found.get(ALL_TASK, facts).users_N > 0) & (facts.users_N == 0)
        found[task] = replace(facts, allowed_N=facts.allowed_N & ~is_foreign_N)
    return found


def _fact_parts(instant: int, bits: Sequence[int], items: int) -> Callable[[_Batches], Iterator[pa.RecordBatch]]:
    def apply(batches: _Batches) -> Iterator[pa.RecordBatch]:
        for block in user_blocks(batches, instant, items, _PART_USERS):
            for bit in bits:
                yield part(block, bit)

    return apply
