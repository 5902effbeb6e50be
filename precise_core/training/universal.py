"""Universal Training (section IV-B): next-item prediction over all-scene windows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from precise_core.feed.snapshot import DeltaSnapshot
from precise_core.feed.windows import SequenceBatch, WindowFeed
from precise_core.models.catalog import FIRST_ITEM, ItemCatalog, TokenInit
from precise_core.models.config import ModelConfig
from precise_core.models.precise import Precise, fuse_distinct
from precise_core.objectives.losses import sampled_softmax
from precise_core.objectives.negatives import CandidateSampler
from precise_core.objectives.targets import next_instant_targets
from precise_core.training import distribution
from precise_core.training.checkpoint import UNTRAINED, Checkpoint, publish_latest, write_checkpoint
from precise_core.training.config import UniversalConfig
from precise_core.training.loop import LossFunction, Training, train
from precise_core.training.progress import NullProgress, Progress
from precise_core.training.resume import ResumeStore
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
) -> Checkpoint:
    """Train on the `train` windows of ``task`` and write the epoch with the best validation NDCG@50.

    The untrained model is written too and published under ``untrained``, so that evaluation can show what was learned.
    The trained one is not published: that is the caller's decision.

    Args:
        model_config: Sizes of the model.
        config: How to train.
        windows: A pinned snapshot of ``training_windows``.
        catalog: Tokens of every vocabulary row.
        token_init: Initial token rows from the language model; needed by ``token_init: vocab`` unless mode is `id`.
        out: Folder of the checkpoints.
        task: Partition of the windows.
        seed: Decides weights, order, dropout and draws.
        parent_versions: Delta version of every input table, for the manifest.
        progress: Told of every step.

    Raises:
        TrainingError: No windows, nothing to predict in them, or a loss that is not finite.
    """
    feed, validation = _feeds(windows, task, config.batch_size, seed)
    frequencies_V = item_frequencies(feed, catalog.num_rows)
    model = build_model(model_config, catalog, token_init, frequencies_V > 0, seed)
    described = {
        "task": task,
        "tokenizer_id": catalog.tokenizer_id,
        "language_model": token_init.language_model if token_init else None,
        "input_versions": dict(parent_versions),
        "seed": seed,
        "training": config.model_dump(mode="json"),
    }
