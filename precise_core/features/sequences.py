"""User sequences: the last N events per user and task (S_u and S'_u in section III of the paper)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from precise_core.features.config import ALL_TASK, SequencesConfig, TaskConfig
from precise_core.features.sequence_pass import last_sequences
from precise_core.features.tasks import events_before, task_events
from precise_core.sources.times import instant
from schemas import USER_SEQUENCES
from schemas import columns as c


@dataclass(frozen=True, kw_only=True)
class SequenceBalance:
    """What became of the events, each counted once per task it belongs to.

    ``kept`` is counted in the sequences and ``trimmed`` in the events, so ``events`` = ``kept`` + ``trimmed`` is a
    check and not a definition.
    """

    events: int
    kept: int
    trimmed: int


def build_user_sequences(
    events: DataFrame,
    vocabulary: DataFrame,
    tasks: Mapping[str, TaskConfig],
    as_of: datetime,
    config: SequencesConfig,
) -> DataFrame:
    """``schemas.USER_SEQUENCES``: the last ``max_length`` events strictly before ``as_of``, oldest first.

    Ties in time are broken by event_id. Memory per user is bounded by ``max_length``, however many events the user has.
    """
    max_lengths = dict.fromkeys((ALL_TASK, *tasks), config.max_length)
    sequences = last_sequences(events_before(events, as_of), vocabulary, tasks, max_lengths)
    added = {c.AS_OF: instant(as_of), c.BUCKET: user_bucket(config.buckets)}
    return sequences.select(*[added.get(name, F.col(name)).alias(name) for name in USER_SEQUENCES.column_names])


def sequence_balance(
    events: DataFrame,
    sequences: DataFrame,
    tasks: Mapping[str, TaskConfig],
    as_of: datetime,
    config: SequencesConfig,
) -> SequenceBalance:
    """Events before ``as_of``, those in the built ``sequences``, and those beyond ``max_length``; counts, no sort."""
    counts = task_events(_narrow(events_before(events, as_of)), tasks).groupBy(c.USER_ID, c.TASK).count()
    trimmed = F.greatest(F.col(c.COUNT) - config.max_length, F.lit(0))
    before = counts.agg(F.sum(c.COUNT).alias("events"), F.sum(trimmed).alias("trimmed")).collect()[0]
    kept = sequences.agg(F.sum(c.LENGTH).alias("kept")).collect()[0]["kept"]
    return SequenceBalance(events=before["events"] or 0, kept=kept or 0, trimmed=before["trimmed"] or 0)


def user_bucket(buckets: int) -> Column:
    """The partition of a user, the same every night."""
    return F.pmod(F.xxhash64(c.USER_ID), F.lit(buckets)).cast("int")


def _narrow(events: DataFrame) -> DataFrame:
    return events.select(c.EVENT_ID, c.USER_ID, c.ITEM_ID, c.SCENE, c.ACTION, c.EVENT_TS)
