"""E-MSA, the extended method of successive approximations.

Li, Chen, Tai & E, "Maximum Principle Based Algorithms for Deep Learning", JMLR 18 (2018), Algorithm 2 with the augmented
Hamiltonian of its section 3.2, in discrete time. With the states and the costates of the present parameters,

    x_{t+1} = f_t(x_t, θ_t),  p_T = −∇φ(x_T),  p_t = ∇_x H_t(x_t, p_{t+1}, θ_t),  H_t(x, p, θ) = pᵀf_t(x, θ) − (λ/2)‖θ‖²,

every layer maximises by itself

    H̃_t(θ) = mean_i [H_t(x_t, p_{t+1}, θ) − (ρ/2)‖x_{t+1} − f_t(x_t, θ)‖² − (ρ/2)‖p_t − ∇_x H_t(x_t, p_{t+1}, θ)‖²]

by a few iterations of L-BFGS with a line search, as in the paper's experiments. The sign of the last term is that of the paper
with its ṗ = −∇_x H. Weights decay by the running cost (λ/2)‖θ‖², biases do not.
"""

from __future__ import annotations

import torch
from torch import Tensor

from losses import Loss
from networks import Network, Stage
from trainer import Losses


class Emsa:
    """The optimizer. `learning_rate` is the share of the way to the maximiser that a step goes; 1 is the paper's method."""

    def __init__(
        self,
        network: Network,
        loss: Loss,
        learning_rate: float,
        penalty: float = 1.0,
        iterations: int = 10,
        weight_decay: float = 0.0,
    ) -> None:
        self._network = network
        self._loss = loss
        self.learning_rate = learning_rate
        self._penalty = penalty
        self._iterations = iterations
        self._weight_decay = weight_decay

    def step(self, inputs: Tensor, labels: Tensor) -> Losses:
        """Forward, backward, and every layer's maximisation, none of which depends on another's."""
        stages = self._network.stages
        states = [inputs.detach().clone().requires_grad_()]
        for stage in stages:
            states.append(stage(states[-1]))
        losses = self._loss(states[-1], labels)
        costates = [-gradient for gradient in torch.autograd.grad(losses.sum(), states)]
        states = [state.detach() for state in states]
        for index, stage in enumerate(stages):
            maximiser = self._maximise(stage, states[index : index + 2], costates[index : index + 2])
            with torch.no_grad():
                stage.layer.matrix.lerp_(maximiser, self.learning_rate)
        return Losses(float(losses.detach().mean()))

    def _maximise(self, stage: Stage, states: list[Tensor], costates: list[Tensor]) -> Tensor:
        """Argmax of H̃ from the present parameters on, as far as the iterations go."""
        matrix = stage.layer.matrix.clone().requires_grad_()
        optimizer = torch.optim.LBFGS([matrix], max_iter=self._iterations, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            optimizer.zero_grad()
            cost = -self._augmented_hamiltonian(stage, matrix, states, costates)
            (matrix.grad,) = torch.autograd.grad(cost, matrix)
            return cost.detach()

        optimizer.step(closure)
        if not torch.isfinite(matrix).all():
            raise ArithmeticError("the augmented Hamiltonian has no finite maximiser")
        return matrix.detach()

    def _augmented_hamiltonian(
        self, stage: Stage, matrix: Tensor, states: list[Tensor], costates: list[Tensor]
    ) -> Tensor:
        (state, next_state), (costate, next_costate) = states, costates
        state = state.detach().requires_grad_()
        outputs = stage.applied(matrix, state)
        value = (next_costate * outputs).sum()
        (slope,) = torch.autograd.grad(value, state, create_graph=True)
        infeasibility = (next_state - outputs).square().sum() + (costate - slope).square().sum()
        mean: Tensor = (value - self._penalty / 2 * infeasibility) / len(state)
        cost: Tensor = self._weight_decay / 2 * matrix[:-1].square().sum()
        return mean - cost
