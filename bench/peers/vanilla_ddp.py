"""Differential dynamic programming with dense matrices, on the stacked batch: what DDPNOpt approximates.

The control u_t of a layer is shared by the B samples, so the state is the stacked batch X_t ∈ R^{B n_t}. Bellman's
expansion in full (primes: stage t+1; Liu, Chen & Theodorou, 2021, section 2):

    Q_x  = F_xᵀV'_x               Q_xx = F_xᵀV'_xx F_x + V'_x·F_xx
    Q_u  = F_uᵀV'_x + λu          Q_uu = F_uᵀV'_xx F_u + V'_x·F_uu + λI + I/η
    Q_ux = F_uᵀV'_xx F_x + V'_x·F_ux
    k = −Q_uu⁻¹Q_u,  K = −Q_uu⁻¹Q_ux,  V_x = Q_x + Q_uxᵀk,  V_xx = Q_xx + Q_uxᵀK,

from V_T, the gradient and the exact Hessian of the mean loss; and a second forward pass with δu_t = k + K δX_t. Nothing is
approximated but what `dynamics` says: "first-order" leaves out the three terms with second derivatives of F. I/η is the
regularisation that every use of DDP needs (Tassa, Erez & Todorov, 2012); with second-order dynamics it grows tenfold for as long
as Q_uu is not positive definite.

Memory is O(Σ_t m_t B n_t) for the policies, with m_t = (n_t + 1) n_{t+1} controls, beside O(m²), and time is O(m³): for
small dense nets only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import hessian, jacrev, vmap

from losses import Loss
from networks import Dense, Network, Stage
from trainer import Losses

GIGABYTE = 1e9
DEFAULT_MEMORY_LIMIT = 2 * GIGABYTE
# Of regularisation that grows: beyond, a step changes nothing any more.
LARGEST_GROWTH = 1e12


@dataclass(frozen=True)
class Policy:
    """δu = k + K δX of one stage; K is None where the state cannot change."""

    open_loop: Tensor
    """k, [m]."""
    feedback: Tensor | None
    """K, [m, B n]."""


class VanillaDdp:
    """The optimizer. `learning_rate` is η of the regularisation I/η."""

    def __init__(
        self,
        network: Network,
        loss: Loss,
        learning_rate: float,
        dynamics: str = "second-order",
        weight_decay: float = 0.0,
        memory_limit: float = DEFAULT_MEMORY_LIMIT,
    ) -> None:
        if any(not isinstance(stage.layer, Dense) for stage in network.stages):
            raise ValueError("vanilla DDP takes dense layers only; use ddpnopt for convolutions")
        if dynamics not in ("first-order", "second-order"):
            raise ValueError(f"vanilla DDP has no {dynamics} dynamics")
        self._network = network
        self._loss = loss
        self.learning_rate = learning_rate
        self._is_second_order = dynamics == "second-order"
        self._weight_decay = weight_decay
        self._memory_limit = memory_limit

    def step(self, inputs: Tensor, labels: Tensor) -> Losses:
        """Forward, the recursion from the last stage to the first, and the second forward pass."""
        self._check_memory(len(inputs))
        stages = self._network.stages
        with torch.no_grad():
            states = [inputs]
            for stage in stages:
                states.append(stage(states[-1]))
            outputs = states.pop()
            losses = self._loss(outputs, labels)
            policies = self._backward(states, *self._terminal_value(outputs, labels))
            changed = inputs
            for stage, policy, state in zip(stages, policies, states, strict=True):
                change = policy.open_loop
                if policy.feedback is not None:
                    change = change + policy.feedback @ (changed - state).flatten()
                stage.layer.matrix.add_(change.view_as(stage.layer.matrix))
                changed = stage(changed)
            after = self._loss(changed, labels).mean()
        return Losses(float(losses.mean()), float(after))

    def _terminal_value(self, outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """V_x, [B, c], and V_xx, [B c, B c], of the mean loss."""

        def of_sample(output: Tensor, label: Tensor) -> Tensor:
            return self._loss(output[None], label[None])[0]

        batch = len(outputs)
        gradients = vmap(jacrev(of_sample))(outputs, labels)
        curvatures = vmap(hessian(of_sample))(outputs, labels)
        return gradients / batch, torch.block_diag(*curvatures) / batch

    def _backward(self, states: list[Tensor], value_x: Tensor, value_xx: Tensor) -> list[Policy]:
        policies = []
        for index in reversed(range(len(states))):
            stage, state = self._network.stages[index], states[index]
            batch, width = state.shape
            matrix = stage.layer.matrix
            controls = matrix.flatten()
            f_x, f_u = _jacobians(stage, state)
            later = value_xx.view(batch, f_x.shape[1], batch, f_x.shape[1])
            flat_u = f_u.flatten(0, 1)
            decay = torch.full_like(matrix, self._weight_decay)
            decay[-1] = 0
            q_u = flat_u.T @ value_x.flatten() + decay.flatten() * controls
            q_uu = flat_u.T @ value_xx @ flat_u
            q_uu.diagonal().add_(decay.flatten())
            if self._is_second_order:
                q_uu += hessian(_inner(stage, state, value_x))(controls)
            if index == 0:
                policies.append(Policy(self._solve(q_uu, q_u[:, None])[:, 0], None))
                break
            q_x = torch.einsum("bkn,bk->bn", f_x, value_x)
            half = torch.einsum("akbl,bln->akbn", later, f_x)
            q_xx = torch.einsum("akm,akbn->ambn", f_x, half).reshape(batch * width, batch * width)
            q_ux = flat_u.T @ half.reshape(len(flat_u), batch * width)
            if self._is_second_order:
                by_state, mixed = _second_order_terms(stage, state, value_x)
                q_xx += torch.block_diag(*by_state)
                q_ux += mixed.permute(1, 0, 2).reshape(len(controls), batch * width)
            solved = self._solve(q_uu, torch.cat([q_u[:, None], q_ux], 1))
            open_loop, feedback = solved[:, 0], solved[:, 1:]
            policies.append(Policy(open_loop, feedback))
            value_x = q_x + (q_ux.T @ open_loop).view(batch, width)
            value_xx = q_xx + q_ux.T @ feedback
            value_xx = (value_xx + value_xx.T) / 2
        return policies[::-1]

    def _solve(self, q_uu: Tensor, right: Tensor) -> Tensor:
        """−Q_uu⁻¹ times the columns."""
        regularisation = 1 / self.learning_rate
        while regularisation < LARGEST_GROWTH / self.learning_rate:
            regularised = q_uu.clone()
            regularised.diagonal().add_(regularisation)
            triangle, info = torch.linalg.cholesky_ex(regularised)
            if int(info) == 0:
                return -torch.cholesky_solve(right, triangle)
            regularisation *= 10
        raise ArithmeticError("Q_uu has no factorisation")

    def _check_memory(self, batch: int) -> None:
        """Refuses a step whose dense matrices do not fit the limit."""
        needed = step_bytes(self._network, batch)
        if needed > self._memory_limit:
            raise ValueError(
                f"vanilla DDP would hold {needed / GIGABYTE:.1f} GB of dense matrices for a batch of {batch}, and its limit is "
                f"{self._memory_limit / GIGABYTE:.1f} GB; take fewer samples, narrower layers, or another memoryLimit"
            )


def step_bytes(network: Network, batch: int) -> int:
    """Bytes of a step's largest matrices: all policies, and of one stage J, V_xx, Q_xx, Q_ux and Q_uu with their copies."""
    policies, largest = 0, 0
    for index, stage in enumerate(network.stages):
        rows, outputs = stage.layer.matrix.shape
        controls, width, states = rows * outputs, batch * outputs, batch * (rows - 1)
        work = 4 * controls**2 + 2 * controls * width + 2 * width**2
        if index > 0:
            policies += controls * (states + 1)
            work += 2 * controls * states + 3 * states**2 + width * states
        largest = max(largest, work)
    return (policies + largest) * network.stages[0].layer.matrix.element_size()


def _jacobians(stage: Stage, state: Tensor) -> tuple[Tensor, Tensor]:
    """F_x of every sample, [B, c, n], and F_u, [B, c, m]."""

    def output(x: Tensor, u: Tensor) -> Tensor:
        return stage.applied(u, x[None])[0]

    f_x, f_u = vmap(jacrev(output, argnums=(0, 1)), in_dims=(0, None))(state, stage.layer.matrix)
    return f_x, f_u.flatten(2)


def _inner(stage: Stage, state: Tensor, value_x: Tensor) -> Callable[[Tensor], Tensor]:
    """V'_x·F as a function of the controls, [m] → scalar."""

    def product(controls: Tensor) -> Tensor:
        return (value_x * stage.applied(controls.view_as(stage.layer.matrix), state)).sum()

    return product


def _second_order_terms(stage: Stage, state: Tensor, value_x: Tensor) -> tuple[Tensor, Tensor]:
    """V'_x·F_xx of every sample, [B, n, n], and V'_x·F_ux, [B, m, n]."""

    def slope(x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """∂(v·f)/∂x, [n]."""
        gradient: Tensor = jacrev(lambda y: v @ stage.applied(u, y[None])[0])(x)
        return gradient

    by_state, by_control = vmap(jacrev(slope, argnums=(0, 1)), in_dims=(0, None, 0))(state, stage.layer.matrix, value_x)
    return by_state, by_control.flatten(2).mT
