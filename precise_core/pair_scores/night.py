"""Which pairs `score_pairs` scores, with which vectors, and what becomes of those without."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import reduce
from pathlib import Path
from typing import NamedTuple

from deltalake import DeltaTable
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from precise_core.config.folders import require_delta_path
from precise_core.errors import CheckpointError, ConfigError, DataError, MissingTableError, SchemaError
from precise_core.pair_scores.scores import choose_plan, score_pairs
from precise_core.publication.night import published_vectors
from precise_core.run.job import Job
from precise_core.sources.cells import spark_path
from precise_core.text.language_model import tokenizer_id
from precise_core.text.tokens import tokenize_items
from precise_core.training.checkpoint import Checkpoint
from precise_core.vectors.config import PairListConfig
from precise_core.vectors.spark import embed_items
from schemas import IMPRESSIONS, ITEM_EMBEDDINGS, ITEMS, PAIR_SCORES, RECALL_CANDIDATES, USER_EMBEDDINGS
from schemas import columns as c

_TABLES = (RECALL_CANDIDATES, IMPRESSIONS)


class PairCounts(NamedTuple):
    """What became of the pairs of one checkpoint."""

    pairs: int
    scored: int
    without_vector: int


def pair_sources(job: Job, further: Sequence[str]) -> list[DataFrame]:
    """The lists of pairs of the configuration and of the command line.

    Args:
        job: The run.
        further: Folders of lists beside those of the configuration, with the columns `user_id` and `item_id`.

    Raises:
        MissingTableError: There is not a single list.
        ConfigError: A folder of a list is not there.
        SchemaError: A list lacks a column.
    """
    config = job.settings.scoring
    tables = [job.read_optional(table) for table in _TABLES if table.name in config.tables]
    own = [*config.pairs, *(PairListConfig(path=path) for path in further)]
    found = [frame for frame in tables if frame is not None] + [_read_list(job, listed) for listed in own]
    if not found:
        wanted = " nor ".join(config.tables) or "a table in scoring.tables"
        raise MissingTableError(f"no candidate pairs: neither {wanted} is in the warehouse, and no list is named")
    return found


def score_task(job: Job, task: str, checkpoint: Checkpoint, sources: Sequence[DataFrame]) -> PairCounts:
    """Score the distinct pairs of one checkpoint and make them its slice of `pair_scores`; no pair changes nothing."""
    version, config = checkpoint.model_version, job.settings.scoring
    pairs = _distinct(sources, version).persist()
    number = pairs.count()
    if not number:
        job.say(f"{task}: there is no candidate pair; the scores of {version} stay as they are")
        job.warehouse.create_if_missing(job.spark, PAIR_SCORES)
        return PairCounts(0, 0, 0)
    users = published_vectors(job, task, USER_EMBEDDINGS)
    items = published_vectors(job, task, ITEM_EMBEDDINGS).select(c.ITEM_ID, c.EMBEDDING)
    if config.unknown_items == "text":
        items = items.unionByName(_text_vectors(job, task, checkpoint, pairs, items)).persist()
    width, parallelism = checkpoint.manifest.model.fusion.width, job.spark.sparkContext.defaultParallelism
    plan = choose_plan(config, items.count(), width, parallelism)
    job.say(f"{task}: {plan}")
    missing = _missing(pairs, users, items)
    _require_some(task, version, pairs, number, missing)
    scores = score_pairs(job.spark, pairs, users, items, plan, config.similarity)
    rows = scores.select(c.USER_ID, c.ITEM_ID, F.lit(version).alias(c.MODEL_VERSION), c.SCORE, c.AS_OF)
    scored = job.write(PAIR_SCORES, rows, replace={c.MODEL_VERSION: version})
    told = ", ".join(f"{count:,} without {name} vector" for name, count in missing.items())
    job.say(f"{task}: {number:,} pairs, {told}")
    job.metrics |= {f"pairs_without_{name}_vector/{task}": float(count) for name, count in missing.items()}
    pairs.unpersist()
    return PairCounts(number, scored, sum(missing.values()))


def _distinct(sources: Sequence[DataFrame], version: str) -> DataFrame:
    """Distinct pairs: this checkpoint's candidates, but not the fallback's, and every pair of the other lists."""
    is_scored = (F.col(c.MODEL_VERSION) == version) & (F.col(c.SOURCE) != c.POPULAR)
    own = [frame.where(is_scored) if c.SOURCE in frame.columns else frame for frame in sources]
    return reduce(DataFrame.unionByName, [frame.select(c.USER_ID, c.ITEM_ID) for frame in own]).distinct()


def _missing(pairs: DataFrame, users: DataFrame, items: DataFrame) -> dict[str, int]:
    """Pairs without a vector, by whose is missing first; counted apart from the scoring so that a lost pair shows."""
    has_user, has_item = F.lit(True).alias("has_user"), F.lit(True).alias("has_item")
    flagged = pairs.join(users.select(c.USER_ID, has_user), on=c.USER_ID, how="left")
    flagged = flagged.join(items.select(c.ITEM_ID, has_item), on=c.ITEM_ID, how="left")
    no_user, no_item = F.col("has_user").isNull(), F.col("has_item").isNull()
    counted = flagged.agg(F.count_if(no_user), F.count_if(~no_user & no_item)).collect()[0]
    return {"user": counted[0], "item": counted[1]}


def _require_some(task: str, version: str, pairs: DataFrame, number: int, missing: Mapping[str, int]) -> None:
    if sum(missing.values()) < number:
        return
    first = str([tuple(row) for row in pairs.orderBy(c.USER_ID, c.ITEM_ID).limit(3).collect()])
    raise DataError(
        f"{task}: none of {number:,} pairs has both vectors of {version} ({missing['user']:,} have no user vector, "
        f"{missing['item']:,} more no item vector), e.g. {first}; the scores of before stay; are these the ids of the "
        "tables?",
        private=first,
    )


def _text_vectors(job: Job, task: str, checkpoint: Checkpoint, pairs: DataFrame, items: DataFrame) -> DataFrame:
    """Vectors of items of `items` that have none yet, from their text and the unknown row, as a cold item has it.

    Raises:
        CheckpointError: The configured tokenizer is not the checkpoint's.
    """
    config, model = job.settings.text, checkpoint.manifest.model
    if model.fusion.mode == "id" or model.fusion.is_contextual:
        job.say(f"{task}: {checkpoint.model_version} reads no token ids; items without a vector are counted only")
        return items.limit(0)
    found = (tokenizer_id(config.language_model), config.max_tokens)
    expected = (checkpoint.manifest.tokenizer_id, checkpoint.manifest.max_token_length)
    if found != expected:
        raise CheckpointError(
            f"checkpoint {checkpoint.model_version} reads {expected[1]} tokens of {expected[0]}, the configuration "
            f"has {found[1]} of {found[0]}; items without a vector cannot be scored by text"
        )
    wanted = pairs.select(c.ITEM_ID).distinct().join(items, on=c.ITEM_ID, how="left_anti")
    new = job.read(ITEMS).where(f"NOT {c.IS_DELETED}").join(wanted, on=c.ITEM_ID, how="left_semi")
    unknown = new.select(c.ITEM_ID, F.lit(c.UNKNOWN_INDEX).alias(c.ITEM_INDEX))
    tokens = tokenize_items(new, unknown, config).where(F.col(c.TOKEN_COUNT) > 0)
    vectors = embed_items(job.spark, tokens, checkpoint.folder, datetime.now(UTC)).select(c.ITEM_ID, c.EMBEDDING)
    vectors = vectors.persist()
    number = vectors.count()
    job.metrics[f"items_scored_by_text/{task}"] = float(number)
    job.say(f"{task}: {number:,} items without a vector are scored by their text")
    return vectors


def _read_list(job: Job, listed: PairListConfig) -> DataFrame:
    if "://" not in listed.path and not Path(listed.path).exists():  # whether a remote one is there, its reader says
        raise ConfigError(f"list of pairs {listed.path}: not there; a Delta table or Parquet files are needed")
    # Whether a list has changed is not known beforehand: a run that read one is never called up to date.
    if "://" not in listed.path:
        require_delta_path("list of pairs", str(Path(listed.path).resolve()))
    job.input_fingerprints[f"pairs:{listed.path}"] = "a list"
    reader = job.spark.read
    if DeltaTable.is_deltatable(listed.path):
        version = DeltaTable(listed.path).version()
        frame = reader.format("delta").option("versionAsOf", version).load(listed.path)
    else:
        frame = reader.parquet(listed.path if "://" in listed.path else spark_path(Path(listed.path)))
    if missing := sorted({listed.user, listed.item} - set(frame.columns)):
        raise SchemaError(f"list of pairs {listed.path}: no column {missing}; it has {frame.columns}")
    ids = {c.USER_ID: listed.user, c.ITEM_ID: listed.item}
    return frame.select(*[F.col(column).cast("string").alias(name) for name, column in ids.items()])
