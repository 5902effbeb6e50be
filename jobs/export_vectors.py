"""Send the published vectors of users and items to Redis, to Milvus, or to both, and switch their readers to them.

Only what differs from what is there is sent. Readers see the old version until all of the new one is there, counted,
and a sample of it read back; a run that is killed before that has changed nothing for them, and the next one goes on.
One that is killed while it switches Milvus, alias by alias, leaves its readers some old sets until the next one.

Reads published_models, user_embeddings, items and the published indexes. Writes to the stores that `export` names.
"""

from precise_core.command import command, switch, task_flag
from precise_core.export.published import published_sets
from precise_core.export.push import push
from precise_core.export.stores import opened_stores
from precise_core.run.job import Job
from schemas import ITEMS, PUBLISHED_MODELS, USER_EMBEDDINGS


@command(switch("--whole", "send every vector, also those that are there already"), task_flag("vectors"))
def main(job: Job) -> None:
    export, named, arguments = job.settings.export, job.arguments.task, job.arguments
    rows = sent = 0
    with opened_stores(export) as stores:
        job.pin(PUBLISHED_MODELS)
        job.pin(ITEMS)
        sets = published_sets(job.root, named)
        for vectors in sets:
            if vectors.version is not None:
                job.pin_at(USER_EMBEDDINGS, vectors.version)
        for store in stores:
            chosen = [vectors for vectors in sets if store.takes(vectors)]
            pushed = push(
                store,
                chosen,
                export,
                whole=arguments.whole,
                only_these=bool(named),
                warn=lambda text: job.say(f"warning: {text}"),
            )
            for name, done in pushed.items():
                job.say(f"{store.address}: {name}: {done.rows:,} vectors are there, {done.sent:,} of them sent now")
            rows += sum(done.rows for done in pushed.values())
            sent += sum(done.sent for done in pushed.values())
    job.balance("vectors (the rest was there)", rows_in=rows, rows_out=sent, rows_rejected=rows - sent)


if __name__ == "__main__":
    raise SystemExit(main())
