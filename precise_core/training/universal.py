"""Universal Training (section IV-C): next-item prediction over all-scene windows."""

from __future__ import annotations

from typing import Any

import torch

from precise_core.errors import CheckpointError, NothingNewError, NothingToLearnError
from precise_core.feed.windows import WindowFeed
from precise_core.models.catalog import ItemCatalog, TokenInit
from precise_core.models.config import ModelConfig
from precise_core.models.precise import Precise
from precise_core.models.text_layers import LayersInit
from precise_core.training import collectives as distribution
from precise_core.training.checkpoint import UNTRAINED, Checkpoint, put_in_use
from precise_core.training.config import UniversalConfig
from precise_core.training.continuation import (
    frequencies_since,
    grown,
    require_same_model,
    require_same_text,
    seconds_of,
)
from precise_core.training.device import training_device
from precise_core.training.setup import (
    StageRun,
    TrainingInputs,
    build_model,
    item_frequencies,
    language_model_of,
    write_on_first_rank,
)
from precise_core.training.spaces import Origin
from precise_core.training.universal_loss import universal_loss
from schemas import columns as c

_FROM_SCRATCH = "run one night with universal.start=scratch"


def train_universal(
    inputs: TrainingInputs,
    model_config: ModelConfig,
    config: UniversalConfig,
    token_init: TokenInit | LayersInit | None = None,
    parent: Checkpoint | None = None,
    earlier: Checkpoint | None = None,
) -> Checkpoint:
    """Train on the `train` windows of the task and write the epoch with the best validation NDCG@50.

    The untrained model is written too and, when the training has ended well, put in use as ``untrained``, so that
    evaluation can show what was learned; the caller decides about the trained one. Called again after a kill, with the
    same arguments, it continues at the last saved step.

    With ``parent`` that model is continued instead: it gets rows for the catalog's new items and tokens, and learns the
    windows whose newest event is not older than the parent's ``as_of``. No untrained model is written then.

    Args:
        token_init: Initial token rows from the language model, needed for ``token_init: vocab`` and ``input``; its last
            layers for ``top_layers``, from scratch.
        parent: The checkpoint to continue; None = from scratch.
        earlier: From scratch: that of an earlier night, in whose vector space the new one is to stay.

    Raises:
        NothingNewError: ``parent`` learnt nothing new, because no window is new or validation never improved.
        TrainingError: ``config.device`` is `cuda` and there is no GPU.
    """
    device = training_device("universal", config.device)
    task, catalog = inputs.task, inputs.catalog
    since = None if parent is None else new_since(parent, model_config, catalog)
    feed, validation = _feeds(inputs, config, since, parent)
    if parent is None or since is None:
        frequencies_V = learnt_V = item_frequencies(inputs, catalog.num_rows)
        model = build_model(model_config, catalog, token_init, frequencies_V, inputs.seed)
    else:
        model = grown(parent, catalog, token_init if isinstance(token_init, TokenInit) else None)
        learnt_V = item_frequencies(inputs, model.num_item_rows, since)
        frequencies_V = frequencies_since(inputs, parent.item_frequencies(), learnt_V, since)
        model.fusion.set_trained_items(frequencies_V)
    described = inputs.described(config)
    described["language_model"] = language_model_of(model_config, catalog, token_init)
    untrained = None
    if parent is None:
        untrained = _write_untrained(inputs, model, frequencies_V, described)
        described["parent"] = untrained.model_version
    else:
        described["parent"] = described["previous"] = parent.model_version
        described["copied"] = tuple(name for name, _ in model.named_parameters())
    run = StageRun(inputs, config, model.to(device), feed, described)
    loss = universal_loss(model, catalog, config, learnt_V, frequencies_V > 0)
    # The ids of a parent have converged already, and a new token would wait frozen where it started.
    result = run.train(loss, validation, config.alternate if parent is None else None)
    if parent is not None and result.best_epoch == 0:
        run.resume.clear()
        raise NothingNewError(f"{task}: validation never improved; {parent.model_version} stays in use")
    origin = Origin(earlier=parent or earlier, basis=parent.manifest.basis_version if parent else None)
    checkpoint = run.write(result, frequencies_V, origin, result.notes)
    if untrained is not None and distribution.rank() == 0:
        put_in_use(inputs.out, UNTRAINED, untrained)
    run.resume.clear()
    return checkpoint


def new_since(parent: Checkpoint, model_config: ModelConfig, catalog: ItemCatalog) -> int:
    """Epoch seconds from which events are new to ``parent``, which must fit the configuration and the catalog."""
    if parent.manifest.as_of is None:
        raise CheckpointError(
            f"checkpoint {parent.model_version} does not say up to when it has learnt; {_FROM_SCRATCH}"
        )
    require_same_model(parent, model_config, "the configuration", _FROM_SCRATCH)
    require_same_text(parent, catalog, _FROM_SCRATCH)
    return seconds_of(parent.manifest.as_of)


def _feeds(
    inputs: TrainingInputs, config: UniversalConfig, since: int | None, parent: Checkpoint | None
) -> tuple[WindowFeed, WindowFeed]:
    """The train and the validation windows; with a parent, which can stay in use, having none is a NothingNewError."""
    try:
        learnt = inputs.window_feed(c.TRAIN, config.batch_size, since)
        return learnt, inputs.window_feed(c.VALIDATION, config.batch_size)
    except NothingToLearnError as error:
        if parent is None:
            raise
        raise NothingNewError(f"{error}; {parent.model_version} stays in use") from error


def _write_untrained(
    inputs: TrainingInputs, model: Precise, frequencies_V: torch.Tensor, described: dict[str, Any]
) -> Checkpoint:
    untrained = described | {"task": f"{inputs.task}-{UNTRAINED}"}
    return write_on_first_rank(inputs.out, model, frequencies_V, best_epoch=0, metrics={}, log=[], **untrained)
