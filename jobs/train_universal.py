"""Universal Training: a causal next-item model over the sequences of all scenes (section IV-C, eq. 5).

Killed and started again, it goes on at the last saved step. With universal.ranks above 1 it runs on as many processes;
with universal.start=continue it goes on from the checkpoint of an earlier night and learns the windows with newer
events.

Reads training_windows (through Petastorm), item_vocabulary, item_tokens, and token_embeddings or text_states. Writes a
folder under <warehouse>/checkpoints and makes it the one in use for the task `all`.
"""

from precise_core.command import command
from precise_core.config.tasks import ALL_TASK
from precise_core.errors import NothingNewError
from precise_core.monitoring.night import track_checkpoint
from precise_core.run.job import Job
from precise_core.training.checkpoint import UNTRAINED, latest, put_in_use
from precise_core.training.night import universal_night, windows_offered


@command()
def main(job: Job) -> None:
    try:
        checkpoint, parent = universal_night(job)
    except NothingNewError as error:
        job.say(str(error))
        job.describe_checkpoint(ALL_TASK, latest(job.checkpoints, ALL_TASK))
        rows, _ = windows_offered(job, None)
        job.balance("windows per epoch", rows_in=rows, rows_out=0, rows_rejected=rows)
        return
    job.require_held()
    put_in_use(job.checkpoints, ALL_TASK, checkpoint)
    for note in checkpoint.manifest.notes:
        job.say(f"{ALL_TASK}: {note}")
    job.describe_checkpoint(ALL_TASK, checkpoint)
    track_checkpoint(job, checkpoint)
    if parent is None:  # from scratch: the untrained model was put in use beside it
        job.artefacts[f"checkpoint:{UNTRAINED}"] = str(checkpoint.manifest.parent)
    # The feed counts every epoch against the snapshot and fails on a difference.
    rows, offered = windows_offered(job, parent)
    job.balance("windows per epoch", rows_in=rows, rows_out=offered, rows_rejected=rows - offered)


if __name__ == "__main__":
    raise SystemExit(main())
