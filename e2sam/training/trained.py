"""The weights that a run changes: trained parameters, buffers and their running average."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from e2sam.training.state import load_tensors

__all__ = ["TrainedWeights"]


class TrainedWeights:
    """Parameters with `requires_grad` and saved buffers of a module, with an exponential average of the parameters.

    Parameters
    ----------
    module
        On its device already.
    decay
        Of the average; 0 = none, the weights themselves are validated and saved.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self._decay = decay
        saved = module.state_dict()
        self.names = {p: name for name, p in module.named_parameters() if p.requires_grad}
        self.buffers = {name: buffer for name, buffer in module.named_buffers() if name in saved}
        self._averages = {name: p.detach().clone() for p, name in self.names.items()} if decay else {}

    @property
    def _parameters(self) -> dict[str, Tensor]:
        return {name: parameter for parameter, name in self.names.items()}

    @torch.no_grad()
    def average(self, step: int) -> None:
        """Take the weights after `step` (0 = the first) into the average."""
        # A young average forgets faster, else the starting weights would stay in it for a whole short run.
        decay = min(self._decay, (1 + step) / (10 + step))
        parameters = self._parameters
        for name, average in self._averages.items():
            average.lerp_(parameters[name].detach(), 1 - decay)

    @torch.no_grad()
    def restart(self) -> None:
        """Let the average be the weights as they are now."""
        parameters = self._parameters
        for name, average in self._averages.items():
            average.copy_(parameters[name])

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The module with its averaged weights, then with its own again."""
        with _restored(self._parameters if self._averages else {}):
            parameters = self._parameters
            with torch.no_grad():
                for name, average in self._averages.items():
                    parameters[name].copy_(average)
            yield

    @contextmanager
    def loaded(self, tensors: Mapping[str, Tensor]) -> Iterator[None]:
        """The module with the weights of `kept_tensors`, then with its own again."""
        with _restored(self._parameters | self.buffers):
            load_tensors(self._parameters, tensors, "module")
            load_tensors(self.buffers, tensors, "buffer")
            yield

    def kept_tensors(self) -> dict[str, Tensor]:
        """What would be saved now: averaged parameters, and buffers."""
        return _named("module", self._averages or self._parameters) | _named("buffer", self.buffers)

    def tensors(self) -> dict[str, Tensor]:
        """All that a resumed run needs."""
        return _named("module", self._parameters) | _named("buffer", self.buffers) | _named("average", self._averages)

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what `tensors` gave."""
        load_tensors(self._parameters, tensors, "module")
        load_tensors(self.buffers, tensors, "buffer")
        load_tensors(self._averages, tensors, "average")


def _named(kind: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{kind}/{name}": tensor for name, tensor in tensors.items()}


@contextmanager
def _restored(targets: Mapping[str, Tensor]) -> Iterator[None]:
    own = {name: target.detach().clone() for name, target in targets.items()}
    try:
        yield
    finally:
        with torch.no_grad():
            for name, target in targets.items():
                target.copy_(own[name])
