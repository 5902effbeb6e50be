"""Which pairs `score_pairs` scores, with which vectors, and the log of those without."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from deltalake import DeltaTable
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from precise_core.config.folders import require_delta_path
from precise_core.errors import CheckpointError, ConfigError, MissingTableError, SchemaError
from precise_core.pair_scores.config import PairListConfig
from precise_core.pair_scores.scores import PairInputs, distinct_pairs, vectors_from_text
from precise_core.publication.night import published_checkpoint, published_vectors
from precise_core.run.job import Job
from precise_core.sources.cells import spark_path
from precise_core.text.language_model import tokenizer_id
from precise_core.training.checkpoint import Checkpoint
from schemas import IMPRESSIONS, ITEM_EMBEDDINGS, ITEMS, PAIR_SCORES, RECALL_CANDIDATES, USER_EMBEDDINGS
from schemas import columns as c

_TABLES = (RECALL_CANDIDATES, IMPRESSIONS)


def pair_sources(job: Job, further: Sequence[str]) -> list[DataFrame]:
    """The lists of pairs of the configuration, and those in the folders ``further``; one at least is needed."""
    config = job.settings.scoring
    tables = [job.read_optional(table) for table in _TABLES if table.name in config.tables]
    own = [*config.pairs, *(PairListConfig(path=path) for path in further)]
    found = [frame for frame in tables if frame is not None] + [_read_list(job, listed) for listed in own]
    if not found:
        needed = " nor ".join(config.tables) or "a table in scoring.tables"
        raise MissingTableError(f"no candidate pairs: neither {needed} is in the warehouse, and no list is named")
    return found


def gather(job: Job, task: str, sources: Sequence[DataFrame]) -> PairInputs | None:
    """The pairs of a task's published checkpoint and its vectors; None where there is no pair to score."""
    checkpoint = published_checkpoint(job, task)
    pairs = distinct_pairs(sources, checkpoint.model_version).persist()
    number = pairs.count()
    if not number:
        job.say(f"{task}: there is no candidate pair; the scores of {checkpoint.model_version} stay as they are")
        job.warehouse.create_if_missing(PAIR_SCORES)
        return None
    users = published_vectors(job, task, USER_EMBEDDINGS)
    items = published_vectors(job, task, ITEM_EMBEDDINGS).select(c.ITEM_ID, c.EMBEDDING)
    if job.settings.scoring.unknown_items == "text" and _reads_token_ids(job, task, checkpoint):
        new = vectors_from_text(job.spark, job.read(ITEMS), pairs, items, checkpoint.folder, job.settings.text)
        new_count = new.persist().count()
        job.metrics[f"items_scored_by_text/{task}"] = float(new_count)
        job.say(f"{task}: {new_count:,} items without a vector are scored by their text")
        items = items.unionByName(new).persist()
    return PairInputs(
        task, checkpoint.model_version, checkpoint.manifest.model.fusion.width, pairs, number, users, items
    )


def log_missing_vectors(job: Job, inputs: PairInputs, missing: Mapping[str, int]) -> None:
    """Log and record how many pairs have no user vector, and how many more no item vector."""
    listed = ", ".join(f"{count:,} without {name} vector" for name, count in missing.items())
    job.say(f"{inputs.task}: {inputs.number:,} pairs, {listed}")
    job.metrics |= {f"pairs_without_{name}_vector/{inputs.task}": float(count) for name, count in missing.items()}


def _reads_token_ids(job: Job, task: str, checkpoint: Checkpoint) -> bool:
    """Whether the checkpoint can make a vector of an item from its token ids alone."""
    config, fusion = job.settings.text, checkpoint.manifest.model.fusion
    if fusion.mode == "id" or fusion.reads_states:
        job.say(f"{task}: {checkpoint.model_version} reads no token ids; items without a vector are counted only")
        return False
    found = (tokenizer_id(config.language_model), config.max_tokens)
    expected = (checkpoint.manifest.tokenizer_id, checkpoint.manifest.max_token_length)
    if found != expected:
        raise CheckpointError(
            f"checkpoint {checkpoint.model_version} reads {expected[1]} tokens of {expected[0]}, the configuration "
            f"has {found[1]} of {found[0]}; items without a vector cannot be scored by text"
        )
    return True


def _read_list(job: Job, listed: PairListConfig) -> DataFrame:
    if "://" not in listed.path and not Path(listed.path).exists():  # a missing remote one fails in its reader
        raise ConfigError(f"list of pairs {listed.path}: not there; a Delta table or Parquet files are needed")
    # Whether a list has changed is not known beforehand: a run that read one is never up to date.
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
