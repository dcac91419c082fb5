"""Stage-wise preconditioned gradient descent, in which K-FAC and EKFAC differ by the curvature of a stage."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from curvature import KroneckerOptions, input_factors, output_factors, passes, terminal_weights
from losses import Loss
from networks import Network, Stage
from trainer import Losses


class StageCurvature(Protocol):
    """P of one stage."""

    def precondition(self, inputs: Tensor, outputs: Tensor, weights: Tensor) -> Tensor:
        """P⁻¹ (1/B) Σ_i a_i g_iᵀ, [n, c], with this batch in P.

        Inputs [B, n] or [B, positions, n], gradients of the outputs alike, terminal weights [B].
        """


class NaturalGradient:
    """u ← u − η v, v ← μ v + P⁻¹∇: without coupling and without a second pass.

    Weights decay, biases do not: by ηλu beside the update (decoupled), the form that serves K-FAC best (Zhang et al., 2019).
    """

    def __init__(
        self,
        network: Network,
        loss: Loss,
        curvature: Callable[[Stage], StageCurvature],
        options: KroneckerOptions,
        learning_rate: float,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
    ) -> None:
        self._network = network
        self._loss = loss
        self._options = options
        self.learning_rate = learning_rate
        self._momentum = momentum
        self._weight_decay = weight_decay
        self._curvatures = [curvature(stage) for stage in network.stages]
        self._velocities = [torch.zeros_like(stage.layer.matrix) for stage in network.stages] if momentum > 0 else None

    def step(self, inputs: Tensor, labels: Tensor) -> Losses:
        """Both passes, the curvature, and the preconditioned gradient."""
        first = passes(self._network, self._loss, inputs, labels)
        with torch.no_grad():
            weights = terminal_weights(first.losses, self._options)
            for index, stage in enumerate(self._network.stages):
                a = input_factors(stage, first.states[index])
                g = output_factors(stage, first.outputs[index])
                change = self._curvatures[index].precondition(a, g, weights)
                if self._velocities is not None:
                    change = self._velocities[index].mul_(self._momentum).add_(change)
                matrix = stage.layer.matrix
                if self._weight_decay > 0:
                    matrix[:-1].mul_(1 - self.learning_rate * self._weight_decay)
                matrix.sub_(change, alpha=self.learning_rate)
            return Losses(float(first.losses.mean()))
