"""Universal Training (section IV-C): next-item prediction over all-scene windows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from precise_core.feed.config import DEFAULT_FEED, FeedConfig
from precise_core.feed.snapshot import DeltaSnapshot
from precise_core.models.catalog import ItemCatalog, TokenInit
from precise_core.models.config import ModelConfig
from precise_core.models.precise import Precise
from precise_core.training import distribution
from precise_core.training.checkpoint import UNTRAINED, Checkpoint, publish_latest
from precise_core.training.config import UniversalConfig
from precise_core.training.loop import Training, train
from precise_core.training.progress import NullProgress, Progress
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
    progress: Progress | None = None,
    feed_config: FeedConfig = DEFAULT_FEED,
) -> Checkpoint:
    """Train on the `train` windows of ``task`` and write the epoch with the best validation NDCG@50.

    The untrained model is written too and published under ``untrained``, so that evaluation can show what was learned.
    The trained one is not published: that is the caller's decision. Called again after a kill, with the same
    arguments, it continues at the last saved step.

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
        progress: Told of every step.
        feed_config: How the windows are read.

    Raises:
        TrainingError: No windows, nothing to predict in them, or a loss that is not finite.
    """
    feed = window_feed(windows, task, "train", config.batch_size, seed, feed_config)
    validation = window_feed(windows, task, "validation", config.batch_size, seed, feed_config)
    frequencies_V = item_frequencies(windows, task, catalog.num_rows, feed_config)
    model = build_model(model_config, catalog, token_init, frequencies_V > 0, seed)
    described: dict[str, Any] = {
        "task": task,
        "tokenizer_id": catalog.tokenizer_id,
        "language_model": language_model_of(model_config, catalog, token_init),
        "input_versions": dict(parent_versions),
        "seed": seed,
        "training": config.model_dump(mode="json"),
    }
    described["parent"] = _write_untrained(Path(out), model, frequencies_V, described).model_version
    resume = resume_store(Path(out), task, described, model, feed)
    result = train(
        Training(
            description=f"universal {task}",
            model=model,
            loss=universal_loss(model, catalog, config, frequencies_V),
            feed=feed,
            validate=lambda: validate(model, catalog, validation),
            config=config,
            resume=resume,
            seed=seed,
            progress=progress or NullProgress(),
            alternate=config.alternate,
            logs=log_folder(Path(out), task, config),
        )
    )
    checkpoint = write_on_first_rank(
        Path(out),
        model,
        frequencies_V,
        best_epoch=result.best_epoch,
        metrics=result.metrics,
        log=result.log,
        **described,
    )
    resume.clear()
    return checkpoint


def _write_untrained(out: Path, model: Precise, frequencies_V: torch.Tensor, described: dict[str, Any]) -> Checkpoint:
    untrained = described | {"task": f"{described['task']}-{UNTRAINED}"}
    checkpoint = write_on_first_rank(out, model, frequencies_V, best_epoch=0, metrics={}, log=[], **untrained)
    if distribution.rank() == 0:
        publish_latest(out, UNTRAINED, checkpoint)
    return checkpoint
