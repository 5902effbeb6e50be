"""The few collective operations that training on several ranks needs; all do nothing on one rank."""

from __future__ import annotations

from typing import TypeVar

import torch
import torch.distributed as dist
from torch import nn

ValueT = TypeVar("ValueT")


def is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    return dist.get_rank() if is_distributed() else 0


def world_size() -> int:
    return dist.get_world_size() if is_distributed() else 1


def average_gradients(model: nn.Module) -> None:
    """Replace every gradient by its mean over the ranks; a rank without one contributes zero."""
    if world_size() == 1:
        return
    for parameter in model.parameters():
        if parameter.requires_grad:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            dist.all_reduce(parameter.grad)
            parameter.grad /= world_size()


def from_first_rank(value: ValueT) -> ValueT:
    """Rank 0's value on every rank, so that all take the same decision; also a point where they meet."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def any_rank(flag: bool) -> bool:
    """True on every rank if it is true on one."""
    if world_size() == 1:
        return flag
    votes = torch.tensor([int(flag)])
    dist.all_reduce(votes)
    return bool(votes.item())
