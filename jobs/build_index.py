"""Build one FAISS index per checkpoint and keep it only if it finds what exact search finds (section VI-A).

Reads item_embeddings, items, item_vocabulary and, where it is there, user_embeddings (queries to measure with).
Writes a folder under <warehouse>/indexes, named after what is in it; publish_models makes it the one that recall
searches.
"""

from precise_core.command import command, task_flag
from precise_core.index.index import build_index
from precise_core.index.night import index_folder, indexed_items, usable_index, user_queries
from precise_core.run.job import Job
from precise_core.training.night import latest_checkpoint, trained_tasks
from schemas import ITEM_VOCABULARY


@command(task_flag("index"))
def main(job: Job) -> None:
    rows_in, rows_out = 0, 0
    for task in trained_tasks(job, job.arguments.task):
        checkpoint = latest_checkpoint(job, task)
        items = indexed_items(job, checkpoint)
        index = usable_index(job, checkpoint, items.version)
        if index is None:
            index = build_index(
                items.item_ids,
                items.item_indices_N,
                items.vectors_ND,
                model_version=checkpoint.model_version,
                config=job.settings.index,
                seed=job.settings.seed,
                seed_queries_ND=items.seed_queries_ND,
                queries_QD=user_queries(job, task, checkpoint),
            )
            index.save(index_folder(job, items.version), job.pin(ITEM_VOCABULARY))
        rows_in, rows_out = rows_in + len(items.item_ids), rows_out + len(index)
        job.artefacts[f"index:{task}"] = items.version
        job.metrics[f"index_recall/{task}"] = index.recall
        job.say(f"{task}: {index.in_words}")
    job.balance("item vectors", rows_in=rows_in, rows_out=rows_out)


if __name__ == "__main__":
    raise SystemExit(main())
