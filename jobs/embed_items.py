"""Encode every item with the current checkpoints (Fig. 5: hourly item prediction).

Reads items, item_tokens, item_vocabulary, text_states where a checkpoint is contextual, and checkpoints. Writes
item_embeddings, one slice per model_version.
"""

from argparse import ArgumentParser
from collections.abc import Sequence
from datetime import UTC, datetime

from precise_core.inference.spark import embed_items
from precise_core.runtime.checkpoints import latest_checkpoint, require_vocabulary, save_item_catalog, trained_tasks
from precise_core.runtime.job import Job, run_job
from schemas import ITEM_EMBEDDINGS, ITEM_TOKENS, ITEMS
from schemas import columns as c
from validation.gate import gate


def embed(job: Job) -> None:
    tokens = job.read(ITEM_TOKENS)
    living = job.read(ITEMS).where(f"NOT {c.IS_DELETED}").select(c.ITEM_ID)
    tokens = tokens.join(living, on=c.ITEM_ID, how="left_semi")
    tasks = trained_tasks(job, job.arguments.task)
    items, written = tokens.count(), 0
    for task in tasks:
        checkpoint = latest_checkpoint(job, task)
        require_vocabulary(job, checkpoint)
        catalog_file = save_item_catalog(job, checkpoint) if checkpoint.reads_states else None
        vectors = embed_items(job.spark, tokens, checkpoint.folder, datetime.now(UTC), catalog_file).persist()
        width = checkpoint.manifest.model.fusion.width
        with job.watching(f"{task}: encoding {items:,} items"):
            outcome = gate(ITEM_EMBEDDINGS, vectors, run_id=job.run_id, part=task, width=width)
        job.check(outcome)
        written += job.write(ITEM_EMBEDDINGS, vectors, replace={c.MODEL_VERSION: checkpoint.model_version})
        vectors.unpersist()
    job.balance("items over all checkpoints", rows_in=items * len(tasks), rows_out=written)


def add_flags(parser: ArgumentParser) -> None:
    parser.add_argument("--task", action="append", help="only this task's checkpoint; repeatable; all by default")


def main(argv: Sequence[str] | None = None) -> int:
    return run_job("embed_items", __doc__, embed, argv, add_flags)


if __name__ == "__main__":
    raise SystemExit(main())
