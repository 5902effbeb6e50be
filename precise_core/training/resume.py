"""The state of a training in progress, so that a killed run continues at the exact step.

<out>/.resume-<task>/step-<n>/  state.safetensors   weights, best weights, optimizer moments, id table of phase 1
                                state.json          counters, log, and what training this belongs to
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from precise_core.errors import CheckpointError
from precise_core.store.local import atomic_folder
from precise_core.training.optimizer import Optimizer

# Raise it with every change of `Counters` or of the tensors, so that states of another format are not read.
_FORMAT = 2


@dataclass
class Counters:
    """Where a training is. Loss sums are since the last line of the log; ``phase`` is that of alternate training.

    ``seconds`` are those of training so far, without what a kill has lost.
    """

    step: int = 0
    epoch: int = 1
    batch_in_epoch: int = 0
    phase: int = 2
    best_epoch: int = 0
    best_metric: float = -1.0
    epochs_without_gain: int = 0
    is_finished: bool = False
    loss_sum: float = 0.0
    loss_count: int = 0
    seconds: float = 0.0
    log: list[dict[str, Any]] = field(default_factory=list)


class ResumeStore:
    """Writes and reads the state of one training.

    Args:
        identity: Everything that decides the outcome (configuration, seed, table versions). State of another identity
            or format is ignored.
    """

    def __init__(self, folder: Path, identity: dict[str, Any]) -> None:
        self.folder = folder
        described = json.dumps({"format": _FORMAT, **identity}, sort_keys=True)
        self._identity = hashlib.sha256(described.encode()).hexdigest()

    def save(
        self,
        counters: Counters,
        model: nn.Module,
        best: dict[str, torch.Tensor],
        ids_before: torch.Tensor,
        optimizer: Optimizer,
    ) -> None:
        """Write the state of this step beside the previous one, then drop the previous one.

        Tensors of a GPU are copied to the CPU first: a training may go on on another device.
        """
        tensors = {f"model/{name}": tensor for name, tensor in model.state_dict().items()}
        tensors |= {f"best/{name}": tensor for name, tensor in best.items()}
        tensors |= {f"optimizer/{name}": tensor for name, tensor in optimizer.tensors().items()}
        tensors["ids_before"] = ids_before
        final = self.folder / f"step-{counters.step:09d}"
        with atomic_folder(final) as draft:
            copies = {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}
            save_file(copies, str(draft / "state.safetensors"))
            (draft / "state.json").write_text(json.dumps({"identity": self._identity, **asdict(counters)}))
        for older in self.folder.iterdir():  # the previous step, and what a killed process has left
            if older != final:
                shutil.rmtree(older)

    def load(
        self, model: nn.Module, optimizer: Optimizer
    ) -> tuple[Counters, dict[str, torch.Tensor], torch.Tensor] | None:
        """Put the newest state of this training into model and optimizer; None where there is none.

        Raises:
            CheckpointError: The state is damaged; the message says what to delete.
        """
        newest = max(self.folder.glob("step-*"), default=None)
        if newest is None:
            return None
        try:
            described = json.loads((newest / "state.json").read_text())
            if described.pop("identity") != self._identity:
                return None
            tensors = load_file(str(newest / "state.safetensors"))
            model.load_state_dict(_under(tensors, "model/"))
            optimizer.restore(_under(tensors, "optimizer/"))
            return Counters(**described), _under(tensors, "best/"), tensors["ids_before"]
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            raise CheckpointError(f"{newest}: damaged; delete {self.folder} to train from the start") from error

    def clear(self) -> None:
        """Remove the state: the training is finished."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _under(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
