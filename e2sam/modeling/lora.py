"""Low-rank adaptation (LoRA) of linear layers: trained apart, merged into the weights when saved.

Hu et al. (2021), "LoRA: Low-Rank Adaptation of Large Language Models": W + (alpha / r) B A, with B = 0 at first.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from e2sam.errors import TrainingError

__all__ = ["LoRALinear", "add_lora", "load_lora_state", "lora_layers", "lora_state", "merge_lora", "remove_lora"]


class LoRALinear(nn.Linear):
    """A linear layer whose weight is frozen and whose low-rank change is trained.

    Names of weight and bias stay those of the layer that it replaces.

    Parameters
    ----------
    linear
        The layer; its parameters are shared, and frozen.
    rank
        Rank of the change.
    alpha
        Scale of the change, alpha / rank; `rank` if None.
    """

    def __init__(self, linear: nn.Linear, rank: int, alpha: float | None = None) -> None:
        if rank < 1:
            raise TrainingError(f"Expected a LoRA rank of at least 1, got {rank}.")
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight = linear.weight.requires_grad_(False)
        self.register_parameter("bias", linear.bias)
        if linear.bias is not None:
            linear.bias.requires_grad_(False)
        self.scale = (rank if alpha is None else alpha) / rank
        self.lora_a = nn.Parameter(linear.weight.new_empty(rank, linear.in_features))
        self.lora_b = nn.Parameter(linear.weight.new_zeros(linear.out_features, rank))
        nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))
        self.is_merged = False

    @property
    def delta(self) -> Tensor:
        """(out, in) change of the weight."""
        return self.scale * (self.lora_b @ self.lora_a)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) to (..., out)."""
        out = F.linear(x, self.weight, self.bias)
        if self.is_merged:
            return out
        return out + self.scale * F.linear(F.linear(x, self.lora_a), self.lora_b)

    @torch.no_grad()
    def merge(self) -> None:
        """Add the change to the weight; nothing if it is there already."""
        if not self.is_merged:
            self.weight += self.delta
            self.is_merged = True

    @torch.no_grad()
    def unmerge(self) -> None:
        """Take the change out of the weight again."""
        if self.is_merged:
            self.weight -= self.delta
            self.is_merged = False


def add_lora(
    blocks: Iterable[nn.Module], rank: int = 8, alpha: float | None = None, names: tuple[str, ...] = ("qkv", "proj")
) -> list[nn.Parameter]:
    """Replace linear layers of these names within blocks (all of an encoder's, or its last ones) by `LoRALinear`.

    Returns
    -------
    list
        The parameters to train.

    Raises
    ------
    TrainingError
        If there is no such layer: convolutional encoders are trained whole, or by their last stages.
    """
    trained: list[nn.Parameter] = []
    for block in blocks:
        for parent in list(block.modules()):
            for name, child in list(parent.named_children()):
                if name in names and isinstance(child, nn.Linear) and not isinstance(child, LoRALinear):
                    layer = LoRALinear(child, rank, alpha)
                    setattr(parent, name, layer)
                    trained += [layer.lora_a, layer.lora_b]
    if not trained:
        raise TrainingError(
            f"Expected linear layers named {' or '.join(names)} for LoRA, found none: tune this encoder in full."
        )
    return trained


def lora_layers(module: nn.Module) -> dict[str, LoRALinear]:
    """Every LoRA layer by name."""
    return {name: layer for name, layer in module.named_modules() if isinstance(layer, LoRALinear)}


def merge_lora(module: nn.Module) -> None:
    """Merge the change of every LoRA layer into its weight."""
    for layer in lora_layers(module).values():
        layer.merge()


def remove_lora(module: nn.Module) -> None:
    """Merge every change, then put plain linear layers back."""
    for name, layer in lora_layers(module).items():
        layer.merge()
        plain = nn.Linear(layer.in_features, layer.out_features, layer.bias is not None, device="meta")
        plain.weight = layer.weight
        plain.bias = layer.bias
        owner, _, attribute = name.rpartition(".")
        setattr(module.get_submodule(owner), attribute, plain)


def lora_state(module: nn.Module) -> dict[str, Tensor]:
    """The changes alone, by name: 1.2 MB in bfloat16 for ViT-B at rank 8."""
    return {
        f"{name}.{part}": getattr(layer, part).detach()
        for name, layer in lora_layers(module).items()
        for part in ("lora_a", "lora_b")
    }


def load_lora_state(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Put changes back that `lora_state` gave.

    Raises
    ------
    TrainingError
        If the layers or their ranks are others.
    """
    own = lora_state(module)
    if own.keys() != state.keys() or any(own[name].shape != state[name].shape for name in own):
        raise TrainingError(f"Expected the changes of {len(own) // 2} LoRA layers of the same rank, got others.")
    merged = [layer for layer in lora_layers(module).values() if layer.is_merged]
    for layer in merged:
        layer.unmerge()
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(state[name])
    for layer in merged:
        layer.merge()
