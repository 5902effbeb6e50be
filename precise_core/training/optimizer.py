"""AdamW over a model, with a sparse variant for large embedding tables, its learning rate, and its memory."""

from __future__ import annotations

import ctypes
import math
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from precise_core.errors import TrainingError
from precise_core.models.text_layers import TextLayers
from precise_core.training import collectives as distribution
from precise_core.training.config import OptimizerConfig

# mallopt's parameters (glibc's malloc.h).
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
_NEVER = 2**31 - 1


def learning_rate_at(step: int, total_steps: int, config: OptimizerConfig) -> float:
    """Linear warm-up over the first steps (at most half of all), then a cosine to ``final_share`` of it."""
    warmup = min(config.warmup_steps, total_steps // 2)
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    progress = (step - warmup) / max(1, total_steps - warmup)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return config.learning_rate * (config.final_share + (1 - config.final_share) * cosine)


class Optimizer:
    """AdamW; tables of more than ``sparse_above_rows`` rows take part with the rows of the batch only.

    The layers of a language model learn at a rate of their own: they start from what it has learnt elsewhere.

    A dense step reads and writes every row of a table, moments included, for a few thousand rows that had a gradient.
    The sparse step (torch's SparseAdam) touches those alone. It is not the same: an untouched row keeps its moments
    and has no weight decay. On several ranks all tables are dense, because gloo adds up dense gradients only.

    Args:
        model: Parameters that need a gradient now; freezing one later leaves it as it is.
    """

    def __init__(self, model: nn.Module, config: OptimizerConfig) -> None:
        self._config, self._model = config, model
        tables = [module for module in model.modules() if isinstance(module, nn.Embedding)]
        can_be_sparse = distribution.world_size() == 1
        for table in tables:
            table.sparse = can_be_sparse and table.num_embeddings > config.sparse_above_rows
        sparse = {id(table.weight) for table in tables if table.sparse}
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        dense_rows = [parameter for parameter in trained if id(parameter) not in sparse]
        sparse_rows = [parameter for parameter in trained if id(parameter) in sparse]
        betas = (config.beta1, config.beta2)
        rate = config.learning_rate
        layers = {id(p) for module in model.modules() if isinstance(module, TextLayers) for p in module.parameters()}
        groups = [
            {"params": [p for p in dense_rows if id(p) not in layers], "share": 1.0},
            {"params": [p for p in dense_rows if id(p) in layers], "share": config.text_layers_share},
        ]
        groups = [group for group in groups if group["params"]]
        self._parts: dict[str, torch.optim.Optimizer] = {
            "dense": torch.optim.AdamW(groups, lr=rate, betas=betas, weight_decay=config.weight_decay, fused=True)
        }
        if sparse_rows:
            self._parts["sparse"] = torch.optim.SparseAdam(sparse_rows, lr=rate, betas=betas)

    @property
    def learning_rate(self) -> float:
        return float(self._parts["dense"].param_groups[0]["lr"])

    def zero_grad(self) -> None:
        for part in self._parts.values():
            part.zero_grad(set_to_none=True)

    def step(self, learning_rate: float, divide_by: float = 1.0) -> None:
        """One update with the gradients at hand, divided by ``divide_by`` and clipped to ``clip_norm``.

        Raises:
            TrainingError: A gradient is not finite; no parameter was changed.
        """
        norms = {name: torch.linalg.vector_norm(values) for name, values in self._gradients()}
        norm = float(torch.linalg.vector_norm(torch.stack(list(norms.values()))))
        if not math.isfinite(norm):
            names = [name for name, value in norms.items() if not value.isfinite()] or list(norms)
            raise TrainingError(f"gradient is not finite: {', '.join(names[:3])}")
        scale = min(1 / divide_by, self._config.clip_norm / (norm + 1e-6 * divide_by))
        self._scale_gradients(scale)
        for part in self._parts.values():
            for group in part.param_groups:
                group["lr"] = learning_rate * group.get("share", 1.0)
            part.step()

    def _scale_gradients(self, scale: float) -> None:
        """Dense ones within the update itself, as for a GradScaler, which spares a pass over all of them."""
        dense: Any = self._parts["dense"]
        dense.grad_scale = torch.tensor(1 / scale, device=next(self._model.parameters()).device)
        for parameter in self._model.parameters():
            if parameter.grad is not None and parameter.grad.is_sparse:
                parameter.grad.values().mul_(scale)

    def _gradients(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Name and values of every gradient; of a sparse one, those of its rows, each row once."""
        for name, parameter in self._model.named_parameters():
            if parameter.grad is not None:
                if parameter.grad.is_sparse:
                    parameter.grad = parameter.grad.coalesce()
                yield name, parameter.grad.values() if parameter.grad.is_sparse else parameter.grad

    def tensors(self) -> dict[str, torch.Tensor]:
        """The moments and step counts, by name."""
        return {
            f"{name}/{row}/{key}": torch.as_tensor(value)
            for name, part in self._parts.items()
            for row, entry in part.state_dict()["state"].items()
            for key, value in entry.items()
        }

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Put back what ``tensors`` returned."""
        for name, part in self._parts.items():
            described = part.state_dict()
            state: dict[int, dict[str, torch.Tensor | int]] = {}
            for key, value in tensors.items():
                owner, row, entry = key.split("/")
                if owner == name:
                    is_count = entry == "step" and name == "sparse"  # SparseAdam counts with a plain number
                    state.setdefault(int(row), {})[entry] = int(value) if is_count else value
            part.load_state_dict({**described, "state": state})


def keep_freed_memory() -> None:
    """Have glibc take large blocks from the heap and keep them, for the rest of the process; elsewhere nothing.

    By default each large tensor of a step is a mapping of its own that is returned to the kernel when freed, and whose
    pages are faulted in and zeroed again in the next step: 13,000 page faults a step of a small model, a tenth of its
    time. The peak does not change; it is returned when the process ends.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is not None:
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, _NEVER)
