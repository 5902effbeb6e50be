"""Targeted Training (section IV-D): from the universal checkpoint to one task."""

from __future__ import annotations

import torch

from precise_core.errors import NothingNewError, NothingToLearnError
from precise_core.feed.windows import WindowFeed, count_windows
from precise_core.training.checkpoint import Checkpoint
from precise_core.training.config import TargetedConfig
from precise_core.training.continuation import newest_before, require_same_text, seconds_of
from precise_core.training.device import training_device
from precise_core.training.loop import TrainingResult
from precise_core.training.setup import StageRun, TrainingInputs, item_frequencies
from precise_core.training.spaces import Origin
from precise_core.training.targeted_loss import targeted_loss
from precise_core.training.warm_up import Start, night_start
from schemas import columns as c


def train_targeted(
    inputs: TrainingInputs,
    config: TargetedConfig,
    universal: Checkpoint,
    previous: Checkpoint | None = None,
    earlier: Checkpoint | None = None,
) -> Checkpoint:
    """Train on the windows of the task from where the night starts; write the epoch with the best validation NDCG@50.

    On a warm-up night that is the universal checkpoint, with the head of ``previous``, and all windows are learnt.
    Epoch 0 is the warm start itself, without the mask: a task too sparse to improve on it keeps it, and the manifest
    notes it. So does a task without validation windows, because no epoch could be chosen.

    On any other night ``previous`` is continued with the windows that hold events since its own ``as_of``.

    The optimizer starts anew every night: no moments are carried over, of reloaded parameters or of others.

    Args:
        config: How to train; the model's sizes are those of ``universal``.
        universal: The universal checkpoint in use; the catalog may have grown since.
        previous: The task's checkpoint in use, if any. Where it is of ``as_of`` itself or later, the night is run again
            and starts where it started the first time.
        earlier: The task's checkpoint of an earlier night, in whose vector space the new one is to stay.

    Raises:
        NothingToLearnError: The task has no windows, no two instants in any, or no validation windows for a training
            from scratch.
        NothingNewError: ``previous`` would be continued but nothing new was learnt: it should stay in use.
        TrainingError: ``config.device`` is `cuda` and there is no GPU.
    """
    device = training_device("targeted", config.device)
    task, catalog = inputs.task, inputs.catalog
    require_same_text(universal, catalog, "run jobs/train_universal.py first")
    start = night_start(config, universal, newest_before(previous, inputs.as_of), catalog, inputs.as_of, inputs.seed)
    _require_news(start, inputs, config)
    feed = _feed(start, inputs, config)
    has_validation = inputs.windows.row_count({c.TASK: task, c.SPLIT: c.VALIDATION}) > 0
    if not has_validation and not config.warm_start:
        raise NothingToLearnError(f"task {task!r} has no validation windows: training from scratch could not be judged")
    if not has_validation and start.since is not None:
        raise NothingNewError(f"task {task!r} has no validation windows; {start.parent.model_version} stays in use")
    model = start.model
    task_frequencies_V = item_frequencies(inputs, catalog.num_rows, start.since)
    frequencies_V = _known_frequencies(start, task_frequencies_V)
    model.fusion.set_trained_items(frequencies_V)
    described = inputs.described(config) | {
        "language_model": universal.manifest.language_model,
        "parent": start.parent.model_version,
        "copied": start.copied,
        "new": start.new,
        "kept": start.kept,
        "previous": start.previous.model_version if start.previous else None,
        "universal": start.universal,
        "warm_up_as_of": start.warm_up_as_of,
    }
    run = StageRun(inputs, config, model.to(device), feed, described)
    result = TrainingResult(best_epoch=0, metrics={}, log=[])
    if has_validation:
        loss = targeted_loss(model, catalog, config, task_frequencies_V, frequencies_V > 0)
        result = run.train(loss, inputs.window_feed(c.VALIDATION, config.batch_size))
    if start.since is not None and result.best_epoch == 0:
        run.resume.clear()
        raise NothingNewError(f"task {task!r}: validation never improved; {start.parent.model_version} stays in use")
    notes = (*start.notes, *result.notes, *_notes(result, has_validation))
    origin = _origin(start, task, earlier)
    checkpoint = run.write(result, frequencies_V, origin, notes, is_universal_trained_V=start.is_universal_trained_V)
    run.resume.clear()
    return checkpoint


def _require_news(start: Start, inputs: TrainingInputs, config: TargetedConfig) -> None:
    """A warm-up from the universal checkpoint of the last one, without a new event, would only repeat it."""
    previous = start.previous
    if previous is None or previous.manifest.as_of is None or start.since is not None:
        return
    is_repetition = previous.manifest.universal == start.universal
    is_repetition &= previous.manifest.training == config.model_dump(mode="json")
    as_of = previous.manifest.as_of
    if is_repetition and not count_windows(inputs.windows, inputs.task, seconds_of(as_of)):
        raise NothingNewError(
            f"task {inputs.task!r} has no event since {as_of:%Y-%m-%d %H:%M} and no newer universal checkpoint; "
            f"{previous.model_version} stays in use"
        )


def _origin(start: Start, task: str, earlier: Checkpoint | None) -> Origin:
    """A targeted model lies in a space of its task: its tables have moved from the universal ones."""
    if start.since is None and start.universal is None:  # from the untrained model
        return Origin(earlier=earlier)
    basis = start.parent.manifest.basis_version
    return Origin(earlier=start.parent if start.since is not None else earlier, basis=basis, opens=f"{task}/{basis}")


def _feed(start: Start, inputs: TrainingInputs, config: TargetedConfig) -> WindowFeed:
    """The windows to learn from; on a night that continues, having none is no error."""
    try:
        feed = inputs.window_feed(c.TRAIN, config.batch_size, start.since)
        _require_examples(feed)
    except NothingToLearnError as error:
        if start.since is None:
            raise
        raise NothingNewError(f"{error}; {start.parent.model_version} stays in use") from error
    return feed


def _require_examples(feed: WindowFeed) -> None:
    for batch in feed.epoch(0):
        changes_BL = batch.event_ts_BL[:, 1:] != batch.event_ts_BL[:, :-1]
        if (changes_BL & batch.valid_mask_BL[:, :-1]).any():
            return
    raise NothingToLearnError(f"{feed.label}: no window spans two instants, so there is nothing to predict")


def _known_frequencies(start: Start, task_frequencies_V: torch.Tensor) -> torch.Tensor:
    """Training events of each id row: the start's or, where more, those of the task's windows learnt tonight.

    A universal checkpoint's events include the task's.
    """
    frequencies_V = start.frequencies_V.clone()
    shared = min(len(frequencies_V), len(task_frequencies_V))
    frequencies_V[:shared] = torch.maximum(frequencies_V[:shared], task_frequencies_V[:shared])
    return frequencies_V


def _notes(result: TrainingResult, has_validation: bool) -> tuple[str, ...]:
    if not has_validation:
        return ("no validation windows: the weights are those it started from",)
    if result.best_epoch == 0:
        return ("validation never improved: the weights are those it started from",)
    return ()
