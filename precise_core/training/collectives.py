"""The collective operations of training on several ranks; all do nothing on one rank."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn

ValueT = TypeVar("ValueT")

_is_alone = False


def is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    return dist.get_rank() if is_distributed() else 0


def world_size() -> int:
    return dist.get_world_size() if is_distributed() and not _is_alone else 1


@contextmanager
def alone() -> Iterator[None]:
    """While it lasts the operations below do nothing, so that one rank can compute what the others do not."""
    global _is_alone
    _is_alone = True
    try:
        yield
    finally:
        _is_alone = False


def add_up_gradients(model: nn.Module) -> None:
    """Replace every gradient by its sum over the ranks; a rank without one contributes zero."""
    if world_size() == 1:
        return
    for parameter in model.parameters():
        if parameter.requires_grad:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            dist.all_reduce(parameter.grad)


def add_up(*values: float) -> tuple[float, ...]:
    """The sum over the ranks of each value, on every rank, in one exchange."""
    if world_size() == 1:
        return values
    totals = torch.tensor(values, dtype=torch.double)
    dist.all_reduce(totals)
    return tuple(totals.tolist())


def gather_rows(rows_N: torch.Tensor) -> torch.Tensor:
    """The int64 rows of all ranks behind one another, in the order of ranks, on every rank."""
    if world_size() == 1:
        return rows_N
    return torch.cat(gather(rows_N))


def gather(value: ValueT) -> list[ValueT]:
    """The values of all ranks in the order of ranks, on every rank; none continues before all have arrived."""
    if world_size() == 1:
        return [value]
    parts: list[Any] = [None] * world_size()
    dist.all_gather_object(parts, value)
    return parts


def from_first_rank(value: ValueT) -> ValueT:
    """Rank 0's value on every rank, so that all take the same decision."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]
