"""Universal Training (section IV-C): next-item prediction over all-scene windows."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from precise_core.errors import CheckpointError, NothingNewError, NothingToLearnError
from precise_core.feed.config import DEFAULT_FEED, FeedConfig
from precise_core.feed.windows import WindowFeed
from precise_core.models.catalog import ItemCatalog, TokenInit
from precise_core.models.config import ModelConfig
from precise_core.models.precise import Precise
from precise_core.training import collectives as distribution
from precise_core.training.checkpoint import UNTRAINED, Checkpoint, publish_latest
from precise_core.training.config import UniversalConfig
from precise_core.training.continuation import (
    frequencies_since,
    grown,
    require_same_model,
    require_same_text,
    seconds_of,
)
from precise_core.training.loop import Training, train
from precise_core.training.setup import (
    build_model,
    item_frequencies,
    language_model_of,
    log_folder,
    resume_store,
    window_feed,
    write_on_first_rank,
)
from precise_core.training.universal_loss import universal_loss
from precise_core.training.validation import validate
from precise_core.training.watching import NullProgress, Progress
from precise_core.warehouse.snapshot import DeltaSnapshot
from schemas import columns as c

_FROM_SCRATCH = "run one night with universal.start=scratch"


def train_universal(
    *,
    model_config: ModelConfig,
    config: UniversalConfig,
    windows: DeltaSnapshot,
    catalog: ItemCatalog,
    token_init: TokenInit | None,
    out: Path,
    task: str = "all",
    seed: int,
    parent_versions: Mapping[str, int],
    as_of: datetime | None = None,
    parent: Checkpoint | None = None,
    progress: Progress | None = None,
    feed_config: FeedConfig = DEFAULT_FEED,
) -> Checkpoint:
    """Train on the `train` windows of ``task`` and write the epoch with the best validation NDCG@50.

    The untrained model is written too and, when the training has ended well, published under ``untrained``, so that
    evaluation can show what was learned. The trained one is not published: that is the caller's decision. Called again
    after a kill, with the same arguments, it continues at the last saved step.

    With ``parent`` that model goes on instead: it gets rows for the catalog's new items and tokens, and learns the
    windows whose newest event is not older than the parent's ``as_of``. No untrained model is written then.

    Args:
        model_config: Sizes of the model.
        config: How to train.
        windows: A pinned snapshot of ``training_windows``.
        catalog: Tokens of every vocabulary row; with states of their texts for ``token_init: contextual``.
        token_init: Initial token rows from the language model; needed for ``token_init: vocab`` and ``input``.
        out: Folder of the checkpoints.
        task: Partition of the windows.
        seed: Decides weights, order, dropout and draws.
        parent_versions: Delta version of every input table, for the manifest.
        as_of: The instant whose earlier events the windows hold; the manifest says so.
        parent: The checkpoint to go on from, with an ``as_of``; None = from scratch.
        progress: Told of every step.
        feed_config: How the windows are read.

    Raises:
        TrainingError: No windows, nothing to predict in them, or a loss that is not finite.
        NothingNewError: ``parent`` learnt nothing new, because no window is new or validation never improved.
        CheckpointError: ``parent`` has other sizes than ``model_config``, or another tokenizer than the catalog.
    """
    since = None if parent is None else new_since(parent, model_config, catalog)
    feed, validation = _feeds(windows, task, config, seed, feed_config, since, parent)
    if parent is None or since is None:
        frequencies_V = learnt_V = item_frequencies(windows, task, catalog.num_rows, feed_config)
        model = build_model(model_config, catalog, token_init, frequencies_V, seed)
    else:
        model = grown(parent, catalog, token_init)
        learnt_V = item_frequencies(windows, task, model.num_item_rows, feed_config, since)
        frequencies_V = frequencies_since(windows, task, parent.item_frequencies(), learnt_V, since, feed_config)
        model.fusion.set_trained_items(frequencies_V)
    described: dict[str, Any] = {
        "task": task,
        "tokenizer_id": catalog.tokenizer_id,
        "language_model": language_model_of(model_config, catalog, token_init),
        "input_versions": dict(parent_versions),
        "as_of": as_of,
        "seed": seed,
        "training": config.model_dump(mode="json"),
    }
    untrained = None
    if parent is None:
        untrained = _write_untrained(Path(out), model, frequencies_V, described)
        described["parent"] = untrained.model_version
    else:
        described["parent"] = described["previous"] = parent.model_version
        described["copied"] = tuple(name for name, _ in model.named_parameters())
        described["space"] = parent.manifest.vector_space
    resume = resume_store(Path(out), task, described, model, feed)
    result = train(
        Training(
            description=f"universal {task}",
            model=model,
            loss=universal_loss(model, catalog, config, learnt_V, frequencies_V > 0),
            feed=feed,
            validate=lambda: validate(model, catalog, validation, config.target_filter),
            config=config,
            resume=resume,
            seed=seed,
            progress=progress or NullProgress(),
            # The ids of a parent have converged already, and a new token would wait frozen where it started.
            alternate=config.alternate if parent is None else None,
            logs=log_folder(Path(out), task, config),
        )
    )
    if parent is not None and result.best_epoch == 0:
        resume.clear()
        raise NothingNewError(f"{task}: validation never improved; {parent.model_version} stays in use")
    checkpoint = write_on_first_rank(
        Path(out),
        model,
        frequencies_V,
        best_epoch=result.best_epoch,
        metrics=result.metrics,
        log=result.log,
        **described,
    )
    if untrained is not None and distribution.rank() == 0:
        publish_latest(Path(out), UNTRAINED, untrained)
    resume.clear()
    return checkpoint


def new_since(parent: Checkpoint, model_config: ModelConfig, catalog: ItemCatalog) -> int:
    """Epoch seconds from which events are new to ``parent``.

    Raises:
        CheckpointError: It does not say what it has learnt, or does not fit the configuration or the catalog.
    """
    if parent.manifest.as_of is None:
        raise CheckpointError(
            f"checkpoint {parent.model_version} does not say up to when it has learnt; {_FROM_SCRATCH}"
        )
    require_same_model(parent, model_config, "the configuration", _FROM_SCRATCH)
    require_same_text(parent, catalog, _FROM_SCRATCH)
    return seconds_of(parent.manifest.as_of)


def _feeds(
    windows: DeltaSnapshot,
    task: str,
    config: UniversalConfig,
    seed: int,
    feed_config: FeedConfig,
    since: int | None,
    parent: Checkpoint | None,
) -> tuple[WindowFeed, WindowFeed]:
    """The train and the validation windows; where a parent could stay in use, none of either is no fault."""
    try:
        train_feed = window_feed(windows, task, c.TRAIN, config.batch_size, seed, feed_config, since)
        return train_feed, window_feed(windows, task, c.VALIDATION, config.batch_size, seed, feed_config)
    except NothingToLearnError as error:
        if parent is None:
            raise
        raise NothingNewError(f"{error}; {parent.model_version} stays in use") from error


def _write_untrained(out: Path, model: Precise, frequencies_V: torch.Tensor, described: dict[str, Any]) -> Checkpoint:
    untrained = described | {"task": f"{described['task']}-{UNTRAINED}"}
    return write_on_first_rank(out, model, frequencies_V, best_epoch=0, metrics={}, log=[], **untrained)
