"""Which vectors the index of a checkpoint has to hold, and the index with them, if it was built already.

An index is named after its content: the checkpoint, and a hash of the items, their vectors, the vectors to search with
for what comes after them, and the configuration. One
that is in use is never overwritten, and one that fits is found by its name alone.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from pyspark.sql import functions as F

from precise_core.artefacts import INDEXES
from precise_core.errors import CheckpointError, DataError
from precise_core.index.index import VectorIndex
from precise_core.run.job import Job
from precise_core.store import Place, below, is_there
from precise_core.training.checkpoint import Checkpoint
from precise_core.vectors.spark import one_version
from precise_core.warehouse.arrow_lists import fixed_lists
from precise_core.warehouse.tables import with_new_columns
from schemas import ITEM_EMBEDDINGS, ITEMS, USER_EMBEDDINGS
from schemas import columns as c


@dataclass(frozen=True)
class IndexedItems:
    """The N living items of a checkpoint in the order of the vocabulary; ``version`` names the index of these."""

    version: str
    item_ids: list[str]
    item_indices_N: np.ndarray
    vectors_ND: np.ndarray
    seed_queries_ND: np.ndarray


def index_folder(job: Job, index_version: str) -> Place:
    return below(job.root, INDEXES, index_version)


def indexed_items(job: Job, checkpoint: Checkpoint) -> IndexedItems:
    """What the checkpoint's index has to hold, and the name of that index."""
    rows = with_new_columns(job.read(ITEM_EMBEDDINGS), ITEM_EMBEDDINGS)
    vectors = one_version(rows, checkpoint.model_version, ITEM_EMBEDDINGS)
    living = job.read(ITEMS).where(~F.col(c.IS_DELETED)).select(c.ITEM_ID)
    chosen = vectors.join(living, on=c.ITEM_ID, how="left_semi")
    chosen = chosen.select(c.ITEM_ID, c.ITEM_INDEX, c.EMBEDDING, c.QUERY_EMBEDDING)
    table = chosen.orderBy(c.ITEM_INDEX).toArrow().combine_chunks()
    if lacking := table[c.QUERY_EMBEDDING].null_count:
        raise DataError(
            f"item_embeddings: {lacking:,} of the {table.num_rows:,} vectors of {checkpoint.model_version} have no "
            f"{c.QUERY_EMBEDDING} yet; run jobs/embed_items.py first"
        )
    item_ids, item_indices_N = table[c.ITEM_ID].to_pylist(), table[c.ITEM_INDEX].to_numpy()
    width = checkpoint.manifest.model.fusion.width
    vectors_ND, seed_queries_ND = (_vectors(table[name], width) for name in (c.EMBEDDING, c.QUERY_EMBEDDING))
    described = [job.settings.index.model_dump(mode="json"), job.settings.seed, item_ids]
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
    for array in (item_indices_N, vectors_ND, seed_queries_ND):
        digest.update(array.tobytes())
    version = f"{checkpoint.model_version}-{digest.hexdigest()[:12]}"
    return IndexedItems(version, item_ids, item_indices_N, vectors_ND, seed_queries_ND)


def user_queries(job: Job, task: str, checkpoint: Checkpoint) -> np.ndarray | None:
    """Vectors of some users of the checkpoint, the same on every run; None where nobody is encoded yet."""
    users = job.read_optional(USER_EMBEDDINGS)
    if users is None:
        return None
    chosen = users.where((F.col(c.MODEL_VERSION) == checkpoint.model_version) & (F.col(c.TASK) == task))
    table = chosen.orderBy(F.xxhash64(c.USER_ID)).limit(job.settings.index.check_queries).select(c.EMBEDDING).toArrow()
    return _vectors(table[c.EMBEDDING], checkpoint.manifest.model.fusion.width) if table.num_rows else None


def usable_index(job: Job, checkpoint: Checkpoint, index_version: str) -> VectorIndex | None:
    """The index of that name; None where it was not built yet or is damaged."""
    try:
        return VectorIndex.open(index_folder(job, index_version), checkpoint.model_version)
    except CheckpointError:
        return None


def require_index(job: Job, task: str, checkpoint: Checkpoint) -> str:
    """The name of the index that holds exactly the vectors that would be published; DataError where there is none."""
    items = indexed_items(job, checkpoint)
    folder = index_folder(job, items.version)
    if not is_there(folder):
        raise DataError(
            f"{task}: no index of {checkpoint.model_version} holds the {len(items.item_ids):,} vectors of "
            f"item_embeddings version {job.pin(ITEM_EMBEDDINGS)} (indexes/{items.version}); nothing was published; "
            "run jobs/build_index.py first"
        )
    VectorIndex.open(folder, checkpoint.model_version)
    return items.version


def _vectors(column: pa.ChunkedArray, width: int) -> np.ndarray:
    return fixed_lists(column, width).astype(np.float32)
