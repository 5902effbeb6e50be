"""Where a training computes (`universal.device`, `targeted.device`), and what that changes of the process.

Everything is computed on the device of the model, but for the draws of a run's own generator (targets, negatives,
masks, cuts): they are drawn on the CPU and moved, so that a run draws the same on every device.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from precise_core.errors import TrainingError
from precise_core.training import collectives as distribution
from precise_core.training.config import Device, Precision


def training_device(stage: str, asked: Device) -> torch.device:
    """`auto` = the GPU where torch finds one, else the CPU; on several ranks, which exchange by gloo, the CPU.

    Raises:
        TrainingError: `cuda` is asked for and there is no GPU.
    """
    if asked == "cuda" and not torch.cuda.is_available():
        raise TrainingError(f"{stage}.device cuda: torch finds no GPU on this machine; set it to auto or cpu")
    if asked == "cpu" or distribution.world_size() > 1 or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())


def uses_bf16(precision: Precision, device: torch.device) -> bool:
    """Whether a training computes with autocast to bf16; `auto` = on a GPU that has it."""
    if precision == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return precision == "bf16"


@contextmanager
def computing_on(device: torch.device) -> Iterator[None]:
    """Leave the caller's draws as they are; on a GPU multiply float32 matrices in TF32 while it lasts."""
    if device.type == "cpu":
        with torch.random.fork_rng(devices=[]):
            yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        with torch.random.fork_rng(devices=[device]):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def seed_draws(device: torch.device, seed: int) -> None:
    """Seed what modules draw from (dropout): the CPU's generator and, where a GPU computes, that one's."""
    # torch.manual_seed would seed every other kind of device too.
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
