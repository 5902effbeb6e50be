"""Candidates and lists on Spark: every worker maps what is known once, and works through its own users."""

from __future__ import annotations

import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from precise_core.config.tasks import ALL_TASK
from precise_core.index.index import VectorIndex
from precise_core.recall.config import RecallConfig
from precise_core.recommendations.batches import CandidateMaker, TaskCandidates, UserBlock, labels, user_blocks
from precise_core.recommendations.config import RecommendationsConfig
from precise_core.recommendations.history import pair_keys
from precise_core.recommendations.lists import PRECISE_SCORES
from precise_core.recommendations.names import HISTORY, OF_POPULAR, POPULAR_SOURCE, U2I, U2I2I
from precise_core.recommendations.pair_vectors import PairVectors
from precise_core.recommendations.point_in_time import PointInTime
from precise_core.recommendations.policy import listed
from precise_core.recommendations.precise_scores import VECTORS, PreciseScores, TaskIndex
from precise_core.recommendations.ranker_files import PublishedRanker
from precise_core.recommendations.reasons import UserSeeds, dates_before, reasons
from precise_core.vectors.shipping import ship, shipped
from schemas import CANDIDATE_FEATURES, RECOMMENDATIONS
from schemas import columns as c
from schemas.recommendations import FEATURE_NAMES

_Batches = Iterable[pa.RecordBatch]

IS_HELD_OUT, SHOWN = "is_held_out", "shown"
SEED_INDEX, WORDS = "seed_index", "words"
_TRAINING = (c.USER_ID, c.TASK, c.LABEL, c.SPLIT, c.IS_REPEAT, *PRECISE_SCORES, *FEATURE_NAMES)
_TRAINING_DDL = f"{CANDIDATE_FEATURES.ddl(*_TRAINING)}, {c.ITEM_INDEX} int"
_LISTED = (c.USER_ID, c.TASK, c.LIST, c.RANK, c.SCORE, c.PROBABILITY, c.SOURCES, c.MODEL_VERSION)
LISTED_DDL = f"{RECOMMENDATIONS.ddl(*_LISTED)}, {c.ITEM_INDEX} int, {SEED_INDEX} int, {WORDS} string"


@dataclass(frozen=True)
class Shipped:
    """What every worker opens: names of ``vectors.shipping.ship``.

    Attributes:
        known: A ``PointInTime``.
        indexes: The published index of each task that has one, and its checkpoint.
        bits: Bit of each task in the histories.
        of_past: The instant lies before the end of the log: the indexes find nothing that had no event by then, since
            it may not have been there yet.
    """

    known: str
    indexes: Mapping[str, tuple[str, str]]
    bits: Mapping[str, int]
    config: RecommendationsConfig
    recall: RecallConfig
    of_past: bool = False

    def maker(self) -> CandidateMaker:
        return _maker(self.known, self.config.model_dump_json(), tuple(self.bits.items()))

    def precise(self) -> PreciseScores:
        known = self.maker().known
        opened = {task: _index(*of, known.num_rows) for task, of in self.indexes.items()}
        is_there_N = known.facts[ALL_TASK].users_N > 0 if self.of_past else True
        allowed = {task: known.facts[task].allowed_N & is_there_N for task in opened}
        k = {source: self.config.k_of(source) for source in (U2I, U2I2I)}
        return PreciseScores(opened, self.recall, k, allowed, has_history=self.config.k_of(HISTORY) > 0)


def ship_known(spark: SparkSession, known: PointInTime) -> str:
    """Make what is known available to every worker."""
    with tempfile.TemporaryDirectory(prefix="precise-known-") as scratch:
        known.save(Path(scratch) / "known")
        return ship(spark, Path(scratch) / "known")


@lru_cache(maxsize=2)
def _maker(known: str, config: str, bits: tuple[tuple[str, int], ...]) -> CandidateMaker:
    loaded = RecommendationsConfig.model_validate_json(config)
    return CandidateMaker(PointInTime.open(shipped(known)), loaded, dict(bits))


@lru_cache(maxsize=64)
def _index(name: str, model_version: str, items: int) -> TaskIndex:
    return TaskIndex.of(VectorIndex.open(shipped(name), model_version, is_verified=True), items)


def training_rows(histories: DataFrame, sent: Shipped, seed: int) -> DataFrame:
    """Labelled candidates of users before the instant: all of held-out users, of others what was taken and a sample.

    ``histories`` have ``is_held_out``, ``shown`` (vocabulary rows of what a user was shown in the period) and reach to
    the end of the period whose events are the labels. A training list of which nothing was taken teaches nothing and is
    left out; one of a held-out user tells how often that is, for the probabilities.
    """
    return histories.mapInArrow(_training_rows(sent, seed), _TRAINING_DDL)


def _training_rows(sent: Shipped, seed: int) -> Callable[[_Batches], Iterator[pa.RecordBatch]]:
    def apply(batches: _Batches) -> Iterator[pa.RecordBatch]:
        maker, precise = sent.maker(), sent.precise()
        for block in user_blocks(batches, maker.known.micros, maker.known.num_rows):
            held_out_B = np.asarray(block.rows.column(IS_HELD_OUT).to_pylist(), bool)
            shown = _shown(block)
            for made, precise_C2, _ in _candidates(block, maker, precise, sent):
                taken_C = labels(made, block.taken(sent.bits[made.task]))
                keep_C = _kept(made, taken_C, shown, held_out_B, block.user_ids, sent.config.ranker.negatives, seed)
                if keep_C.any():
                    yield _training_batch(made.where(keep_C), precise_C2[keep_C], taken_C[keep_C], held_out_B, block)

    return apply


def _candidates(
    block: UserBlock, maker: CandidateMaker, precise: PreciseScores, sent: Shipped
) -> Iterator[tuple[TaskCandidates, np.ndarray, PairVectors | None]]:
    """Candidates of each task, PRECISE's scores of them [C, 2], and their universal vectors."""
    vectors = precise.of_users(block) if sent.indexes else {}
    recalled = precise.recalled(block, sent.bits, vectors) if vectors else None
    for made in maker.make(block, recalled):
        found = made.candidates
        yield made, precise.scores(made.task, found, vectors), precise.pairs(found, vectors) if vectors else None


def _shown(block: UserBlock) -> np.ndarray:
    """``pair_keys`` of what each user was shown in the period of the labels, ascending."""
    lists = block.rows.column(SHOWN)
    users = np.repeat(np.arange(len(lists)), pc.fill_null(pc.list_value_length(lists), 0).to_numpy())
    return np.unique(pair_keys(users, lists.flatten().to_numpy()))


def _kept(
    made: TaskCandidates,
    taken_C: np.ndarray,
    shown: np.ndarray,
    held_out_B: np.ndarray,
    user_ids: list[str],
    negatives: int,
    seed: int,
) -> np.ndarray:
    """Mask of the candidates that are kept to learn from; the sample of a user is the same wherever it is drawn.

    What a user was shown and did not take is known not to be wanted: it is kept before what nobody knows about.
    """
    users_C = made.candidates.user_rows_C
    is_shown_C = labels(made, shown)
    has_positive_B = np.bincount(users_C, taken_C, len(user_ids)) > 0
    keep_C = held_out_B[users_C] | taken_C
    starts = np.searchsorted(users_C, np.arange(len(user_ids) + 1))
    for user in np.flatnonzero(has_positive_B & ~held_out_B):
        others = starts[user] + np.flatnonzero(~taken_C[starts[user] : starts[user + 1]])
        random = np.random.default_rng([seed, zlib.crc32(f"{made.task}\x1f{user_ids[user]}".encode())])
        drawn = random.permutation(others)
        keep_C[drawn[np.argsort(~is_shown_C[drawn], kind="stable")][:negatives]] = True
    return keep_C


def _training_batch(
    made: TaskCandidates, precise_C2: np.ndarray, taken_C: np.ndarray, held_out_B: np.ndarray, block: UserBlock
) -> pa.RecordBatch:
    users_C = pa.array(made.candidates.user_rows_C)
    split_B = pa.array(np.where(held_out_B, c.VALIDATION, c.TRAIN))
    columns = [
        block.rows.column(c.USER_ID).take(users_C),
        pa.array([made.task] * len(users_C), pa.string()),
        pa.array(taken_C.astype(np.int32)),
        split_B.take(users_C),
        pa.array(made.is_repeat_C),
        *(pa.array(column, mask=np.isnan(column)) for column in precise_C2.T),
        *(pa.array(column) for column in np.ascontiguousarray(made.features_CG.T)),
        pa.array(made.candidates.item_rows_C.astype(np.int32)),
    ]
    return pa.RecordBatch.from_arrays(columns, names=[*_TRAINING, c.ITEM_INDEX])


def recommended(histories: DataFrame, sent: Shipped, ranker: Path | None, spark: SparkSession) -> DataFrame:
    """The lists of users with a history, ``LISTED_DDL``; without a ranker in the order ``orders.UNLEARNED``."""
    name = ship(spark, ranker) if ranker else None
    return histories.mapInArrow(_recommended(sent, name), LISTED_DDL)


def _recommended(sent: Shipped, name: str | None) -> Callable[[_Batches], Iterator[pa.RecordBatch]]:
    def apply(batches: _Batches) -> Iterator[pa.RecordBatch]:
        yield from lists_of(batches, sent.maker(), sent.precise(), _ranker(name), sent)

    return apply


def lists_of(
    batches: _Batches, maker: CandidateMaker, precise: PreciseScores, ranker: PublishedRanker, sent: Shipped
) -> Iterator[pa.RecordBatch]:
    """The lists of the users of one partition, a batch per block of users, task and list."""
    for block in user_blocks(batches, maker.known.micros, maker.known.num_rows):
        seeds = UserSeeds.of(block.events, maker.known.similarities.near, sent.config.seeds)
        for made, precise_C2, pairs in _candidates(block, maker, precise, sent):
            scored: dict[str, np.ndarray] = {}  # by order: lists of one task mostly share theirs
            for list_name in sent.config.lists:
                label = ranker.label(made.task, list_name)
                if label not in scored:
                    scored[label] = ranker.scores(made.task, list_name, made.features_CG, precise_C2, pairs)
                yield _listed_batch(made, scored[label], list_name, block, maker.known, ranker, seeds, sent.config)


@lru_cache(maxsize=1)
def _ranker(name: str | None) -> PublishedRanker:
    if name is None:
        return PublishedRanker("", {}, {}, {}, {}, {}, Path())
    return PublishedRanker.open(shipped(name))


def _listed_batch(
    made: TaskCandidates,
    scores_C: np.ndarray,
    list_name: str,
    block: UserBlock,
    known: PointInTime,
    ranker: PublishedRanker,
    seeds: UserSeeds,
    config: RecommendationsConfig,
) -> pa.RecordBatch:
    found, task = made.candidates, made.task
    kinds = (known.categories_N[found.item_rows_C], known.texts_N[found.item_rows_C])
    keys = (found.user_rows_C, found.item_rows_C, scores_C, made.is_repeat_C)
    rows, ranks = listed(*keys, *kinds, config.lists[list_name], config.k)
    probabilities = ranker.probabilities(task, list_name, scores_C[rows])
    dates = dates_before(block.instant, made.last_ages_C[rows])
    words, of_seeds = reasons(made.features_CG[rows], found.user_rows_C[rows], found.item_rows_C[rows], dates, seeds)
    number = len(rows)
    columns = [
        block.rows.column(c.USER_ID).take(pa.array(found.user_rows_C[rows])),
        pa.array([task] * number, pa.string()),
        pa.array([list_name] * number, pa.string()),
        pa.array(ranks.astype(np.int32)),
        pa.array(scores_C[rows].astype(np.float32)),
        pa.nulls(number, pa.float32()) if probabilities is None else pa.array(probabilities.astype(np.float32)),
        _source_names({name: values[rows] for name, values in found.ranks.items()}, number),
        pa.array([ranker.label(task, list_name)] * number, pa.string()),
        pa.array(found.item_rows_C[rows].astype(np.int32)),
        pa.array(of_seeds.astype(np.int32), mask=of_seeds < 0),
        pa.array(words, pa.string()),
    ]
    return pa.RecordBatch.from_arrays(columns, names=[*_LISTED, c.ITEM_INDEX, SEED_INDEX, WORDS])


def _source_names(ranks: Mapping[str, np.ndarray], number: int) -> pa.ListArray:
    """The sources that found each row, in the order of ``ranks``; `popular` stands for every list of popular items."""
    groups: dict[str, np.ndarray] = {}
    for name, values in ranks.items():
        shown = POPULAR_SOURCE if name.startswith(OF_POPULAR) else name
        groups[shown] = groups.get(shown, np.zeros(number, bool)) | np.isfinite(values)
    names = pa.array(list(groups), pa.string())
    found = np.stack(list(groups.values()), axis=1) if groups else np.zeros((number, 0), bool)
    rows, at = np.nonzero(found)
    offsets = np.searchsorted(rows, np.arange(number + 1))
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), names.take(pa.array(at)))


def with_vectors(histories: DataFrame, vectors: DataFrame | None) -> DataFrame:
    """``histories`` with the published vectors of each user as a map by task, empty where there are none.

    ``vectors``: user_id, task and embedding, one row a user and task.
    """
    if vectors is None:
        return histories
    entries = F.map_from_entries(F.collect_list(F.struct(c.TASK, c.EMBEDDING))).alias(VECTORS)
    by_user = vectors.groupBy(c.USER_ID).agg(entries)
    nothing = F.map_from_arrays(F.array().cast("array<string>"), F.array().cast("array<array<float>>"))
    joined = histories.join(by_user, on=c.USER_ID, how="left")
    return joined.withColumn(VECTORS, F.coalesce(VECTORS, nothing))
