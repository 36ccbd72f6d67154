"""Types and layouts of inference: the fastest type of a device, and linear layers prepared for a CPU once."""

from __future__ import annotations

import mmap
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["Compute", "fastest_dtype", "passing_in", "version_of"]

# A subclass or a wrapper, such as a low-rank adaptation, has its own forward.
_PLAIN = (nn.Linear, nn.Conv2d)


def fastest_dtype(device: torch.device) -> torch.dtype:
    """The type in which matrix products are fastest on a device: bfloat16 where it is made for it, else float32."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    if device.type == "cpu" and _cpu_has_bf16():
        return torch.bfloat16
    return torch.float32


def passing_in(dtype: torch.dtype, device: torch.device) -> AbstractContextManager[object]:
    """Has passes without gradients compute in `dtype`; those with gradients, and float32, are left as they are."""
    if dtype == torch.float32 or torch.is_grad_enabled():
        return nullcontext()
    return torch.autocast(device.type, dtype)


def _cpu_has_bf16() -> bool:
    # Named since torch 2.6 with an underscore; without it, the dot-product instructions count as absent.
    for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        probe = getattr(torch.cpu, name, None)
        if probe is not None and probe():
            return True
    return False


class Compute:
    """How passes without gradients compute: in which type, with weights prepared once for it.

    A prepared weight is used as long as its parameter is the same object at the same version, so that training between
    two passes is seen. Copies of a model prepare their own.

    Parameters
    ----------
    dtype
        Of weights and tokens inside the blocks; residuals, normalization and the embedding stay float32.
    """

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        self.dtype = dtype
        self._prepared: WeakKeyDictionary[nn.Module, tuple[Any, ...]] = WeakKeyDictionary()

    def __reduce__(self) -> tuple[type[Compute], tuple[torch.dtype]]:
        return Compute, (self.dtype,)

    def prepare(self, layers: Iterable[nn.Module]) -> None:
        """Prepare layers before a pass: between the tensors of one, their weights would break the heap up."""
        for layer in layers:
            weight = getattr(layer, "weight", None)
            if type(layer) in _PLAIN and isinstance(weight, Tensor):
                self._prepare(layer, weight)

    def linear(self, layer: nn.Module, tokens: Tensor, gelu: bool = False) -> Tensor:
        """`layer` on tokens of `dtype`, on a CPU, without gradients; with an exact GELU behind it if wanted."""
        weight = getattr(layer, "weight", None)
        if type(layer) not in _PLAIN or not isinstance(weight, Tensor):
            out: Tensor = layer(tokens.float()).to(self.dtype)
            return F.gelu(out) if gelu else out
        prepared, bias, is_packed = self._prepare(layer, weight)
        if not is_packed:
            out = F.linear(tokens, prepared, bias)
            return F.gelu(out) if gelu else out
        name, algorithm = ("gelu", "none") if gelu else ("none", "")
        packed: Tensor = torch.ops.mkldnn._linear_pointwise(tokens, prepared, bias, name, [], algorithm)
        return packed

    def bias(self, layer: nn.Module, width: int) -> Tensor:
        """What `layer` gives for a token of zeros, (width,), of `dtype`."""
        if type(layer) is nn.Linear:
            bias = layer.bias
            return torch.zeros(width, dtype=self.dtype) if bias is None else bias.detach().to(self.dtype)
        parameter = next(layer.parameters())
        zeros = torch.zeros(1, getattr(layer, "in_features", width // 3), dtype=parameter.dtype)
        out: Tensor = layer(zeros)[0].to(self.dtype)
        return out

    def _prepare(self, layer: nn.Module, weight: Tensor) -> tuple[Tensor, Tensor | None, bool]:
        bias = getattr(layer, "bias", None)
        entry = self._prepared.get(layer)
        if entry is not None:
            dtype, known_weight, weight_version, known_bias, bias_version, prepared = entry
            same_bias = known_bias is bias and version_of(bias) == bias_version
            if dtype is self.dtype and known_weight is weight and version_of(weight) == weight_version and same_bias:
                return prepared  # type: ignore[no-any-return]
        with torch.inference_mode(False), torch.no_grad():
            matrix = _matrix_of(weight.detach().flatten(1), self.dtype)
            vector = None if bias is None else bias.detach().to(self.dtype)
            prepared = _pack(matrix, vector)
        self._prepared[layer] = (self.dtype, weight, version_of(weight), bias, version_of(bias), prepared)
        return prepared


def version_of(parameter: Tensor | None) -> int:
    """Number of changes in place; tensors made in inference mode cannot say, and do not change."""
    return -1 if parameter is None or parameter.is_inference() else parameter._version


def _matrix_of(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """A weight in another type, in memory that goes back to the system as a whole.

    On the heap, where it goes when it has been packed, its place would stay a gap: nearly as much memory again.
    """
    if weight.dtype == dtype:
        return weight
    size = weight.numel() * torch.empty((), dtype=dtype).element_size()
    return torch.frombuffer(mmap.mmap(-1, size), dtype=dtype).view(weight.shape).copy_(weight)


def _pack(matrix: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None, bool]:
    """Weights in oneDNN's own order where this torch can give it, else as they are."""
    operators = torch.ops.mkldnn
    if not (
        torch.backends.mkldnn.is_available()
        and hasattr(operators, "_reorder_linear_weight")
        and hasattr(operators, "_linear_pointwise")
    ):
        return matrix.contiguous(), bias, False
    try:
        packed = operators._reorder_linear_weight(matrix.contiguous(), None)
        # One token shows whether this build also runs what it packed, gelu included.
        operators._linear_pointwise(
            torch.zeros(1, matrix.shape[1], dtype=matrix.dtype), packed, bias, "gelu", [], "none"
        )
    except (RuntimeError, TypeError, NotImplementedError):
        return matrix.contiguous(), bias, False
    return packed, bias, True
