"""What both stages do before and after the loop."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from precise_core.errors import TrainingError
from precise_core.feed.config import DEFAULT_FEED, FeedConfig
from precise_core.feed.windows import Split, WindowFeed
from precise_core.models.catalog import ItemCatalog, TokenInit
from precise_core.models.config import ModelConfig
from precise_core.models.precise import Precise
from precise_core.text.reduction import principal_components
from precise_core.training import collectives as distribution
from precise_core.training.checkpoint import Checkpoint, write_checkpoint
from precise_core.training.config import LoopConfig
from precise_core.training.resume import ResumeStore
from precise_core.warehouse.reader import DeltaSnapshot
from schemas import columns as c

# Tokens that the PCA of hidden states looks at: ten times the width of a large model, within a gigabyte.
_PCA_STATES = 16_384
_NOT_DECISIVE = ("checkpoint_every_steps", "tensorboard", "rank_timeout_seconds")


def window_feed(
    windows: DeltaSnapshot,
    task: str,
    split: Split,
    batch_size: int,
    seed: int,
    feed_config: FeedConfig = DEFAULT_FEED,
    since: int | None = None,
) -> WindowFeed:
    """This rank's share of the train windows; all other windows on every rank, whatever ``since``."""
    if split != c.TRAIN:
        return WindowFeed(windows, task, split, batch_size, seed, config=feed_config)
    rank, world_size = distribution.rank(), distribution.world_size()
    return WindowFeed(windows, task, split, batch_size, seed, rank, world_size, feed_config, since)


def item_frequencies(
    windows: DeltaSnapshot,
    task: str,
    num_item_rows: int,
    feed_config: FeedConfig = DEFAULT_FEED,
    since: int | None = None,
) -> torch.Tensor:
    """int64 events per vocabulary row in the train windows; zero for padding and unknown.

    With ``since``: in the windows whose newest event is at or after that epoch second, their older events included.

    Raises:
        TrainingError: A window names an item beyond the catalog: the tables are not of the same night.
    """
    counts_V = torch.zeros(num_item_rows, dtype=torch.long)
    feed = WindowFeed(windows, task, c.TRAIN, batch_size=4096, seed=0, config=feed_config, since=since)
    for batch in feed.epoch(0):
        highest = int(batch.item_indices_BL.max())
        if highest >= num_item_rows:
            raise TrainingError(
                f"table {windows.name}, version {windows.version}: item_index {highest} is not in the item catalog of "
                f"{num_item_rows} rows; run jobs/tokenize_items.py first"
            )
        counts_V += torch.bincount(batch.item_indices_BL.flatten(), minlength=num_item_rows)
    counts_V[: c.FIRST_ITEM_INDEX] = 0
    return counts_V


def build_model(
    config: ModelConfig, catalog: ItemCatalog, token_init: TokenInit | None, frequencies_V: torch.Tensor, seed: int
) -> Precise:
    """An untrained model of the first stage; its text half starts as ``model.fusion.token_init`` says.

    ``frequencies_V``: training events of every row of the id table.

    Raises:
        TrainingError: What the configured mode starts from is not given, or vectors are of another width.
    """
    fusion, states = config.fusion, catalog.states
    if fusion.is_contextual and states is None:
        raise TrainingError("model.fusion.token_init contextual needs text_states; run jobs/embed_tokens.py first")
    known = torch.zeros(0, dtype=torch.long) if fusion.is_contextual else catalog.known_token_ids
    state_width = states.width if states is not None and fusion.is_contextual else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Precise(config, catalog.num_rows, known, "universal", catalog.max_token_length, state_width)
    model.fusion.set_trained_items(frequencies_V)
    if fusion.is_contextual and states is not None:
        model.fusion.set_projection(*_projection(states.states_SH, fusion.token_width, seed))
    elif fusion.mode != "id" and fusion.token_init != "random":
        _set_token_vectors(model, token_init)
    return model


def language_model_of(config: ModelConfig, catalog: ItemCatalog, token_init: TokenInit | None) -> str | None:
    """Which language model a new model starts from; None where from none."""
    if config.fusion.is_contextual:
        return catalog.states.language_model if catalog.states else None
    return token_init.language_model if token_init else None


def _set_token_vectors(model: Precise, token_init: TokenInit | None) -> None:
    config = model.config.fusion
    if token_init is None:
        raise TrainingError(
            f"model.fusion.token_init {config.token_init} needs token_embeddings; run jobs/embed_tokens.py first"
        )
    if token_init.vectors_KD.shape[1] != config.token_width:
        raise TrainingError(
            f"token vectors are {token_init.vectors_KD.shape[1]} wide, model.fusion.token_width is {config.token_width}"
        )
    model.fusion.set_token_vectors(token_init.token_ids_K, token_init.vectors_KD)


def _projection(states_SH: torch.Tensor, width: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """``(mean_H, components_HD)`` so that a projected token has length 1 on average, as a row of a token table has.

    The PCA stands in the checkpoint, as the projection it became: later texts go through the same one. States narrower
    than ``width`` get random directions beside their components.
    """
    sample_SH = states_SH[:: -(-len(states_SH) // _PCA_STATES)].double().numpy()
    mean_H, components_HD = principal_components(sample_SH, np.ones(len(sample_SH)), width)
    H, found = components_HD.shape
    noise = np.random.default_rng(seed).normal(0.0, 1 / np.sqrt(H), (H, width - found))
    components_HD = np.concatenate([components_HD, noise], axis=1)
    spread = ((sample_SH - mean_H) @ components_HD).std()
    components_HD = components_HD / max(spread, 1e-12) / np.sqrt(width)
    return torch.from_numpy(mean_H).float(), torch.from_numpy(components_HD).float()


def resume_store(out: Path, task: str, described: Mapping[str, Any], model: Precise, feed: WindowFeed) -> ResumeStore:
    """State of this very training; any change of configuration, seed or tables makes it another one.

    Except for what only says how a run is watched and kept, so that it may be changed to get a stuck run going.
    """
    decisive = {name: value for name, value in described["training"].items() if name not in _NOT_DECISIVE}
    identity = {
        "described": {**described, "training": decisive},
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
    """Rank 0 writes, every rank opens what it wrote; ``described`` as in ``write_checkpoint``."""
    folder = None
    if distribution.rank() == 0:
        folder = write_checkpoint(Path(out), model, frequencies_V, **described).folder
    return Checkpoint.open(distribution.from_first_rank(folder) or Path(out))
