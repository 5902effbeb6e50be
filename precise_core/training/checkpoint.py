"""Checkpoints: a folder of safetensors and JSON that cannot be half-written, silently changed, or run code.

<out>/<model_version>/model.safetensors   weights and buffers
                      items.safetensors   training frequency of every item, and whether Universal Training saw it
                      manifest.json       what it is and where it comes from
                      metrics.jsonl       the log of the training
                      alignment.safetensors  the map to the space it is served in, where that is not its own
                      SHA256SUMS          of the files above
<out>/latest-<key>.json                   which model_version is in use
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from pydantic import ValidationError as PydanticValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch.overrides import TorchFunctionMode

from precise_core.artefacts import MANIFEST_FILE, checkpoint_manifest, checkpoint_pointer
from precise_core.config import Config
from precise_core.errors import CheckpointError
from precise_core.models.catalog import ItemCatalog
from precise_core.models.config import ModelConfig
from precise_core.models.precise import Precise
from precise_core.models.text_layers import LayerSizes
from precise_core.store import Place, Store, above, below, fetched, store_at
from precise_core.store.sums import SUMS_FILE, file_sum, read_sums, sums_in, write_sums

FORMAT_VERSION: Literal[3] = 3
UNTRAINED = "untrained"

_WEIGHTS, _ITEMS, _METRICS = "model.safetensors", "items.safetensors", "metrics.jsonl"
_ALIGNMENT = "alignment.safetensors"
_FILES = {_WEIGHTS, _ITEMS, MANIFEST_FILE, _METRICS}
_OLD_SUMS = "sums.json"  # of formats 1 and 2
_FREQUENCIES, _UNIVERSAL = "frequencies", "is_universal_trained"  # tensors of items.safetensors
_MAP = "map"  # tensor of alignment.safetensors


class Alignment(Config):
    """How a checkpoint was compared with the first one of the space in use.

    ``anchor`` is that checkpoint; ``items_fitted`` items chose the map, ``figures`` are of as many others. ``refusal``
    says why the checkpoint opened a space of its own instead; None = it lies in the anchor's, through its map.
    """

    anchor: str
    items_fitted: int = 0
    figures: dict[str, float] = Field(default_factory=dict)
    refusal: str | None = None


class Manifest(Config):
    """What a checkpoint is and where it comes from.

    ``copied`` and ``new`` list the parameters taken from the parent and those that started anew, ``kept`` those taken
    from ``previous``; ``metrics`` are the validation figures of the epoch that was kept. ``model.fusion.token_init``
    says what the text half starts from; ``state_width`` is the width of the hidden states that the model reads, null
    where it reads none; ``layer_sizes`` is of the language model's layers that are part of the model.

    ``as_of`` is the instant whose earlier events were learnt; ``previous`` is the checkpoint of the same task that this
    one goes on from. ``universal`` and ``warm_up_as_of`` are the universal checkpoint and the night of the last warm-up
    of a targeted checkpoint (IV-E1).

    ``space`` names the vector space: checkpoints that each went on from the one before share one, and so do those that
    were mapped into it (``alignment``); a model behind them may read the vectors of all. None = it opened one itself.
    ``anchor`` is the checkpoint whose item vectors later ones of the space are mapped to, ``basis`` the one whose
    coordinates its weights go on from, whatever the map; None = itself.
    """

    format_version: Literal[3] = FORMAT_VERSION
    model_version: str
    stage: Literal["universal", "targeted"]
    task: str
    model: ModelConfig
    num_item_rows: int
    num_trained_items: int
    num_known_tokens: int
    max_token_length: int
    state_width: int | None = None
    layer_sizes: LayerSizes | None = None
    tokenizer_id: str
    language_model: str | None
    best_epoch: int
    metrics: dict[str, float]
    notes: tuple[str, ...] = ()
    input_versions: dict[str, int]
    parent: str | None = None
    copied: tuple[str, ...] = ()
    new: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    as_of: datetime | None = None
    previous: str | None = None
    universal: str | None = None
    warm_up_as_of: datetime | None = None
    space: str | None = None
    anchor: str | None = None
    basis: str | None = None
    alignment: Alignment | None = None
    seed: int
    training: dict[str, Any]

    @property
    def vector_space(self) -> str:
        return self.space or self.model_version

    @property
    def anchor_version(self) -> str:
        return self.anchor or self.model_version

    @property
    def basis_version(self) -> str:
        # An older checkpoint has no basis: it was never mapped, so that its space names the same.
        return self.basis or (self.space if self.alignment is None else None) or self.model_version

    @property
    def is_aligned(self) -> bool:
        """Whether a map stands between its weights and the vectors that it serves."""
        return self.alignment is not None and self.alignment.refusal is None


@dataclass(frozen=True)
class Checkpoint:
    """A verified folder; ``open`` it, then ``load_model``.

    Attributes:
        folder: With the files as they can be opened.
        place: Where it lies; the same, unless that is in an object store.
    """

    folder: Path
    manifest: Manifest
    place: Place

    @property
    def model_version(self) -> str:
        return self.manifest.model_version

    @classmethod
    def open(cls, place: Place) -> Checkpoint:
        """Verify every file's SHA-256, then read the manifest.

        Raises:
            CheckpointError: A file is missing or changed; the message names it.
        """
        folder = fetched(place)
        if not folder.is_dir():
            raise CheckpointError(f"checkpoint {folder}: no such folder")
        _verify(folder)
        try:
            described = checkpoint_manifest(folder.parent, folder.name)
            found = described.get("format_version")
            if found != FORMAT_VERSION:
                raise CheckpointError(
                    f"checkpoint {folder.name}: has format {found}, this version reads format {FORMAT_VERSION}; "
                    "train again"
                )
            manifest = Manifest.model_validate(described)
        except (ValueError, PydanticValidationError) as error:
            raise CheckpointError(f"{folder / MANIFEST_FILE}: not a manifest: {error}") from error
        if manifest.is_aligned != (folder / _ALIGNMENT).is_file():
            there = "there is none" if manifest.is_aligned else "the manifest knows none"
            raise CheckpointError(f"{folder / _ALIGNMENT}: the map and the manifest differ, {there}; train again")
        return cls(folder, manifest, place)

    def beside(self, model_version: str | None) -> Place:
        """Where another checkpoint of the same warehouse lies."""
        return below(above(self.place), str(model_version))

    def load_model(self, *, mapped: bool = False) -> Precise:
        """The model in evaluation mode.

        Args:
            mapped: The weights stay in the file and are mapped into memory page by page, so that all processes of a
                machine share one copy. For encoding only, and only while nobody writes the file.

        Raises:
            CheckpointError: The weights do not fit the manifest.
        """
        manifest = self.manifest
        known = torch.zeros(manifest.num_known_tokens, dtype=torch.long)  # the ids themselves are among the buffers
        sizes = (manifest.stage, manifest.max_token_length, manifest.state_width, manifest.layer_sizes)
        with _NoDraws() if mapped else nullcontext():
            model = Precise(manifest.model, manifest.num_item_rows, known, *sizes)
        try:
            model.load_state_dict(load_file(str(self.folder / _WEIGHTS)), assign=mapped)
        except (SafetensorError, RuntimeError) as error:
            raise CheckpointError(f"{self.folder / _WEIGHTS}: does not fit its manifest: {error}") from error
        model.space_map_DD = self.space_map()
        return model.eval()

    def space_map(self) -> torch.Tensor | None:
        """float32 [D, D] of an aligned checkpoint, orthogonal: from the vectors of its weights to those it serves.

        Raises:
            CheckpointError: It is not of the model's width, or not orthogonal.
        """
        if not self.manifest.is_aligned:
            return None
        file, width = self.folder / _ALIGNMENT, self.manifest.model.fusion.width
        try:
            map_DD = load_file(str(file))[_MAP]
        except (SafetensorError, KeyError) as error:
            raise CheckpointError(f"{file}: not a map: {error}") from error
        if map_DD.shape != (width, width) or not torch.allclose(map_DD @ map_DD.T, torch.eye(width), atol=1e-4):
            raise CheckpointError(f"{file}: not an orthogonal map of vectors of width {width}; train again")
        return map_DD

    @property
    def reads_states(self) -> bool:
        """True = the model reads hidden states of texts: it needs a catalog that has them."""
        return self.manifest.model.fusion.reads_states

    def require_fit(self, catalog: ItemCatalog, advice: str = "run jobs/train_universal.py first") -> None:
        """Refuse a catalog whose texts this model would misread; ``advice`` says what to do instead.

        Raises:
            CheckpointError: Another tokenizer or, for a model that reads them, no hidden states, or those of another
                language model; the message names both.
        """
        manifest, states = self.manifest, catalog.states
        if manifest.tokenizer_id != catalog.tokenizer_id:
            raise CheckpointError(
                f"checkpoint {self.model_version} was trained with tokenizer {manifest.tokenizer_id}, item_tokens has "
                f"{catalog.tokenizer_id}; {advice}"
            )
        if not self.reads_states:
            return
        if states is None:
            raise CheckpointError(
                f"checkpoint {self.model_version} reads hidden states of texts (token_init "
                f"{manifest.model.fusion.token_init}), the item catalog has none; run jobs/embed_tokens.py with that "
                f"mode first"
            )
        if (states.language_model, states.width) != (manifest.language_model, manifest.state_width):
            raise CheckpointError(
                f"checkpoint {self.model_version} reads states of {manifest.language_model}, {manifest.state_width} "
                f"wide; text_states has {states.language_model}, {states.width} wide; {advice}"
            )

    def known_token_ids(self) -> torch.Tensor:
        """int64, sorted: tokens that the model has a vector of their own for."""
        with safe_open(str(self.folder / _WEIGHTS), framework="pt") as weights:
            return weights.get_tensor("fusion.known_token_ids_W")

    def item_frequencies(self) -> torch.Tensor:
        """int64, training events per vocabulary row; above 0 = the id row carries training."""
        return load_file(str(self.folder / _ITEMS))[_FREQUENCIES]

    def is_universal_trained(self) -> torch.Tensor:
        """bool per vocabulary row: Universal Training has trained the item; as of the last warm-up where targeted.

        Raises:
            CheckpointError: A targeted checkpoint of a version that did not record it.
        """
        tensors = load_file(str(self.folder / _ITEMS))
        if _UNIVERSAL in tensors:
            return tensors[_UNIVERSAL]
        if self.manifest.stage == "targeted":
            raise CheckpointError(f"{self.folder / _ITEMS}: no tensor {_UNIVERSAL!r}; run jobs/train_targeted.py again")
        return tensors[_FREQUENCIES] > 0

    def metrics_log(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl."""
        text = (self.folder / _METRICS).read_text(encoding="utf-8")
        return [json.loads(line) for line in text.splitlines()]


class _NoDraws(TorchFunctionMode):
    """A module made in this block does not initialise its weights: they are replaced at once, and untouched pages take
    no memory. (``torch.device("meta")`` does the same, after a second of imports.)"""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", "") == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


def write_checkpoint(
    out: Place,
    model: Precise,
    frequencies_V: torch.Tensor,
    log: Sequence[dict[str, Any]],
    is_universal_trained_V: torch.Tensor | None = None,
    space_map_DD: torch.Tensor | None = None,
    **described: Any,
) -> Checkpoint:
    """Write a checkpoint under ``out``; the folder appears complete or not at all.

    Args:
        out: Folder of all checkpoints of a warehouse.
        is_universal_trained_V: Of a targeted model: whether Universal Training has trained the item.
        space_map_DD: Of an aligned one (``alignment``): its map. It is part of what the version is named after, because
            the same weights have other vectors with it.
        described: Every other field of ``Manifest`` (task, best_epoch, metrics, ...).
    """
    store = store_at(out)
    with store.draft("checkpoint") as folder:
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
        save_file(weights, str(folder / _WEIGHTS))
        items = {_FREQUENCIES: frequencies_V.contiguous()}
        if is_universal_trained_V is not None:
            items[_UNIVERSAL] = is_universal_trained_V.contiguous()
        save_file(items, str(folder / _ITEMS))
        content = file_sum(folder / _WEIGHTS)
        if space_map_DD is not None:
            save_file({_MAP: space_map_DD.contiguous()}, str(folder / _ALIGNMENT))
            content = hashlib.sha256(f"{content}{file_sum(folder / _ALIGNMENT)}".encode()).hexdigest()
        version = f"{model.stage}-{described['task']}-{content[:12]}"
        manifest = Manifest(
            model_version=version,
            stage=model.stage,
            model=model.config,
            num_item_rows=model.num_item_rows,
            num_trained_items=int((frequencies_V > 0).sum()),
            num_known_tokens=len(model.fusion.known_token_ids_W),
            max_token_length=model.max_token_length,
            state_width=model.fusion.state_width,
            layer_sizes=model.fusion.layer_sizes,
            **described,
        )
        (folder / MANIFEST_FILE).write_text(manifest.model_dump_json(indent=2), encoding="utf-8")
        (folder / _METRICS).write_text("".join(json.dumps(line) + "\n" for line in log), encoding="utf-8")
        write_sums(folder)
        if not _is_same(folder, store, version):
            store.put_folder(folder, version)
    return Checkpoint.open(below(out, version))


def put_in_use(out: Place, task_key: str, checkpoint: Checkpoint) -> None:
    """Make ``checkpoint`` the one in use for ``task_key`` (a task, or ``untrained``), in one step."""
    store_at(out).put(checkpoint_pointer(task_key), json.dumps({"model_version": checkpoint.model_version}))


def take_out_of_use(out: Place, task_key: str) -> None:
    """From now on no checkpoint is in use for ``task_key``; the folders stay."""
    store_at(out).delete(checkpoint_pointer(task_key))


def latest(out: Place, task_key: str) -> Checkpoint:
    """The checkpoint in use for ``task_key``.

    Raises:
        CheckpointError: None was published, or it is missing or changed on disk.
    """
    store, name = store_at(out), checkpoint_pointer(task_key)
    pointer = store.get(name)
    job = "train_universal" if task_key in ("all", UNTRAINED) else "train_targeted"
    if pointer is None:
        raise CheckpointError(f"no checkpoint for {task_key!r} in {out}; run jobs/{job}.py first")
    try:
        version = json.loads(pointer.text)["model_version"]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{store.place(name)}: not a pointer to a checkpoint; run jobs/{job}.py again") from error
    if Path(version).name != version:
        raise CheckpointError(f"{store.place(name)}: model_version {version!r} must be the name of a folder beside it")
    return Checkpoint.open(below(out, version))


def _verify(folder: Path) -> None:
    if (folder / _OLD_SUMS).is_file():
        raise CheckpointError(
            f"checkpoint {folder.name}: has format 2 or an older one, this version reads format {FORMAT_VERSION}; "
            "train again"
        )
    sums = read_sums(folder)
    if set(sums) - {_ALIGNMENT} != _FILES:
        raise CheckpointError(f"{folder / SUMS_FILE}: must list the checkpoint's files: {', '.join(sorted(_FILES))}")
    for name, expected in sums.items():
        file = folder / name
        if not file.is_file():
            raise CheckpointError(f"{file}: missing")
        if file_sum(file) != expected:
            raise CheckpointError(f"{file}: changed since it was written (SHA-256 differs); restore it or train again")


def _is_same(new: Path, store: Store, version: str) -> bool:
    """Same weights from the same inputs; the log differs by its clock readings only."""
    old = store.get(f"{version}/{SUMS_FILE}")
    if old is None:
        return False
    then, now = sums_in(old.text, store.place(f"{version}/{SUMS_FILE}")), read_sums(new)
    return then.keys() == now.keys() and all(then[name] == now[name] for name in now.keys() - {_METRICS})
