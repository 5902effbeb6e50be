"""What a checkpoint that is to be published has in common with the published one, on a fixed sample."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from precise_core.publication.drift import mean_cosine, neighbour_overlap, norm_change
from precise_core.publication.published import published_now
from precise_core.run.job import Job
from precise_core.training.checkpoint import Checkpoint
from precise_core.vectors.night import item_inputs
from precise_core.warehouse.arrow_lists import fixed_lists
from precise_core.warehouse.care import is_readable
from schemas import ITEM_EMBEDDINGS, USER_EMBEDDINGS, Table
from schemas import columns as c

NEIGHBOURS = 10
_OLD, _NEW = "old", "new"


def drift_facts(job: Job, task: str, checkpoint: Checkpoint) -> dict[str, float]:
    """The figures that `gates.drift` has limits for, by name; also written down as metrics of the run.

    Cosines are judged only where the new checkpoint goes on from the published one, or is the same; where nothing was
    published before there is nothing to compare with.
    """
    facts = {}
    if checkpoint.manifest.model.fusion.mode != "id" and not checkpoint.reads_states:
        facts["unknown_token_share"] = _unknown_token_share(job, checkpoint)
    published = published_now(job.warehouse).get(task)
    cosines: dict[str, float] = {}
    if published:
        facts_of_vectors, cosines = _compared(job, checkpoint, published)
        facts |= facts_of_vectors
        if published[c.MODEL_VERSION] in (checkpoint.model_version, checkpoint.manifest.previous):
            facts |= cosines
    job.metrics |= {f"drift/{task}/{name}": value for name, value in (facts | cosines).items()}
    shown = ", ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in (facts | cosines).items())
    job.say(f"{task}: {shown or 'nothing to compare with'}")
    return facts


def _compared(job: Job, checkpoint: Checkpoint, published: dict[str, Any]) -> tuple[dict[str, float], dict[str, float]]:
    facts, cosines = {}, {}
    tables = ((ITEM_EMBEDDINGS, c.ITEM_ID, "item"), (USER_EMBEDDINGS, c.USER_ID, "user"))
    for table, key, name in tables:
        old = _as_published(job, table, published, checkpoint)
        if old is None:
            job.say(
                f"{published[c.TASK]}: {name} vectors not compared, their published version of {table.name} is gone"
            )
            continue
        new = job.read(table).where(F.col(c.MODEL_VERSION) == checkpoint.model_version)
        old_SD, new_SD = _sampled(old, new, key, job.settings.gates.drift.sample)
        if not len(old_SD):
            continue
        facts[f"{name}_norm_change"] = norm_change(old_SD, new_SD)
        cosines[f"{name}_cosine"] = mean_cosine(old_SD, new_SD)
        if table is ITEM_EMBEDDINGS:
            facts["neighbour_overlap"] = neighbour_overlap(old_SD, new_SD, NEIGHBOURS)
    return facts, cosines


def _as_published(job: Job, table: Table, published: dict[str, Any], checkpoint: Checkpoint) -> DataFrame | None:
    """The vectors as they were published; None where they cannot be had any more.

    Where that version of the table was cleaned up, the vectors of another checkpoint are those that are there now; of
    the same checkpoint it is these that are to be compared, and nothing would be found.
    """
    version, model = published["table_versions"].get(table.name), published[c.MODEL_VERSION]
    is_model = F.col(c.MODEL_VERSION) == model
    if version is not None and is_readable(job.warehouse.path(table), version, f"{c.MODEL_VERSION}={model}/"):
        return job.warehouse.read(job.spark, table, version).where(is_model)
    return None if model == checkpoint.model_version else job.read(table).where(is_model)


def _sampled(old: DataFrame, new: DataFrame, key: str, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of the same keys; which keys does not depend on the night as long as they are there."""
    chosen = old.select(key, F.col(c.EMBEDDING).alias(_OLD)).orderBy(F.xxhash64(key), key).limit(size)
    both = F.broadcast(chosen).join(new.select(key, F.col(c.EMBEDDING).alias(_NEW)), on=key, how="inner")
    table = both.orderBy(key).toArrow()
    if not table.num_rows:
        return np.empty((0, 0), np.float32), np.empty((0, 0), np.float32)
    old_SD, new_SD = (fixed_lists(table[name]).astype(np.float64) for name in (_OLD, _NEW))
    return old_SD, new_SD


def _unknown_token_share(job: Job, checkpoint: Checkpoint) -> float:
    """Share of the tokens of all living items' texts that the checkpoint has no vector for."""
    rows = item_inputs(job, checkpoint).rows
    real = rows.select(F.explode(F.slice(c.TOKEN_IDS, 1, F.col(c.TOKEN_COUNT))).alias(c.TOKEN_ID))
    counted = real.groupBy(c.TOKEN_ID).agg(F.count(F.lit(1)).alias(c.COUNT)).toArrow()
    token_ids_K, counts_K = counted[c.TOKEN_ID].to_numpy(), counted[c.COUNT].to_numpy()
    if not len(counts_K):
        return 0.0
    known_K = torch.isin(torch.from_numpy(token_ids_K.astype(np.int64)), checkpoint.known_token_ids()).numpy()
    return float(counts_K[~known_K].sum() / counts_K.sum())
