"""A GPU on paper: torch's fake CUDA tensors, which refuse to meet a tensor of the CPU, with real values beside them.

`FakeTensorMode` knows shapes and devices alone; what a loss computes depends on values (how many targets there are,
which experts are chosen). Here every operation is computed on the CPU, and the fake tensor holds the result. A backward
pass needs a real GPU.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._pytree import tree_flatten, tree_map_only

CPU, GPU = torch.device("cpu"), torch.device("cuda:0")
# What moves a tensor.
_MOVES = {torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default}


class GpuOnPaper(FakeTensorMode):
    """While it lasts, ``device="cuda"`` is answered with fake tensors that know their values.

    Raises:
        FakeTensorDeviceMismatchError: An operation has tensors of both devices, by the rules of torch.
    """

    def dispatch(
        self,
        func: torch._ops.OpOverload,
        types: Sequence[type],  # noqa: ARG002
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is torch.ops.prim.device.default:
            return args[0].fake_device
        if torch.is_inference_mode_enabled():  # where operations arrive whole
            with self:
                parts = func.decompose(*args, **kwargs or {})
            if parts is not NotImplemented:
                return parts
        given = dict(kwargs or {})
        tensors = [leaf for leaf in tree_flatten((args, given))[0] if isinstance(leaf, torch.Tensor)]
        device = self._device(func, tensors, given.get("device"))
        wrappers = {id(tensor.real_tensor): tensor for tensor in tensors if isinstance(tensor, FakeTensor)}
        if "device" in given:
            given["device"] = CPU
        with torch._C._DisableTorchDispatch():
            found = func(*tree_map_only(FakeTensor, _real, args), **tree_map_only(FakeTensor, _real, given))

        def wrapped(real: torch.Tensor) -> torch.Tensor:
            if id(real) in wrappers:  # in place
                return wrappers[id(real)]
            return real if device == CPU else self.hold(real)

        return tree_map_only(torch.Tensor, wrapped, found)

    def hold(self, real: torch.Tensor) -> FakeTensor:
        """A fake CUDA tensor of these values."""
        with torch.inference_mode(False):
            with torch._C._DisableTorchDispatch():
                meta = torch.empty_strided(real.shape, real.stride(), dtype=real.dtype, device="meta")
            return FakeTensor(self, meta, GPU, real_tensor=real)

    def _device(self, func: torch._ops.OpOverload, tensors: Sequence[torch.Tensor], asked: Any) -> torch.device:
        """Where the result lies: as asked for, else where the tensors are, which must be one place."""
        if func in _MOVES:
            return tensors[0].device if asked is None else _placed(asked)
        if not tensors:
            return CPU if asked is None else _placed(asked)
        faked = [tensor if isinstance(tensor, FakeTensor) else self._on_cpu(tensor) for tensor in tensors]
        common = FakeTensor._find_common_device(func, faked)[0]
        return common if asked is None else _placed(asked)

    def _on_cpu(self, real: torch.Tensor) -> FakeTensor:
        with torch._C._DisableTorchDispatch():
            meta = torch.empty(real.shape, dtype=real.dtype, device="meta")
        return FakeTensor(self, meta, CPU)


@contextmanager
def bf16_on_paper() -> Iterator[None]:
    """Autocast by the rules of CUDA, which are not those of a CPU; ``torch.autocast`` needs a GPU."""
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    torch.set_autocast_enabled("cuda", True)
    torch.autocast_increment_nesting()
    try:
        yield
    finally:
        if not torch.autocast_decrement_nesting():
            torch.clear_autocast_cache()
        torch.set_autocast_enabled("cuda", False)


def values_of(tensor: torch.Tensor) -> torch.Tensor:
    """What a tensor holds, on whichever device, without its gradient."""
    return _real(tensor).detach() if isinstance(tensor, FakeTensor) else tensor.detach()


def _real(tensor: FakeTensor) -> torch.Tensor:
    assert tensor.real_tensor is not None
    return tensor.real_tensor


def _placed(asked: Any) -> torch.device:
    device = torch.device(asked)
    return GPU if device.type == "cuda" else device
