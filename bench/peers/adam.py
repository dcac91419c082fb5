"""Adam as PyTorch's users run it, and inputs whitened once for it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from networks import Network
from trainer import Losses


class Adam:
    """torch.optim.Adam, fused, on a module of PyTorch's own layers."""

    def __init__(self, network: Network, learning_rate: float) -> None:
        self._network = network
        self._module = network.module()
        self._optimizer = torch.optim.Adam(self._module.parameters(), lr=learning_rate, fused=True)

    @property
    def learning_rate(self) -> float:
        return float(self._optimizer.param_groups[0]["lr"])

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        self._optimizer.param_groups[0]["lr"] = value

    def step(self, inputs: Tensor, labels: Tensor) -> Losses:
        """Forward, backward, update."""
        self._optimizer.zero_grad()
        loss = functional.cross_entropy(self._module(inputs), labels)
        loss.backward()
        self._optimizer.step()
        return Losses(float(loss.detach()))

    def store(self) -> None:
        """Hands the trained parameters to the network."""
        self._network.take_module(self._module)


class Whitening:
    """x ↦ (x − mean) U (Λ + d I)^−½, of the largest eigenvalues of the samples' covariance; d in mean eigenvalues."""

    def __init__(self, samples: Tensor, rank: int, damping: float) -> None:
        self._mean = samples.mean(0)
        centred = samples - self._mean
        values, vectors = torch.linalg.eigh(centred.T @ centred / len(samples))
        damped = values[-rank:].clamp_min(0) + damping * values.mean()
        self._transform = vectors[:, -rank:] / damped.sqrt()

    def __call__(self, samples: Tensor) -> Tensor:
        return (samples - self._mean) @ self._transform
