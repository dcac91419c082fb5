"""One DDPNOpt step in the batch-exact form, Kronecker metric and feedback: the peer of the service's own engine.

The formulas are those of docs/algorithm.md; what differs is what suits PyTorch. With explicit inverses of the factors,
the transformed gradients J̃ = J P⁻¹ serve twice, for N = η J̃ Jᵀ and for δu = −η J̃ᵀκ.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from curvature import (
    KroneckerFactors,
    KroneckerOptions,
    input_factors,
    output_factors,
    passes,
    strips,
    terminal_weights,
)
from losses import Loss
from networks import Convolution, Network, Stage
from trainer import Losses


class Expansion(Protocol):
    """J of one stage, in the form that suits its layer."""

    def add_kernel(self, system: Tensor, learning_rate: float) -> None:
        """S ← S + η J P⁻¹Jᵀ, [B, B]: its lower triangle."""

    def kernel_diagonal(self) -> Tensor:
        """The diagonal of J P⁻¹Jᵀ, [B]."""

    def subtract_step(self, matrix: Tensor, coefficients: Tensor, learning_rate: float) -> None:
        """u ← u − η P⁻¹Jᵀκ."""


class DenseExpansion:
    """J in factors: row i is a_i ⊗ g_i."""

    def __init__(self, inputs: Tensor, outputs: Tensor, factors: KroneckerFactors) -> None:
        self._inputs, self._outputs = inputs, outputs
        self._transformed_inputs = inputs @ factors.inverse_input
        self._transformed_outputs = outputs @ factors.inverse_output

    def add_kernel(self, system: Tensor, learning_rate: float) -> None:
        for begin, end in strips(len(system)):
            input_kernel = self._transformed_inputs[begin:end] @ self._inputs[:end].T
            output_kernel = self._transformed_outputs[begin:end] @ self._outputs[:end].T
            system[begin:end, :end].addcmul_(input_kernel, output_kernel, value=learning_rate)

    def kernel_diagonal(self) -> Tensor:
        input_part = torch.linalg.vecdot(self._transformed_inputs, self._inputs)
        return input_part.mul_(torch.linalg.vecdot(self._transformed_outputs, self._outputs))

    def subtract_step(self, matrix: Tensor, coefficients: Tensor, learning_rate: float) -> None:
        weighted = self._transformed_outputs * coefficients[:, None]
        matrix.addmm_(self._transformed_inputs.T, weighted, alpha=-learning_rate)


class ConvolutionExpansion:
    """J explicitly: [B, c, n], the sum of a ⊗ g over a sample's positions."""

    def __init__(self, inputs: Tensor, outputs: Tensor, factors: KroneckerFactors) -> None:
        gradients = torch.bmm(outputs.mT, inputs)
        by_input = (gradients.flatten(0, 1) @ factors.inverse_input).view_as(gradients)
        self._shape = gradients.shape[1:]
        self._gradients = gradients.flatten(1)
        self._transformed = torch.matmul(factors.inverse_output, by_input).flatten(1)

    def add_kernel(self, system: Tensor, learning_rate: float) -> None:
        for begin, end in strips(len(system)):
            system[begin:end, :end].addmm_(self._transformed[begin:end], self._gradients[:end].T, alpha=learning_rate)

    def kernel_diagonal(self) -> Tensor:
        return torch.linalg.vecdot(self._transformed, self._gradients)

    def subtract_step(self, matrix: Tensor, coefficients: Tensor, learning_rate: float) -> None:
        change = torch.mv(self._transformed.T, coefficients).view(self._shape)
        matrix.sub_(change.T, alpha=learning_rate)


class DdpNopt:
    """The optimizer and its state.

    Weights decay, biases do not: by λ(η/η_peak)u beside the policy, the service's `decoupled`.
    """

    def __init__(
        self,
        network: Network,
        loss: Loss,
        options: KroneckerOptions,
        learning_rate: float,
        batch_coupling: str = "full",
        weight_decay: float = 0.0,
    ) -> None:
        if batch_coupling not in ("full", "diagonal"):
            raise ValueError(f"the peer has no batch coupling {batch_coupling}")
        self._network = network
        self._loss = loss
        self._options = options
        self.learning_rate = self._peak_learning_rate = learning_rate
        self._weight_decay = weight_decay
        self._is_full = batch_coupling == "full"
        self._factors = [KroneckerFactors(stage, options) for stage in network.stages]

    def step(self, inputs: Tensor, labels: Tensor) -> Losses:
        """A whole training step: both passes, curvature, recursion, and the second forward pass with the changes."""
        stages = self._network.stages
        first = passes(self._network, self._loss, inputs, labels)
        with torch.no_grad():
            weights = terminal_weights(first.losses, self._options)
            expansions = [
                self._expand(stage, factors, state, gradient, weights)
                for stage, factors, state, gradient in zip(
                    stages, self._factors, first.states, first.outputs, strict=True
                )
            ]
            systems = self._value_recursion(expansions, weights)
            target = weights.reciprocal()
            changed = inputs
            decay = self._weight_decay * self.learning_rate / self._peak_learning_rate
            for index, stage in enumerate(stages):
                gradient = first.state_gradients[index]
                right = (
                    target if gradient is None else target + _predicted_change(gradient, changed, first.states[index])
                )
                coefficients = self._solve(systems[index], right)
                if decay > 0:
                    stage.layer.matrix[:-1].mul_(1 - decay)
                expansions[index].subtract_step(stage.layer.matrix, coefficients, self.learning_rate)
                changed = stage(changed)
            after = self._loss(changed, labels).mean()
            return Losses(float(first.losses.mean()), float(after))

    def _expand(
        self, stage: Stage, factors: KroneckerFactors, state: Tensor, gradient: Tensor, weights: Tensor
    ) -> Expansion:
        inputs, outputs = input_factors(stage, state), output_factors(stage, gradient)
        factors.update(inputs, outputs, weights)
        expansion = ConvolutionExpansion if isinstance(stage.layer, Convolution) else DenseExpansion
        return expansion(inputs, outputs, factors)

    def _value_recursion(self, expansions: list[Expansion], weights: Tensor) -> list[Tensor]:
        """S_t = B·H⁻¹ + Σ_{τ≥t} N_τ from the last stage to the first: their Cholesky factors, or their diagonals."""
        later = len(weights) / weights
        if not self._is_full:
            diagonals = []
            for expansion in reversed(expansions):
                later = torch.add(later, expansion.kernel_diagonal(), alpha=self.learning_rate)
                diagonals.append(later)
            return diagonals[::-1]
        system = torch.diag(later)
        triangles = []
        for expansion in reversed(expansions):
            expansion.add_kernel(system, self.learning_rate)
            triangle, info = torch.linalg.cholesky_ex(system)
            if int(info) != 0:
                raise ArithmeticError("the step overflows")
            triangles.append(triangle)
        return triangles[::-1]

    def _solve(self, system: Tensor, right: Tensor) -> Tensor:
        """κ with S κ = right."""
        return torch.cholesky_solve(right[:, None], system)[:, 0] if self._is_full else right / system


def _predicted_change(gradient: Tensor, changed: Tensor, state: Tensor) -> Tensor:
    """s = Gᵀ(x̂ − x), [B]."""
    return (gradient * (changed - state)).sum(tuple(range(1, state.dim())))
