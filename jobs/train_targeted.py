"""Targeted Training: from the universal checkpoint to one model per task (section IV-D, eq. 6, Fig. 3).

On a warm-up night (targeted.warm_up_every_days, section IV-E1) a task starts from the universal checkpoint and keeps
its head; on other nights its own checkpoint goes on with new events.

Reads training_windows (through Petastorm), item_vocabulary, item_tokens, text_states where the checkpoint is
contextual, and the universal checkpoint. Writes a folder per task under <warehouse>/checkpoints and makes it the one in
use for that task.
"""

from precise_core.command import command, flag
from precise_core.monitoring.night import track_checkpoint
from precise_core.run.job import Job
from precise_core.training.checkpoint import put_in_use, take_out_of_use
from precise_core.training.night import targeted_night


@command(flag("--task", "train only this task; repeatable; all by default", action="append"))
def main(job: Job) -> None:
    rows = skipped = 0
    for outcome in targeted_night(job, job.arguments.task):
        task, checkpoint = outcome.task, outcome.checkpoint
        job.require_held()
        if checkpoint is None:
            # A checkpoint of an earlier night must not be served as tonight's.
            take_out_of_use(job.checkpoints, task)
            job.artefacts[f"checkpoint:{task}"] = ""
            if job.arguments.task and outcome.error:
                raise outcome.error
            skipped += 1
        elif outcome.is_new:
            put_in_use(job.checkpoints, task, checkpoint)
            track_checkpoint(job, checkpoint)
        for line in outcome.words:
            job.say(line)
        if checkpoint is not None:
            job.describe_checkpoint(task, checkpoint)
            rows += 1
    job.balance("tasks", rows_in=rows + skipped, rows_out=rows, rows_rejected=skipped)


if __name__ == "__main__":
    raise SystemExit(main())
