"""Encode users of every task with the newest checkpoints (Fig. 5: daily user prediction).

Only users whose sequence has changed, or that have no vector of the checkpoint yet, are encoded; a new checkpoint
encodes all, and one that reads times (`hstu`) does so every night.

Reads user_sequences, item_tokens, item_vocabulary, user_embeddings, text_states where a checkpoint is contextual,
token_embeddings (of which language model they are), and checkpoints. Writes user_embeddings, one slice per
model_version, and <warehouse>/catalogs, the item tokens as one file for the executors.
"""

from precise_core.command import command, switch, task_flag
from precise_core.run.job import Job
from precise_core.training.night import latest_checkpoint, require_tokens, save_item_catalog, trained_tasks
from precise_core.vectors.night import end_update, sequences_as_of, user_inputs, write_vectors
from precise_core.vectors.spark import embed_users
from precise_core.vectors.update import Update
from precise_core.warehouse.spark_errors import worker_errors
from schemas import USER_EMBEDDINGS
from validation.gate import gate


@command(task_flag("users"), switch("--full", "encode every user again, whatever is stored"))
def main(job: Job) -> None:
    as_of = sequences_as_of(job)
    checkpoints = {task: latest_checkpoint(job, task) for task in trained_tasks(job, job.arguments.task)}
    for checkpoint in checkpoints.values():
        require_tokens(job, checkpoint)
    catalog_file = save_item_catalog(job, *checkpoints.values())
    rows_in, rows_out, encoded = 0, 0, 0
    for task, checkpoint in checkpoints.items():
        inputs, length = user_inputs(job, task, checkpoint), checkpoint.manifest.model.encoder.max_length
        update = Update.of(inputs, full=job.arguments.full)
        job.say(f"{task}: {update.in_words}")
        for part, rows in update.parts(task, job.settings.encoding.part_mib):
            with worker_errors():
                vectors = embed_users(job.spark, rows, checkpoint.folder, catalog_file, length, as_of).persist()
                with job.watching(f"{part}: encoding"):
                    outcome = gate(
                        USER_EMBEDDINGS, vectors, run_id=job.run_id, part=part, width=inputs.width, tasks=[task]
                    )
                job.check(outcome)
                write_vectors(job, update, vectors)
        rows_in, rows_out = rows_in + update.needed, rows_out + end_update(job, update)
        encoded += update.encoded
    job.metrics["encoded"] = float(encoded)
    job.balance("users over all tasks", rows_in=rows_in, rows_out=rows_out)


if __name__ == "__main__":
    raise SystemExit(main())
