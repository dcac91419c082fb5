"""K-FAC (Martens & Grosse, 2015): the Kronecker metric alone, without coupling and without a second pass."""

from __future__ import annotations

import torch
from torch import Tensor

from curvature import KroneckerFactors, KroneckerOptions, input_factors, output_factors, passes, terminal_weights
from networks import Network
from trainer import Losses


class Kfac:
    """The optimizer and its state: u ← u − η A⁻¹ (aᵀg/B) Γ⁻¹."""

    def __init__(self, network: Network, options: KroneckerOptions, learning_rate: float) -> None:
        self._network = network
        self._options = options
        self.learning_rate = learning_rate
        self._factors = [KroneckerFactors(stage, options) for stage in network.stages]

    def step(self, inputs: Tensor, labels: Tensor) -> Losses:
        """Both passes, the factors, and the preconditioned gradient."""
        first = passes(self._network, inputs, labels)
        with torch.no_grad():
            weights = terminal_weights(first.losses, self._options)
            for index, stage in enumerate(self._network.stages):
                factors = self._factors[index]
                inputs = input_factors(stage, first.states[index])
                outputs = output_factors(stage, first.outputs[index])
                factors.update(inputs, outputs, weights)
                a, g = inputs.flatten(0, -2), outputs.flatten(0, -2)
                # A⁻¹ meets whichever has less to multiply: the rows of a or the columns of the gradient.
                if len(a) < g.shape[1]:
                    change = (a @ factors.inverse_input).T @ (g @ factors.inverse_output)
                else:
                    change = factors.inverse_input @ (a.T @ g) @ factors.inverse_output
                stage.layer.matrix.sub_(change, alpha=self.learning_rate / len(labels))
            return Losses(float(first.losses.mean()))
