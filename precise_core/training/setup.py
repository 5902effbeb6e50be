"""What both stages share: their inputs, the untrained model, and the run of the loop to a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any

import numpy as np
import torch

from precise_core.config.tasks import ALL_TASK
from precise_core.errors import TrainingError
from precise_core.feed.config import DEFAULT_FEED, FeedConfig
from precise_core.feed.windows import Split, WindowFeed
from precise_core.models.catalog import ItemCatalog, TextStates, TokenInit
from precise_core.models.config import FusionConfig, ModelConfig
from precise_core.models.precise import Precise
from precise_core.models.text_layers import LayersInit
from precise_core.models.times import usual_gap
from precise_core.store import Place, store_at
from precise_core.text.reduction import principal_components
from precise_core.training import collectives as distribution
from precise_core.training.checkpoint import Checkpoint, write_checkpoint
from precise_core.training.config import DEFAULT_ALIGNMENT, AlignmentConfig, AlternateConfig, LoopConfig
from precise_core.training.loop import LossFunction, Training, TrainingResult, run_training
from precise_core.training.resume import ResumeStore
from precise_core.training.spaces import Origin, place
from precise_core.training.validation import Asking, validate
from precise_core.training.watching import NullProgress, Progress
from precise_core.warehouse.reader import DeltaSnapshot
from schemas import columns as c

# Tokens that the PCA of hidden states looks at: ten times the width of a large model, within a gigabyte.
_PCA_STATES = 16_384
_NOT_DECISIVE = ("device", "checkpoint_every_steps", "tensorboard", "rank_timeout_seconds")


@dataclass(frozen=True, kw_only=True)
class TrainingInputs:
    """What a training of either stage reads, and where it writes.

    Attributes:
        windows: `training_windows` at a pinned version.
        catalog: Tokens of every vocabulary row; with states of their texts for models that read them.
        seed: Decides new weights, order, dropout and draws.
        versions: Delta version of every input table, for the manifest.
        as_of: The instant whose earlier events the windows hold; None = unknown, and every night is the first.
        validation_at: Epoch seconds at which models that read times are asked in validation; None = each user after
            the newest event, by the usual gap between events.
        alignment: How a training from scratch stays in the vector space of the one before.
    """

    windows: DeltaSnapshot
    catalog: ItemCatalog
    task: str = ALL_TASK
    out: Place
    seed: int
    versions: Mapping[str, int]
    as_of: datetime | None = None
    validation_at: int | None = None
    alignment: AlignmentConfig = DEFAULT_ALIGNMENT
    progress: Progress = field(default_factory=NullProgress)
    feed_config: FeedConfig = DEFAULT_FEED

    def window_feed(self, split: Split, batch_size: int, since: int | None = None) -> WindowFeed:
        """This rank's share of the train windows; all other windows on every rank, whatever ``since``."""
        if split != c.TRAIN:
            return WindowFeed(self.windows, self.task, split, batch_size, self.seed, config=self.feed_config)
        ranks = distribution.rank(), distribution.world_size()
        return WindowFeed(self.windows, self.task, split, batch_size, self.seed, *ranks, self.feed_config, since)

    def counting_feed(self, since: int | None = None) -> WindowFeed:
        """All train windows on every rank, in large batches."""
        return WindowFeed(self.windows, self.task, c.TRAIN, 4096, seed=0, config=self.feed_config, since=since)

    def described(self, config: LoopConfig) -> dict[str, Any]:
        """What the manifest says about the inputs and the configuration of the stage."""
        return {
            "task": self.task,
            "tokenizer_id": self.catalog.tokenizer_id,
            "input_versions": dict(self.versions),
            "as_of": self.as_of,
            "seed": self.seed,
            "training": config.model_dump(mode="json"),
        }


@dataclass(frozen=True)
class StageRun:
    """One training of a stage, through the loop to its checkpoint.

    Attributes:
        described: Fields of the manifest that do not depend on the outcome.
    """

    inputs: TrainingInputs
    config: LoopConfig
    model: Precise
    feed: WindowFeed
    described: Mapping[str, Any]

    def train(
        self, loss: LossFunction, validation: WindowFeed, alternate: AlternateConfig | None = None
    ) -> TrainingResult:
        """The model holds the best epoch's weights at the end; called again after a kill, at the last saved step."""
        inputs, config = self.inputs, self.config
        asking = self._asking(validation) if self.model.config.encoder.uses_times else None
        return run_training(
            Training(
                description=f"{self.model.stage} {inputs.task}",
                model=self.model,
                loss=loss,
                feed=self.feed,
                validate=lambda: validate(self.model, inputs.catalog, validation, config.target_filter, asking),
                config=config,
                resume=self.resume,
                seed=inputs.seed,
                progress=inputs.progress,
                alternate=alternate,
                logs=store_at(inputs.out).scratch / "logs" / inputs.task
                if config.tensorboard
                else None,  # `tensorboard --logdir`
            )
        )

    def _asking(self, validation: WindowFeed) -> Asking:
        """When validation asks."""
        if self.inputs.validation_at is not None:
            return Asking(at=self.inputs.validation_at)
        histories = [
            seconds_L[-length:]
            for batch in validation.epoch(0)
            for seconds_L, length in zip(batch.event_ts_BL.numpy(), batch.lengths_B.tolist(), strict=True)
        ]
        return Asking(after_seconds=usual_gap(histories))

    def write(
        self,
        result: TrainingResult,
        frequencies_V: torch.Tensor,
        origin: Origin,
        notes: Sequence[str] = (),
        **more: Any,
    ) -> Checkpoint:
        """The checkpoint, in the space in use or its own; ``more`` are further arguments of ``write_checkpoint``."""
        inputs, model = self.inputs, self.model
        outcome = {"best_epoch": result.best_epoch, "metrics": result.metrics, "log": result.log}

        def found() -> dict[str, Any]:
            placed = place(model, inputs.catalog, frequencies_V, origin, inputs.alignment, inputs.seed)
            return {**placed.fields, "notes": (*notes, *placed.notes)}

        return write_on_first_rank(inputs.out, model, frequencies_V, found, **outcome, **self.described, **more)

    @cached_property
    def resume(self) -> ResumeStore:
        """State of this training; any change of configuration, seed or tables makes it another one.

        Except for keys that do not affect the result, so that they may be changed to get a stuck run going.
        """
        training = self.described["training"]
        decisive = {name: value for name, value in training.items() if name not in _NOT_DECISIVE}
        identity = {
            "described": {**self.described, "training": decisive},
            "model": self.model.config.model_dump(mode="json"),
            "stage": self.model.stage,
            "feed": self.feed.label,
            "rows": self.feed.num_rows,
            "bucket_batches": self.feed.config.bucket_batches,
            "ranks": distribution.world_size(),
        }
        folder = store_at(self.inputs.out).scratch / f".resume-{self.inputs.task}"
        return ResumeStore(folder, json.loads(json.dumps(identity, default=str)))


def write_on_first_rank(
    out: Place,
    model: Precise,
    frequencies_V: torch.Tensor,
    found: Callable[[], dict[str, Any]] = dict,
    **described: Any,
) -> Checkpoint:
    """Rank 0 writes, every rank opens what it wrote.

    ``described`` as in ``write_checkpoint``, and so is what ``found`` returns, which rank 0 alone calls.
    """
    place = None
    if distribution.rank() == 0:
        place = write_checkpoint(out, model, frequencies_V, **described, **found()).place
    return Checkpoint.open(distribution.from_first_rank(place) or out)


def item_frequencies(inputs: TrainingInputs, num_item_rows: int, since: int | None = None) -> torch.Tensor:
    """int64 events per vocabulary row in the train windows; zero for padding and unknown.

    With ``since``: in the windows whose newest event is at or after that epoch second, their older events included.

    Raises:
        TrainingError: A window names an item beyond the catalog: the tables are not of the same night.
    """
    counts_V = torch.zeros(num_item_rows, dtype=torch.long)
    for batch in inputs.counting_feed(since).epoch(0):
        highest = int(batch.item_indices_BL.max())
        if highest >= num_item_rows:
            raise TrainingError(
                f"table {inputs.windows.name}, version {inputs.windows.version}: item_index {highest} is not in the "
                f"item catalog of {num_item_rows} rows; run jobs/tokenize_items.py first"
            )
        counts_V += torch.bincount(batch.item_indices_BL.flatten(), minlength=num_item_rows)
    counts_V[: c.FIRST_ITEM_INDEX] = 0
    return counts_V


def build_model(
    config: ModelConfig,
    catalog: ItemCatalog,
    token_init: TokenInit | LayersInit | None,
    frequencies_V: torch.Tensor,
    seed: int,
) -> Precise:
    """An untrained model of the first stage; its text half starts as ``model.fusion.token_init`` says.

    ``frequencies_V``: training events of every row of the id table.

    Raises:
        TrainingError: What the configured mode starts from is not given, or vectors are of another width.
    """
    fusion, states = config.fusion, catalog.states
    if fusion.reads_states:
        _require_states(fusion, states, token_init)
    known = torch.zeros(0, dtype=torch.long) if fusion.reads_states else catalog.known_token_ids
    state_width = states.width if states is not None and fusion.reads_states else None
    layers = token_init if isinstance(token_init, LayersInit) else None
    sizes = catalog.max_token_length, state_width, layers.sizes if layers else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Precise(config, catalog.num_rows, known, "universal", *sizes)
    model.fusion.set_trained_items(frequencies_V)
    if fusion.is_contextual and states is not None:
        model.fusion.set_projection(*_projection(states.states_SH, fusion.token_width, seed))
    elif layers is not None:
        model.fusion.layers.set_layers(layers.weights)
    elif fusion.mode != "id" and fusion.token_init in ("vocab", "input"):
        _set_token_vectors(model, token_init)
    return model


def _require_states(fusion: FusionConfig, states: TextStates | None, start: TokenInit | LayersInit | None) -> None:
    """Refuse states that are not there, or of another layer than the one that the model reads."""
    if states is None:
        raise TrainingError(
            f"model.fusion.token_init {fusion.token_init} needs text_states; run jobs/embed_tokens.py first"
        )
    if fusion.has_text_layers and not isinstance(start, LayersInit):
        raise TrainingError("model.fusion.token_init top_layers needs the last layers of the language model")
    read = start.language_model if isinstance(start, LayersInit) else states.language_model.partition("#")[0]
    if states.language_model != read:
        raise TrainingError(
            f"model.fusion.token_init {fusion.token_init}, trained_layers {fusion.trained_layers}: text_states has "
            f"states of {states.language_model}; run jobs/embed_tokens.py with this configuration first"
        )


def language_model_of(
    config: ModelConfig, catalog: ItemCatalog, token_init: TokenInit | LayersInit | None
) -> str | None:
    """Which language model a new model starts from; None where from none."""
    if config.fusion.reads_states:
        return catalog.states.language_model if catalog.states else None
    return token_init.language_model if token_init else None


def _set_token_vectors(model: Precise, token_init: TokenInit | LayersInit | None) -> None:
    config = model.config.fusion
    if not isinstance(token_init, TokenInit):
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

    The PCA is kept in the checkpoint, as the projection it became: later texts go through the same one. States narrower
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
