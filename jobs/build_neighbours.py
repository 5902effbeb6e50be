"""Count which items users had together: the neighbours of every item, by users, by baskets and by EASE.

They are counted in a fixed sample of users (`recommendations.sample_users`), the newest events of each.

Reads events, items and item_vocabulary. Writes item_neighbours.
"""

from precise_core.command import command
from precise_core.recommendations.batches import UserBlock
from precise_core.recommendations.knowledge import read_sample, similar_items
from precise_core.recommendations.night import catalog_of, gather
from precise_core.recommendations.rows import neighbour_rows
from precise_core.run.job import Job
from precise_core.warehouse.instants import micros
from precise_core.warehouse.spark_errors import worker_errors
from schemas import ITEM_NEIGHBOURS


@command()
def main(job: Job) -> None:
    log = gather(job)
    with worker_errors():
        catalog, sample = catalog_of(log), read_sample(log.histories(), log.config.sample_users)
        block = UserBlock(sample, micros(log.end), len(catalog))
        near = similar_items(job.spark, block, log.config)
    for source, matrix in near.items():
        job.say(f"{source}: {matrix.nnz:,} pairs from {sample.num_rows:,} users")
    rows = job.write(ITEM_NEIGHBOURS, neighbour_rows(job.spark, near, catalog, job.settings.as_of))
    job.balance("pairs of items", rows_in=sum(matrix.nnz for matrix in near.values()), rows_out=rows)


if __name__ == "__main__":
    raise SystemExit(main())
