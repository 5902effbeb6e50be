"""Targeted Training (section IV-D): from the universal checkpoint to one task."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from precise_core.errors import NothingNewError, NothingToLearnError
from precise_core.feed.config import DEFAULT_FEED, FeedConfig
from precise_core.feed.windows import SequenceBatch, WindowFeed, count_windows
from precise_core.models.catalog import ItemCatalog
from precise_core.models.precise import Precise, fuse_distinct
from precise_core.objectives.losses import bpr_item, bpr_user, candidate_softmax
from precise_core.objectives.negatives import Candidates, CandidateSampler
from precise_core.objectives.targets import CutExamples, draw_cuts
from precise_core.training.checkpoint import Checkpoint
from precise_core.training.config import TargetedConfig
from precise_core.training.continuation import newest_before, require_same_text, seconds_of
from precise_core.training.loop import BatchLoss, LossFunction, Training, TrainingResult, train
from precise_core.training.setup import item_frequencies, log_folder, resume_store, window_feed, write_on_first_rank
from precise_core.training.universal_loss import balance_penalty
from precise_core.training.validation import validate
from precise_core.training.warm_up import Start, night_start
from precise_core.training.watching import NullProgress, Progress
from precise_core.warehouse.snapshot import DeltaSnapshot
from schemas import columns as c


def train_targeted(
    *,
    config: TargetedConfig,
    universal: Checkpoint,
    windows: DeltaSnapshot,
    catalog: ItemCatalog,
    task: str,
    out: Path,
    seed: int,
    parent_versions: Mapping[str, int],
    as_of: datetime | None = None,
    previous: Checkpoint | None = None,
    progress: Progress | None = None,
    feed_config: FeedConfig = DEFAULT_FEED,
) -> Checkpoint:
    """Train on the windows of ``task`` from where the night starts; write the epoch with the best validation NDCG@50.

    On a warm-up night (``warm_up``) that is the universal checkpoint, with the head of ``previous``, and all windows
    are learnt. Epoch 0 is the warm start itself, without the mask: a task too sparse to improve on it keeps it, and the
    manifest says so. A task without validation windows keeps it too, because nothing could tell better from worse.

    On any other night ``previous`` goes on with the windows that hold events since its own ``as_of``.

    The optimizer starts anew every night: no moments are carried over, of reloaded parameters or of others.

    Args:
        config: How to train; the model's sizes are those of ``universal``.
        universal: The universal checkpoint in use.
        windows: A pinned snapshot of ``training_windows``.
        catalog: Tokens of every vocabulary row; it may have grown since ``universal``.
        task: Partition of the windows.
        out: Folder of the checkpoints.
        seed: Decides new weights, order, dropout and draws.
        parent_versions: Delta version of every input table, for the manifest.
        as_of: The instant whose earlier events the windows hold; None = unknown, and every night is the first.
        previous: The task's checkpoint in use, if any. Where it is of ``as_of`` itself or later, the night is run again
            and starts from the one before.
        progress: Told of every step.
        feed_config: How the windows are read.

    Raises:
        NothingToLearnError: The task has no windows or no two instants in any.
        NothingNewError: ``previous`` would go on but nothing new was learnt: it should stay in use.
        TrainingError: A loss is not finite.
        CheckpointError: The catalog was tokenized by another tokenizer than the checkpoint's or lacks the hidden states
            it reads, or ``previous`` would go on but has other sizes than ``universal``.
    """
    require_same_text(universal, catalog, "run jobs/train_universal.py first")
    previous = newest_before(previous, as_of)
    start = night_start(config, universal, previous, catalog, as_of, seed)
    _require_news(start, windows, task, config)
    feed = _feed(start, windows, task, config, seed, feed_config)
    has_validation = windows.row_count({c.TASK: task, c.SPLIT: c.VALIDATION}) > 0
    if not has_validation and not config.warm_start:
        raise NothingToLearnError(f"task {task!r} has no validation windows: training from scratch could not be judged")
    if not has_validation and start.since is not None:
        raise NothingNewError(f"task {task!r} has no validation windows; {start.parent.model_version} stays in use")
    model = start.model
    task_frequencies_V = item_frequencies(windows, task, catalog.num_rows, feed_config, start.since)
    frequencies_V = _known_frequencies(start, task_frequencies_V)
    model.fusion.set_trained_items(frequencies_V)
    described: dict[str, Any] = {
        "task": task,
        "tokenizer_id": catalog.tokenizer_id,
        "language_model": universal.manifest.language_model,
        "input_versions": dict(parent_versions),
        "parent": start.parent.model_version,
        "copied": start.copied,
        "new": start.new,
        "kept": start.kept,
        "as_of": as_of,
        "previous": start.previous.model_version if start.previous else None,
        "universal": start.universal,
        "warm_up_as_of": start.warm_up_as_of,
        "space": _space(start, task),
        "seed": seed,
        "training": config.model_dump(mode="json"),
    }
    resume = resume_store(Path(out), task, described, model, feed)
    if has_validation:
        validation = window_feed(windows, task, c.VALIDATION, config.batch_size, seed, feed_config)
        result = train(
            Training(
                description=f"targeted {task}",
                model=model,
                loss=targeted_loss(model, catalog, config, task_frequencies_V, frequencies_V > 0),
                feed=feed,
                validate=lambda: validate(model, catalog, validation, config.target_filter),
                config=config,
                resume=resume,
                seed=seed,
                progress=progress or NullProgress(),
                logs=log_folder(Path(out), task, config),
            )
        )
    else:
        result = TrainingResult(best_epoch=0, metrics={}, log=[])
    if start.since is not None and result.best_epoch == 0:
        resume.clear()
        raise NothingNewError(f"task {task!r}: validation never improved; {start.parent.model_version} stays in use")
    checkpoint = write_on_first_rank(
        Path(out),
        model,
        frequencies_V,
        is_universal_trained_V=start.is_universal_trained_V,
        best_epoch=result.best_epoch,
        metrics=result.metrics,
        log=result.log,
        notes=(*start.notes, *_notes(result, has_validation)),
        **described,
    )
    resume.clear()
    return checkpoint


def targeted_loss(
    model: Precise,
    catalog: ItemCatalog,
    config: TargetedConfig,
    task_frequencies_V: torch.Tensor,
    is_trained_V: torch.Tensor,
) -> LossFunction:
    """The configured loss over (history, next item) examples cut from a batch of windows."""
    sampler = CandidateSampler(config.negatives, task_frequencies_V, is_trained_V)

    def loss(batch: SequenceBatch, generator: torch.Generator) -> BatchLoss | None:
        examples = draw_cuts(
            batch.item_indices_BL,
            batch.event_ts_BL,
            batch.valid_mask_BL,
            config.cuts_per_window,
            generator,
            config.horizon_seconds,
            config.target_filter == "new",
        )
        if not len(examples.targets_E):
            return None
        candidates = sampler.draw(examples.targets_E, generator)
        e_ELD, e_CD = fuse_distinct(model, catalog, examples.item_indices_EL, candidates.item_indices_C)
        logits_EC = model.logits(model.user_embeddings(e_ELD, examples.valid_mask_EL), e_CD)
        columns_E = candidates.columns(examples.targets_E)
        parts = _parts(config, logits_EC, columns_E, candidates, examples)
        return BatchLoss(torch.stack(parts).sum() + balance_penalty(model), len(columns_E)) if parts else None

    return loss


def _parts(
    config: TargetedConfig,
    logits_EC: torch.Tensor,
    columns_E: torch.Tensor,
    candidates: Candidates,
    examples: CutExamples,
) -> list[torch.Tensor]:
    """The terms of the loss; one without any negative is left out."""
    hidden = candidates.hits(examples.right.whole_windows() if config.negatives.hide_own_items else examples.right)
    if config.loss == "softmax":
        mask_E1 = torch.ones(len(columns_E), 1, dtype=torch.bool)
        return [candidate_softmax(logits_EC, candidates, examples.targets_E[:, None], mask_E1, hidden)]
    terms: list[torch.Tensor | None] = []
    if config.loss in ("bpr_user", "both"):
        scores_EE = logits_EC[:, columns_E].T
        terms.append(bpr_user(scores_EE, users_without_item(examples)))
    if config.loss in ("bpr_item", "both"):
        scores_EC = candidates.corrected(logits_EC)
        allowed_EC = torch.ones_like(scores_EC, dtype=torch.bool)
        allowed_EC[hidden] = False
        if candidates.is_negative_C is not None:
            allowed_EC = allowed_EC & candidates.is_negative_C
        terms.append(bpr_item(scores_EC.gather(1, columns_E[:, None])[:, 0], scores_EC, allowed_EC))
    return [term for term in terms if term is not None]


def users_without_item(examples: CutExamples) -> torch.Tensor:
    """E x E: True = the column's whole window, the part after its cut included, does not hold the row's target.

    Examples of one window are thereby never negatives of each other.
    """
    has_EB = (examples.targets_E[:, None, None] == examples.right.item_indices_BL).any(dim=2)
    return ~has_EB[:, examples.rows_E]


def _require_news(start: Start, windows: DeltaSnapshot, task: str, config: TargetedConfig) -> None:
    """A warm-up from the universal checkpoint of the last one, without a new event, would only repeat it."""
    previous = start.previous
    if previous is None or previous.manifest.as_of is None or start.since is not None:
        return
    is_repetition = previous.manifest.universal == start.universal
    is_repetition &= previous.manifest.training == config.model_dump(mode="json")
    as_of = previous.manifest.as_of
    if is_repetition and not count_windows(windows, task, seconds_of(as_of)):
        raise NothingNewError(
            f"task {task!r} has no event since {as_of:%Y-%m-%d %H:%M} and no newer universal checkpoint; "
            f"{previous.model_version} stays in use"
        )


def _space(start: Start, task: str) -> str | None:
    """The vector space tonight's vectors lie in; None where the checkpoint opens its own."""
    if start.since is not None:
        return start.parent.manifest.vector_space
    return f"{task}/{start.parent.manifest.vector_space}" if start.universal else None


def _feed(
    start: Start, windows: DeltaSnapshot, task: str, config: TargetedConfig, seed: int, feed_config: FeedConfig
) -> WindowFeed:
    """The windows to learn from; on a night that goes on, none of them is no fault."""
    try:
        feed = window_feed(windows, task, c.TRAIN, config.batch_size, seed, feed_config, start.since)
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
    """Training events behind each id row: the start's or, where more, those of the task's windows learnt tonight.

    A universal checkpoint's events hold the task's.
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
