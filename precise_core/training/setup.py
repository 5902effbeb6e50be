"""What both stages do before and after the loop."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from precise_core.errors import TrainingError
from precise_core.feed.config import DEFAULT_FEED, FeedConfig
from precise_core.feed.snapshot import DeltaSnapshot
from precise_core.feed.windows import Split, WindowFeed
from precise_core.models.catalog import FIRST_ITEM, ItemCatalog, TokenInit
from precise_core.models.config import ModelConfig
from precise_core.models.precise import Precise
from precise_core.training import distribution
from precise_core.training.checkpoint import Checkpoint, write_checkpoint
from precise_core.training.config import LoopConfig
from precise_core.training.resume import ResumeStore


def window_feed(
    windows: DeltaSnapshot,
    task: str,
    split: Split,
    batch_size: int,
    seed: int,
    feed_config: FeedConfig = DEFAULT_FEED,
) -> WindowFeed:
    """This rank's share of the train windows; all other windows on every rank."""
    if split != "train":
        return WindowFeed(windows, task, split, batch_size, seed, config=feed_config)
    rank, world_size = distribution.rank(), distribution.world_size()
    return WindowFeed(windows, task, split, batch_size, seed, rank, world_size, feed_config)


def item_frequencies(
    windows: DeltaSnapshot, task: str, num_item_rows: int, feed_config: FeedConfig = DEFAULT_FEED
) -> torch.Tensor:
    """int64 events per vocabulary row in the train windows; zero for padding and unknown.

    Raises:
        TrainingError: A window names an item beyond the catalog: the tables are not of the same night.
    """
    counts_V = torch.zeros(num_item_rows, dtype=torch.long)
    for batch in WindowFeed(windows, task, "train", batch_size=4096, seed=0, config=feed_config).epoch(0):
        highest = int(batch.item_indices_BL.max())
        if highest >= num_item_rows:
            raise TrainingError(
                f"table {windows.name}, version {windows.version}: item_index {highest} is not in the item catalog of "
                f"{num_item_rows} rows; run jobs/tokenize_items.py first"
            )
        counts_V += torch.bincount(batch.item_indices_BL.flatten(), minlength=num_item_rows)
    counts_V[:FIRST_ITEM] = 0
    return counts_V


def build_model(
    config: ModelConfig, catalog: ItemCatalog, token_init: TokenInit | None, is_trained_V: torch.Tensor, seed: int
) -> Precise:
    """An untrained model of the first stage.

    Raises:
        TrainingError: ``token_init: vocab`` is configured but no vectors, or vectors of another width, are given.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Precise(config, catalog.num_rows, catalog.known_token_ids, "universal", catalog.max_token_length)
    model.fusion.set_trained_items(is_trained_V)
    if config.fusion.mode == "id" or config.fusion.token_init == "random":
        return model
    if token_init is None:
        raise TrainingError("model.fusion.token_init vocab needs token_embeddings; run jobs/embed_tokens.py first")
    if token_init.vectors_KD.shape[1] != config.fusion.token_width:
        raise TrainingError(
            f"token vectors are {token_init.vectors_KD.shape[1]} wide, model.fusion.token_width is "
            f"{config.fusion.token_width}"
        )
    model.fusion.set_token_vectors(token_init.token_ids_K, token_init.vectors_KD)
    return model


def resume_store(out: Path, task: str, described: Mapping[str, Any], model: Precise, feed: WindowFeed) -> ResumeStore:
    """State of this very training; any change of configuration, seed or tables makes it another one."""
    identity = {
        "described": dict(described),
        "model": model.config.model_dump(mode="json"),
        "stage": model.stage,
        "feed": feed.label,
        "rows": feed.num_rows,
        "bucket_batches": feed.config.bucket_batches,
        "ranks": distribution.world_size(),
    }
    return ResumeStore(Path(out) / f".resume-{task}", json.loads(json.dumps(identity, default=str)))


def log_folder(out: Path, task: str, config: LoopConfig) -> Path | None:
    """Where the figures of the newest training of a task can be watched (``tensorboard --logdir``)."""
    return Path(out) / "logs" / task if config.tensorboard else None


def write_on_first_rank(out: Path, model: Precise, frequencies_V: torch.Tensor, **described: Any) -> Checkpoint:
    """Rank 0 writes, every rank opens what it wrote."""
    folder = None
    if distribution.rank() == 0:
        folder = write_checkpoint(Path(out), model, frequencies_V, **described).folder
    return Checkpoint.open(distribution.from_first_rank(folder) or Path(out))
