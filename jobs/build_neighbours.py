"""Count which items users had together, and which new ones read alike: the neighbours of every item.

What users had together is counted in a fixed sample of them (`recommendations.pair_users`), the newest events of
each: by users, by baskets and by EASE. Items too new for that are found by their text.

Reads events, items, item_vocabulary and item_tokens. Writes item_neighbours.
"""

from precise_core.command import command
from precise_core.recommendations.knowledge import similar_items
from precise_core.recommendations.night import catalog_of, gather_with_text
from precise_core.recommendations.rows import neighbour_rows
from precise_core.run.job import Job
from precise_core.warehouse.instants import micros
from precise_core.warehouse.spark_errors import worker_errors
from schemas import ITEM_NEIGHBOURS


@command()
def main(job: Job) -> None:
    log = gather_with_text(job)
    with worker_errors():
        catalog, histories = catalog_of(log), log.histories().persist()
        near = similar_items(job.spark, histories, log, catalog, micros(log.end), job.say)
    histories.unpersist()
    rows = job.write(ITEM_NEIGHBOURS, neighbour_rows(job.spark, near, catalog, job.settings.as_of))
    job.balance("pairs of items", rows_in=sum(matrix.nnz for matrix in near.values()), rows_out=rows)


if __name__ == "__main__":
    raise SystemExit(main())
