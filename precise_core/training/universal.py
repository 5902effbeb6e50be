"""Universal Training (section IV-C): next-item prediction over all-scene windows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from precise_core.errors import NothingToLearnError
from precise_core.feed.snapshot import DeltaSnapshot
from precise_core.feed.windows import SequenceBatch
from precise_core.models.catalog import ItemCatalog, TokenInit
from precise_core.models.config import ModelConfig
from precise_core.models.precise import Precise, fuse_distinct
from precise_core.objectives.losses import sampled_softmax
from precise_core.objectives.negatives import CandidateSampler
from precise_core.objectives.targets import next_instant_targets, positions_per_row
from precise_core.training import distribution
from precise_core.training.checkpoint import UNTRAINED, Checkpoint, publish_latest
from precise_core.training.config import UniversalConfig
from precise_core.training.loop import LossFunction, Training, train
from precise_core.training.progress import NullProgress, Progress
from precise_core.training.setup import (
    build_model,
    item_frequencies,
    language_model_of,
    resume_store,
    window_feed,
    write_on_first_rank,
)
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

    Raises:
        TrainingError: No windows, nothing to predict in them, or a loss that is not finite.
    """
    feed = window_feed(windows, task, "train", config.batch_size, seed)
    validation = window_feed(windows, task, "validation", config.batch_size, seed)
    frequencies_V = item_frequencies(windows, task, catalog.num_rows)
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


def universal_loss(
    model: Precise, catalog: ItemCatalog, config: UniversalConfig, frequencies_V: torch.Tensor
) -> LossFunction:
    """Eq. 5 over a batch: the last position of every instant predicts items of the next instant.

    Raises (when built):
        NothingToLearnError: The windows hold no item of the vocabulary.
    """
    if not frequencies_V.any():
        raise NothingToLearnError("the train windows hold no item of the vocabulary: nothing to learn from")
    sampler = CandidateSampler(config.negatives, frequencies_V)

    def loss(batch: SequenceBatch, generator: torch.Generator) -> torch.Tensor | None:
        targets = next_instant_targets(
            batch.item_indices_BL, batch.event_ts_BL, batch.valid_mask_BL, config.targets_per_position, generator
        )
        if not len(targets.rows_P):
            return None
        candidates = sampler.draw(targets.targets_PM[targets.target_mask_PM], generator)
        e_BLD, e_CD = fuse_distinct(model, catalog, targets.item_indices_BL, candidates.item_indices_C)
        at_BQ, slots_P = positions_per_row(targets.rows_P, targets.positions_P, len(batch))
        h_BQD = model.position_states(e_BLD, targets.valid_mask_BL, at_BQ)
        logits_PC = model.logits(h_BQD[targets.rows_P, slots_P], e_CD)
        columns_PM = candidates.columns(targets.targets_PM)
        nll = sampled_softmax(
            logits_PC, columns_PM, targets.target_mask_PM, candidates.log_q_C, candidates.is_negative_C
        )
        return nll + balance_penalty(model)

    return loss


def balance_penalty(model: Precise) -> torch.Tensor | float:
    """The experts' load-balancing loss of the last forward pass, weighted; 0 without experts."""
    balance = model.fusion.balance_loss()
    return 0.0 if balance is None else model.config.fusion.balance_weight * balance


def _write_untrained(out: Path, model: Precise, frequencies_V: torch.Tensor, described: dict[str, Any]) -> Checkpoint:
    untrained = described | {"task": f"{described['task']}-{UNTRAINED}"}
    checkpoint = write_on_first_rank(out, model, frequencies_V, best_epoch=0, metrics={}, log=[], **untrained)
    if distribution.rank() == 0:
        publish_latest(out, UNTRAINED, checkpoint)
    return checkpoint
