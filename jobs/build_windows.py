"""Cut sequences into fixed-length training windows and set the validation users aside.

Reads events and item_vocabulary. Writes training_windows, which Petastorm reads.
"""

from pyspark.sql import functions as F

from precise_core.command import command
from precise_core.run.job import Job
from precise_core.sequences.night import prepare_windows
from schemas import ITEM_VOCABULARY, TRAINING_WINDOWS
from schemas import columns as c


@command()
def main(job: Job) -> None:
    rows = job.write(TRAINING_WINDOWS, prepare_windows(job), note={"vocabulary_version": job.pin(ITEM_VOCABULARY)})
    written = job.read_written(TRAINING_WINDOWS)
    counts = written.groupBy(c.TASK, c.SPLIT).agg(F.count("*").alias("windows"), F.sum(c.LENGTH).alias("events"))
    for row in counts.orderBy(c.TASK, c.SPLIT).collect():
        job.say(f"{row[c.TASK]}/{row[c.SPLIT]}: {row['windows']:,} windows, {row['events']:,} events")
        job.metrics[f"windows/{row[c.TASK]}/{row[c.SPLIT]}"] = row["windows"]
    job.balance("windows", rows_in=rows, rows_out=int(sum(job.metrics.values())))


if __name__ == "__main__":
    raise SystemExit(main())
