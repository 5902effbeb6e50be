"""Build one FAISS index per checkpoint and publish it only if it finds what exact search finds (section VI-A).

Reads item_embeddings, items and, where it is there, user_embeddings (queries to measure with). Writes an index folder
per model_version under <warehouse>/indexes.
"""

from argparse import ArgumentParser
from collections.abc import Sequence

import numpy as np
from pyspark.sql import functions as F

from precise_core.inference.scores import one_version
from precise_core.inference.text import fixed_lists
from precise_core.retrieval.index import build_index
from precise_core.runtime.checkpoints import latest_checkpoint, trained_tasks
from precise_core.runtime.job import Job, run_job
from schemas import ITEM_EMBEDDINGS, ITEM_VOCABULARY, ITEMS, USER_EMBEDDINGS
from schemas import columns as c


def build(job: Job) -> None:
    embeddings = job.read(ITEM_EMBEDDINGS)
    living = job.read(ITEMS).where(f"NOT {c.IS_DELETED}").select(c.ITEM_ID)
    rows_in, rows_out = 0, 0
    for task in trained_tasks(job, job.arguments.task):
        checkpoint = latest_checkpoint(job, task)
        version, width = checkpoint.model_version, checkpoint.manifest.model.fusion.width
        chosen = one_version(embeddings, version, "item_embeddings").join(living, on=c.ITEM_ID, how="left_semi")
        table = chosen.select(c.ITEM_ID, c.ITEM_INDEX, c.EMBEDDING).orderBy(c.ITEM_INDEX).toArrow().combine_chunks()
        rows_in += table.num_rows
        index = build_index(
            table[c.ITEM_ID].to_pylist(),
            table[c.ITEM_INDEX].to_numpy(),
            fixed_lists(table[c.EMBEDDING].combine_chunks(), width).astype(np.float32),
            model_version=version,
            config=job.settings.index,
            seed=job.settings.seed,
            queries_QD=_queries(job, task, version, width),
        )
        index.save(job.folder / "indexes" / version, vocabulary_version=job.pin(ITEM_VOCABULARY))
        rows_out += len(index)
        job.artefacts[f"index:{task}"] = version
        job.metrics[f"index_recall/{task}"] = index.recall
        job.say(f"{task}: {index.kind} index over {len(index):,} items, recall {index.recall:.4f} against exact search")
    job.balance("item vectors", rows_in=rows_in, rows_out=rows_out)


def _queries(job: Job, task: str, version: str, width: int) -> np.ndarray | None:
    """Vectors of some users of the checkpoint, the same on every run; None where nobody is encoded yet."""
    users = job.read_optional(USER_EMBEDDINGS)
    if users is None:
        return None
    chosen = users.where((F.col(c.MODEL_VERSION) == version) & (F.col(c.TASK) == task))
    table = chosen.orderBy(F.xxhash64(c.USER_ID)).limit(job.settings.index.check_queries).select(c.EMBEDDING).toArrow()
    return fixed_lists(table[c.EMBEDDING].combine_chunks(), width) if table.num_rows else None


def add_flags(parser: ArgumentParser) -> None:
    parser.add_argument("--task", action="append", help="only this task's index; repeatable; all by default")


def main(argv: Sequence[str] | None = None) -> int:
    return run_job("build_index", __doc__, build, argv, add_flags)


if __name__ == "__main__":
    raise SystemExit(main())
