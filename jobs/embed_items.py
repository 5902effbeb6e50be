"""Encode items with the newest checkpoints (Fig. 5: hourly item prediction).

Only items that are new, whose text has changed, or that have no vector of the checkpoint yet are encoded; a new
checkpoint encodes all.

Reads items, item_tokens, item_vocabulary, item_embeddings, text_states where a checkpoint is contextual,
token_embeddings (of which language model they are), and checkpoints. Writes item_embeddings, one slice per
model_version.
"""

from datetime import UTC, datetime

from precise_core.command import command, switch, task_flag
from precise_core.run.job import Job
from precise_core.training.night import (
    latest_checkpoint,
    require_tokens,
    require_vocabulary,
    save_item_catalog,
    trained_tasks,
)
from precise_core.vectors.night import end_update, item_inputs, items_without_text, write_vectors
from precise_core.vectors.spark import embed_items
from precise_core.vectors.update import Update
from precise_core.warehouse.spark_errors import worker_errors
from schemas import ITEM_EMBEDDINGS
from validation.gate import gate


@command(task_flag("checkpoint"), switch("--full", "encode every item again, whatever is stored"))
def main(job: Job) -> None:
    rows_in, rows_out, encoded, left_out = 0, 0, 0, 0
    for task in trained_tasks(job, job.arguments.task):
        checkpoint = latest_checkpoint(job, task)
        require_vocabulary(job, checkpoint)
        require_tokens(job, checkpoint)
        states = save_item_catalog(job, checkpoint) if checkpoint.reads_states else None
        inputs, now = item_inputs(job, checkpoint), datetime.now(UTC)
        update = Update.of(inputs, full=job.arguments.full)
        job.say(f"{task}: {update.in_words}")
        for part, rows in update.parts(task, job.settings.encoding.part_mib):
            with worker_errors():
                vectors = embed_items(job.spark, rows, checkpoint.folder, now, states).persist()
                with job.watching(f"{part}: encoding"):
                    outcome = gate(ITEM_EMBEDDINGS, vectors, run_id=job.run_id, part=part, width=inputs.width)
                job.check(outcome)
                write_vectors(job, update, vectors)
        rows_out, encoded = rows_out + end_update(job, update), encoded + update.encoded
        if textless := items_without_text(job, checkpoint):
            job.say(f"{task}: {textless:,} items have no text, and this model reads nothing else: they get no vector")
        rows_in, left_out = rows_in + update.needed + textless, left_out + textless
    job.metrics["encoded"] = float(encoded)
    job.balance("items over all checkpoints", rows_in=rows_in, rows_out=rows_out, rows_rejected=left_out)


if __name__ == "__main__":
    raise SystemExit(main())
