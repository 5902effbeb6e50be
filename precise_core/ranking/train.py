"""Training, keeping and applying the DCN ranking model (section VI-C). I = impressions."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from precise_core.artefacts import write_model
from precise_core.errors import CheckpointError, NothingToLearnError, TrainingError, VersionMixError
from precise_core.ranking.config import DCNConfig, RankerConfig
from precise_core.ranking.data import RankingData
from precise_core.ranking.dcn import DCN
from precise_core.ranking.inputs import RankingInputs
from precise_core.store import Place, fetched
from precise_core.store.sums import verify_sums

RankerProgress = Callable[[dict[str, float]], None]

_WEIGHTS_FILE, _META_FILE = "weights.safetensors", "ranker.json"
_SCORING_BATCH = 8192


@dataclass(frozen=True)
class RankerCheckpoint:
    """A trained ranking model with all that is needed to read features as it did.

    Attributes:
        model: In evaluation mode.
        space: Vector space of the vectors it learned with; None where none are used.
        ranker_version: `dcn-<hash>` or `dcn+<task>-<hash>`.
        metrics: Epoch, train_loss and validation_log_loss of the epoch that was kept.
        parent: What it was trained from, as given.
    """

    model: DCN
    inputs: RankingInputs
    space: str | None
    ranker_version: str
    metrics: Mapping[str, float]
    parent: Mapping[str, Any]
    folder: Path

    @classmethod
    def open(cls, folder: Place) -> RankerCheckpoint:
        """Open what ``train_ranker`` wrote; refuse a folder that is incomplete or was changed on disk."""
        root = fetched(folder)
        verify_sums(root)
        meta = json.loads((root / _META_FILE).read_text(encoding="utf-8"))
        inputs = RankingInputs.from_json(meta["inputs"])
        model = _build_model(inputs, DCNConfig(**meta["dcn"]))
        try:
            model.load_state_dict(load_file(root / _WEIGHTS_FILE))
        except RuntimeError as error:
            raise CheckpointError(f"{root}: the weights do not fit the sizes in {_META_FILE}: {error}") from error
        about = {name: meta[name] for name in ("ranker_version", "metrics", "parent")}
        return cls(model=model.eval(), inputs=inputs, space=meta["vector_space"], folder=root, **about)


def train_ranker(
    train: RankingData,
    validation: RankingData,
    *,
    dcn: DCNConfig,
    config: RankerConfig,
    use_vectors: bool,
    seed: int,
    out: str | Path,
    parent: Mapping[str, Any],
    progress: RankerProgress | None = None,
) -> RankerCheckpoint:
    """Train with binary cross-entropy; keep the epoch with the lowest validation log loss.

    The result depends on the rows, the configuration and the seed, not on the order of the rows. ``progress`` is called
    after every epoch with epoch, train_loss and validation_log_loss.

    Args:
        validation: Later impressions that choose the epoch.
        use_vectors: Whether PRECISE's vectors and score are used at all; False = the plain DCN of Table IX.
        out: Folder in which the checkpoint's folder, named by its ``ranker_version``, is made.
        parent: Its origin, kept in the checkpoint; ``parent["task"]`` names the vectors in the version (default `all`).
    """
    _require_learnable(train, validation, use_vectors)
    train = train.take(np.argsort(train.impression_ids_I, kind="stable"))
    validation = validation.take(np.argsort(validation.impression_ids_I, kind="stable"))
    inputs = RankingInputs.fit(train, dcn, use_vectors, config.leave_out)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _build_model(inputs, dcn)
        metrics = _fit(model, inputs, train, validation, config, seed, progress)
    meta = {
        "inputs": inputs.to_json(),
        "vector_space": train.space if use_vectors else None,
        "model_versions": sorted(set(train.model_versions_I)) if use_vectors else [],
        "dcn": dcn.model_dump(mode="json"),
        "ranker": config.model_dump(mode="json"),
        "metrics": metrics,
        "seed": seed,
        "parent": dict(parent),
    }
    return _write(model, meta, f"dcn+{parent.get('task', 'all')}" if use_vectors else "dcn", Path(out))


def score(checkpoint: RankerCheckpoint, data: RankingData) -> np.ndarray:
    """Probability that each impression is taken, float32 [I], in the order of ``data``."""
    if len(data) == 0:
        return np.empty(0, np.float32)
    if checkpoint.space is not None and data.space != checkpoint.space:
        raise VersionMixError(
            f"ranker {checkpoint.ranker_version} learned with vectors of the space {checkpoint.space!r}, "
            f"the data has {data.space!r}; train a ranking model on that space"
        )
    return torch.sigmoid(_logits(checkpoint.model, checkpoint.inputs.tensors(data))).numpy()


def _build_model(inputs: RankingInputs, dcn: DCNConfig) -> DCN:
    return DCN(inputs.sparse_rows, len(inputs.dense_statistics), inputs.vector_width, dcn)


def _fit(
    model: DCN,
    inputs: RankingInputs,
    train: RankingData,
    validation: RankingData,
    config: RankerConfig,
    seed: int,
    progress: RankerProgress | None,
) -> dict[str, float]:
    """Train in place, end with the best epoch's weights; the metrics of that epoch."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    tensors, labels = inputs.tensors(train), torch.from_numpy(train.labels_I)
    held_out, held_out_labels = inputs.tensors(validation), torch.from_numpy(validation.labels_I)
    shuffle = torch.Generator().manual_seed(seed)
    best, best_weights = {"validation_log_loss": float("inf")}, model.state_dict()
    for epoch in range(1, config.epochs + 1):
        order = torch.randperm(len(labels), generator=shuffle)
        train_loss = _train_epoch(model, optimizer, tensors, labels, order.split(config.batch_size))
        loss = binary_cross_entropy_with_logits(_logits(model, held_out), held_out_labels).item()
        _require_finite(loss, f"validation loss of epoch {epoch}")
        report = {"epoch": float(epoch), "train_loss": train_loss, "validation_log_loss": loss}
        if progress:
            progress(report)
        if loss < best["validation_log_loss"]:
            best, best_weights = report, copy.deepcopy(model.state_dict())
        elif epoch - best["epoch"] >= config.patience:
            break
    model.load_state_dict(best_weights)
    return best


def _train_epoch(
    model: DCN,
    optimizer: torch.optim.Optimizer,
    tensors: tuple[Tensor, ...],
    labels: Tensor,
    batches: tuple[Tensor, ...],
) -> float:
    """One pass over the data; the mean training loss."""
    model.train()
    total = 0.0
    for rows in batches:
        loss = binary_cross_entropy_with_logits(model(*(part[rows] for part in tensors)), labels[rows])
        _require_finite(loss.item(), "training loss")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item() * len(rows)
    return total / len(labels)


@torch.no_grad()
def _logits(model: DCN, tensors: tuple[Tensor, ...]) -> Tensor:
    model.eval()
    batches = zip(*(part.split(_SCORING_BATCH) for part in tensors), strict=True)
    return torch.cat([model(*batch) for batch in batches])


def _write(model: DCN, meta: dict[str, Any], name: str, out: Place) -> RankerCheckpoint:
    """Write the folder and open it again, so that the written model is the one in use."""
    weights = save({key: tensor.contiguous() for key, tensor in model.state_dict().items()})
    return RankerCheckpoint.open(write_model(out, name, {_WEIGHTS_FILE: weights}, meta, _META_FILE, "ranker_version"))


def _require_learnable(train: RankingData, validation: RankingData, use_vectors: bool) -> None:
    positives = int(train.labels_I.sum())
    if positives in (0, len(train)):
        raise NothingToLearnError(f"ranker: {positives} of {len(train)} training labels are 1; both classes are needed")
    if len(validation) == 0:
        raise NothingToLearnError("ranker: the validation split is empty; lower ranking_features.train_share")
    if use_vectors and train.vector_width == 0:
        raise NothingToLearnError(
            f"ranker: no training row has a vector of the space {train.space!r}; run jobs/embed_users.py"
        )
    if use_vectors and train.space != validation.space:
        raise VersionMixError(
            f"ranker: training vectors are of the space {train.space!r}, validation's of {validation.space!r}"
        )


def _require_finite(value: float, name: str) -> None:
    if not np.isfinite(value):
        raise TrainingError(f"ranker: {name} is {value}; lower ranker.learning_rate or check the dense features")
