"""Where a night's Targeted Training starts (section IV-E1): from the universal checkpoint, or from the task's own."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import torch

from precise_core.errors import CheckpointError
from precise_core.models.catalog import ItemCatalog
from precise_core.models.precise import Precise
from precise_core.training.checkpoint import UNTRAINED, Checkpoint
from precise_core.training.config import TargetedConfig
from precise_core.training.continuation import grown, padded, require_same_model, require_same_text, seconds_of

_WARM_UP_ADVICE = "run one night with targeted.warm_up_every_days=1"
_HEAD = "head."


@dataclass(frozen=True, kw_only=True)
class Start:
    """The model of step 0, and its description in the manifest.

    Attributes:
        parent: Whose parameters it has.
        previous: The task's checkpoint that is continued, or whose head is kept.
        copied, kept, new: Parameters taken from ``parent``, from ``previous`` on a warm-up night, and fresh ones.
        since: Epoch seconds from which windows are new to it; None = all windows are learnt.
        frequencies_V: Training events of each row of its id table before this training.
        is_universal_trained_V: Whether Universal Training has trained the item, as of the last warm-up.
        universal, warm_up_as_of: The checkpoint and the night of the last warm-up.
    """

    model: Precise
    parent: Checkpoint
    previous: Checkpoint | None = None
    copied: tuple[str, ...]
    kept: tuple[str, ...] = ()
    new: tuple[str, ...] = ()
    since: int | None = None
    frequencies_V: torch.Tensor
    is_universal_trained_V: torch.Tensor
    universal: str | None = None
    warm_up_as_of: datetime | None
    notes: tuple[str, ...] = ()


def is_warm_up_night(previous: Checkpoint | None, as_of: datetime | None, every_days: int) -> bool:
    """Whether the parameters are reloaded from the universal checkpoint tonight.

    Always without a checkpoint to continue; else never (0), every night (1), or once ``every_days`` days have passed.
    """
    if previous is None or as_of is None or previous.manifest.warm_up_as_of is None or every_days == 1:
        return True
    return every_days > 0 and (as_of.date() - previous.manifest.warm_up_as_of.date()).days >= every_days


def night_start(
    config: TargetedConfig,
    universal: Checkpoint,
    previous: Checkpoint | None,
    catalog: ItemCatalog,
    as_of: datetime | None,
    seed: int,
) -> Start:
    """The start of tonight's training by the policy ``warm_up_every_days``."""
    if not config.warm_start:
        return _from_untrained(universal, as_of, seed)
    if is_warm_up_night(previous, as_of, config.warm_up_every_days):
        return _warm_up(universal, previous, as_of, seed)
    assert previous is not None
    return _go_on(universal, previous, catalog)


def targeted_model(source: Checkpoint, seed: int) -> tuple[Precise, tuple[str, ...], tuple[str, ...]]:
    """A targeted model with every parameter that ``source`` has, and the names of the copied and the new ones."""
    start = source.load_model()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        known = start.fusion.known_token_ids_W
        sizes = start.max_token_length, start.fusion.state_width, start.fusion.layer_sizes
        model = Precise(start.config, start.num_item_rows, known, "targeted", *sizes)
    shared, own = start.state_dict(), model.state_dict()
    model.load_state_dict(own | {name: tensor for name, tensor in shared.items() if name in own})
    names = [name for name, _ in model.named_parameters()]
    return model, tuple(n for n in names if n in shared), tuple(n for n in names if n not in shared)


def _warm_up(universal: Checkpoint, previous: Checkpoint | None, as_of: datetime | None, seed: int) -> Start:
    model, copied, new = targeted_model(universal, seed)
    kept, notes = _keep_head(model, previous)
    frequencies_V = universal.item_frequencies()
    return Start(
        model=model,
        parent=universal,
        previous=previous,
        copied=copied,
        kept=kept,
        new=tuple(name for name in new if name not in kept),
        frequencies_V=frequencies_V,
        is_universal_trained_V=universal.is_universal_trained(),
        universal=universal.model_version,
        warm_up_as_of=as_of,
        notes=notes,
    )


def _keep_head(model: Precise, previous: Checkpoint | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Load the head of ``previous`` where it fits; the names of its parameters, and a note where it does not."""
    if previous is None:
        return (), ()
    own = model.state_dict()
    head = {name: tensor for name, tensor in previous.load_model().state_dict().items() if name.startswith(_HEAD)}
    if any(name not in own or own[name].shape != tensor.shape for name, tensor in head.items()):
        return (), (f"the head of {previous.model_version} has other sizes: it starts anew",)
    model.load_state_dict(own | head)
    return tuple(head), ()


def _go_on(universal: Checkpoint, previous: Checkpoint, catalog: ItemCatalog) -> Start:
    manifest = previous.manifest
    whose = f"the universal checkpoint {universal.model_version}"
    require_same_model(previous, universal.manifest.model, whose, _WARM_UP_ADVICE)
    require_same_text(previous, catalog, _WARM_UP_ADVICE)
    model = grown(previous, catalog)
    assert manifest.as_of is not None
    return Start(
        model=model,
        parent=previous,
        previous=previous,
        copied=tuple(name for name, _ in model.named_parameters()),
        since=seconds_of(manifest.as_of),
        frequencies_V=padded(previous.item_frequencies(), model.num_item_rows),
        is_universal_trained_V=padded(previous.is_universal_trained(), model.num_item_rows),
        universal=manifest.universal,
        warm_up_as_of=manifest.warm_up_as_of,
    )


def _from_untrained(universal: Checkpoint, as_of: datetime | None, seed: int) -> Start:
    """PRECISE-TT of Table VII: as if there were no Universal Training."""
    untrained = Checkpoint.open(universal.beside(universal.manifest.parent))
    if not untrained.manifest.task.endswith(f"-{UNTRAINED}"):
        raise CheckpointError(
            f"targeted.warm_start false starts from the untrained model, and {universal.model_version} went on from "
            f"{untrained.model_version}; run one night with universal.start=scratch"
        )
    model, copied, new = targeted_model(untrained, seed)
    nothing_V = torch.zeros(model.num_item_rows, dtype=torch.long)
    return Start(
        model=model,
        parent=untrained,
        copied=copied,
        new=new,
        frequencies_V=nothing_V,
        is_universal_trained_V=nothing_V > 0,
        warm_up_as_of=as_of,
    )
