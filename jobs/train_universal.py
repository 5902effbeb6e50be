"""Universal Training: a causal next-item model over the sequences of all scenes (section IV-C, eq. 5).

Reads training_windows (through Petastorm), item_tokens and token_embeddings. Writes a checkpoint folder and makes it
the one in use for the task `all`. Killed and started again, it goes on at the last saved step. With
--set universal.ranks=2 it runs on two processes of the Spark cluster.
"""

from collections.abc import Sequence

from precise_core.features.config import ALL_TASK
from precise_core.runtime.checkpoints import checkpoint_folder, pinned_snapshot
from precise_core.runtime.job import Job, run_job
from precise_core.runtime.universal import train
from precise_core.training.checkpoint import publish_latest
from schemas import TRAINING_WINDOWS


def train_universal(job: Job) -> None:
    checkpoint = train(job)
    publish_latest(checkpoint_folder(job), ALL_TASK, checkpoint)
    job.describe_checkpoint(ALL_TASK, checkpoint)
    # The feed counts every epoch against the snapshot and fails on a difference.
    rows = pinned_snapshot(job, TRAINING_WINDOWS).row_count({"task": ALL_TASK, "split": "train"})
    job.balance("windows per epoch", rows_in=rows, rows_out=rows)


def main(argv: Sequence[str] | None = None) -> int:
    return run_job("train_universal", __doc__, train_universal, argv)


if __name__ == "__main__":
    raise SystemExit(main())
