"""The trainings of a night, as they are logged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from precise_core.monitoring.tracking import Training, log_training
from precise_core.run.job import Job
from precise_core.training.checkpoint import Checkpoint


def track_checkpoint(job: Job, checkpoint: Checkpoint) -> None:
    """A checkpoint of Universal or Targeted Training, with the curves that lie in its folder."""
    about = checkpoint.manifest
    origin = {"task", "stage", "seed", "as_of", "parent", "input_versions", "best_epoch"}
    parameters = about.model_dump(mode="json", include={"model", "training"} | origin)
    track_model(job, checkpoint.model_version, parameters, checkpoint.metrics_log(), about.metrics)


def track_model(
    job: Job,
    name: str,
    parameters: Mapping[str, Any],
    curves: Sequence[Mapping[str, Any]],
    figures: Mapping[str, float],
) -> None:
    """Any model; a tracking server that is out of order is warned of."""
    settings = job.settings
    tags = {"job": job.name, "run_id": job.run_id, "environment": settings.name}
    training = Training(name=name, parameters=parameters, curves=curves, figures=figures, tags=tags)
    if warning := log_training(settings.monitoring, settings.name, training):
        job.say(f"warning: {warning}")
