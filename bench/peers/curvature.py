"""What DDPNOpt, K-FAC and EKFAC share: per-sample gradients of a batch, terminal weights and Kronecker factors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from losses import Loss
from networks import Convolution, Network, Stage

STRIP = 192


def strips(size: int) -> list[tuple[int, int]]:
    """Ranges of rows in which a symmetric product's lower triangle is made; a Cholesky factorisation reads no more."""
    return [(begin, min(begin + STRIP, size)) for begin in range(0, size, STRIP)]


@dataclass(frozen=True)
class KroneckerOptions:
    """Options of the metric P = (A + πγ^½ I) ⊗ (Γ + γ^½/π I), and of the weights h = clamp(1/(2φ), floor, ceiling)."""

    damping: float = 0.01
    decay: float = 0.95
    statistics_every: int = 1
    refresh_every: int = 10
    floor: float = 0.5
    ceiling: float = 100.0

    @staticmethod
    def of(request: Mapping[str, Any]) -> KroneckerOptions:
        defaults = KroneckerOptions()
        scale: Mapping[str, float] = request.get("lossScale", {})
        return KroneckerOptions(
            damping=request.get("damping", defaults.damping),
            decay=request.get("decay", defaults.decay),
            statistics_every=request.get("statisticsEvery", defaults.statistics_every),
            refresh_every=request.get("refreshEvery", defaults.refresh_every),
            floor=scale.get("floor", defaults.floor),
            ceiling=scale.get("ceiling", defaults.ceiling),
        )


@dataclass(frozen=True)
class Passes:
    """A forward and a backward pass over a batch, one entry a stage."""

    losses: Tensor
    """φ, [B]."""
    states: list[Tensor]
    """x, the stages' inputs."""
    outputs: list[Tensor]
    """∂φ/∂(pre-activation) of each sample's own loss."""
    state_gradients: list[Tensor | None]
    """G = ∂φ/∂x; None for the first stage, whose input does not change."""


def passes(network: Network, loss: Loss, inputs: Tensor, labels: Tensor) -> Passes:
    """Both passes, without gradients in the parameters: those follow from the factors."""
    states, pre_activations = [inputs], []
    for index, stage in enumerate(network.stages):
        pre_activation = stage.layer(states[-1])
        if index == 0:
            pre_activation.requires_grad_()
        pre_activations.append(pre_activation)
        states.append(stage.after(pre_activation))
    losses = loss(states.pop(), labels)
    # The samples' losses do not depend on each other: the gradient of their sum holds every sample's own.
    gradients = torch.autograd.grad(losses.sum(), [*pre_activations, *states[1:]])
    outputs, state_gradients = gradients[: len(states)], gradients[len(states) :]
    return Passes(losses.detach(), [state.detach() for state in states], list(outputs), [None, *state_gradients])


def terminal_weights(losses: Tensor, options: KroneckerOptions) -> Tensor:
    """h, [B]."""
    return (0.5 / losses.clamp_min(0.5 / options.ceiling)).clamp_min_(options.floor)


def input_factors(stage: Stage, state: Tensor) -> Tensor:
    """The stage's inputs with a one for the bias: [B, n + 1], or [B, positions, n + 1] for a convolution."""
    if isinstance(stage.layer, Convolution):
        return stage.layer.patches(state)
    return functional.pad(state, (0, 1), value=1.0)


def output_factors(stage: Stage, gradient: Tensor) -> Tensor:
    """The gradients in its outputs: [B, c], or [B, positions, c] for a convolution."""
    if isinstance(stage.layer, Convolution):
        return gradient.permute(0, 2, 3, 1).flatten(1, 2)
    return gradient


class FactorAverages:
    """A = E[Σ_p a aᵀ] and Γ = E[(1/P) Σ_p h g gᵀ] of one stage, averaged over the batches; their lower triangles."""

    def __init__(self, stage: Stage, options: KroneckerOptions) -> None:
        inputs, outputs = stage.layer.matrix.shape
        self.options = options
        self.input = stage.layer.matrix.new_zeros(inputs, inputs)
        self.output = stage.layer.matrix.new_zeros(outputs, outputs)
        self.steps = 0

    def update(self, inputs: Tensor, outputs: Tensor, weights: Tensor) -> bool:
        """Takes in a batch when it is due; whether what is made of the averages is due to be refreshed."""
        if self.steps % self.options.statistics_every == 0:
            batch = len(inputs)
            count = self.steps // self.options.statistics_every + 1
            share = (1 - self.options.decay) / (1 - self.options.decay**count)
            a, g = inputs.flatten(0, -2), outputs.flatten(0, -2)
            weighted = per_sample(weights, outputs).mul(outputs).flatten(0, -2)
            _average_product(self.input, a, a, share, batch)
            _average_product(self.output, weighted, g, share, len(g))
        self.steps += 1
        return (self.steps - 1) % self.options.refresh_every == 0


def per_sample(weights: Tensor, tensor: Tensor) -> Tensor:
    """Weights [B] in the shape that multiplies a tensor [B, …]."""
    return weights.view(-1, *[1] * (tensor.dim() - 1))


class KroneckerFactors:
    """The damped inverses of a stage's factors."""

    def __init__(self, stage: Stage, options: KroneckerOptions) -> None:
        self._averages = FactorAverages(stage, options)
        self.failures = 0
        self.inverse_input = torch.empty(0)
        self.inverse_output = torch.empty(0)

    def update(self, inputs: Tensor, outputs: Tensor, weights: Tensor) -> None:
        """Takes in a batch when it is due; refreshes the inverses when they are due."""
        if self._averages.update(inputs, outputs, weights):
            self._refresh()

    def _refresh(self) -> None:
        """Inverts both factors; where one cannot be factorised, the last good inverses stay."""
        factors = (self._averages.input, self._averages.output)
        means = [max(float(factor.diagonal().mean()), 1e-30) for factor in factors]
        split = math.sqrt(means[0] / means[1])
        root = math.sqrt(self._averages.options.damping)
        inverses = [_damped_inverse(factors[0], split * root), _damped_inverse(factors[1], root / split)]
        if inverses[0] is not None and inverses[1] is not None:
            self.inverse_input, self.inverse_output = inverses[0], inverses[1]
        elif self.inverse_input.numel() == 0:
            raise ArithmeticError("the first Kronecker factors have no factorisation")
        else:
            self.failures += 1


def _average_product(average: Tensor, left: Tensor, right: Tensor, share: float, count: int) -> None:
    """Average leftᵀ right / count, a symmetric product of which only the lower triangle is made."""
    for begin, end in strips(len(average)):
        average[begin:end, :end].addmm_(left[:, begin:end].T, right[:, :end], beta=1 - share, alpha=share / count)


def _damped_inverse(factor: Tensor, damping: float) -> Tensor | None:
    damped = factor.clone()
    damped.diagonal().add_(damping)
    triangle, info = torch.linalg.cholesky_ex(damped)
    return torch.cholesky_inverse(triangle) if int(info) == 0 else None
