"""How fast this machine multiplies matrices: the limit that encoders are held against."""

from __future__ import annotations

from time import perf_counter

import torch
from torch import Tensor
from torch.nn import functional as F

from e2sam.modeling.packed import Compute

__all__ = ["matrix_limit"]

# Rows, inner, columns: squares, and the layers of ViT-B.
_SHAPES = ((2048, 2048, 2048), (4096, 768, 2304), (4096, 768, 3072), (4096, 3072, 768))
_REPEATS = 5


def matrix_limit(dtype: torch.dtype, device: torch.device) -> float:
    """Best floating-point operations a second of large products, by any way this library knows."""
    best = 0.0
    for rows, inner, columns in _SHAPES:
        layer = torch.nn.Linear(inner, columns, bias=False, device=device, dtype=torch.float32).requires_grad_(False)
        weight = layer.weight.to(dtype)
        tokens = torch.randn(rows, inner, device=device, dtype=dtype)
        out = torch.empty(rows, columns, device=device, dtype=dtype)
        compute = Compute(dtype)
        ways = [lambda: F.linear(tokens, weight), lambda: torch.mm(tokens, weight.T, out=out)]  # noqa: B023
        if device.type == "cpu":
            ways.append(lambda: compute.linear(layer, tokens))  # noqa: B023
        for way in ways:
            best = max(best, 2.0 * rows * inner * columns / _seconds(way, device))
    return best


def _seconds(way: object, device: torch.device) -> float:
    assert callable(way)
    taken = []
    for _ in range(_REPEATS):
        start = perf_counter()
        result = way()
        assert isinstance(result, Tensor)
        if device.type == "cuda":
            torch.cuda.synchronize()
        taken.append(perf_counter() - start)
    return min(taken)
