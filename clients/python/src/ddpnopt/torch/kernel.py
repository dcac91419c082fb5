"""Mode `kernel`: tangent kernels, and the metric that the client keeps itself."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ddpnopt.policy import Inverses
from ddpnopt.torch.stages import Stage


class KernelMetric:
    """P of one stage: the service's Kronecker factors, a diagonal of its own, or the identity.

    The diagonal is P = E[h J²] + γ, the average being over statistics as the service's are, bias-corrected.
    """

    def __init__(self, settings: dict[str, Any], *, is_factored: bool) -> None:
        self.is_factored = is_factored
        self._is_diagonal = settings["kind"] == "kronecker" and not is_factored
        self._decay = float(settings.get("decay", 0.95))
        self._damping = float(settings.get("damping", 0.01))
        self.moments: Tensor | None = None
        self.updates = 0
        self.inverses: Inverses | None = None

    def observe(self, stage: Stage, weights: Tensor) -> None:
        """Averages a batch's second moments, with terminal weights h [B]."""
        if not self._is_diagonal:
            return
        observed = torch.einsum("b,brc->rc", weights / len(weights), stage.jacobian().square())
        previous = torch.zeros_like(observed) if self.moments is None else self.moments.to(observed)
        self.moments = self._decay * previous + (1 - self._decay) * observed
        self.updates += 1

    def precondition(self, gradient: Tensor) -> Tensor:
        """P⁻¹ of parameter matrices, [..., rows, columns]."""
        if self._is_diagonal and self.moments is not None:
            average = self.moments / (1 - self._decay**self.updates)
            return gradient / (average.to(gradient) + self._damping)
        if self.inverses is None:
            return gradient
        blocks = gradient.unflatten(-1, (len(self.inverses.output_grad), -1)).movedim(-2, -3)
        product: Tensor = self.inverses.input @ blocks @ self.inverses.output_grad
        return product.movedim(-3, -2).flatten(-2)

    def state(self) -> dict[str, Any]:
        """What a checkpoint of the service does not have."""
        inverses = self.inverses
        kept = None if inverses is None else (inverses.version, inverses.input, inverses.output_grad)
        return {"moments": self.moments, "updates": self.updates, "inverses": kept}

    def load(self, state: dict[str, Any], stage: Stage) -> None:
        """Goes on from a state."""
        device = stage.parameters[0].device
        self.moments = None if state["moments"] is None else state["moments"].to(device)
        self.updates = state["updates"]
        if state["inverses"] is not None:
            version, *parts = state["inverses"]
            self.inverses = Inverses(version, *(part.to(device) for part in parts))

    def gram(self, stage: Stage) -> Tensor:
        """N = J P⁻¹ Jᵀ, [B, B]."""
        samples = stage.samples() if self.is_factored else None
        if samples is None or samples[0].shape[1] > 1:
            jacobian = stage.jacobian()
            kernel = jacobian.flatten(1) @ self.precondition(jacobian).flatten(1).T
        else:
            a, g = (part.squeeze(1) for part in samples)
            weighted_a = a if self.inverses is None else a @ self.inverses.input[0]
            weighted_g = g if self.inverses is None else g @ self.inverses.output_grad[0]
            kernel = (weighted_a @ a.T) * (weighted_g @ g.T)
        # Symmetric but for rounding.
        return (kernel + kernel.T) / 2


def factor_statistics(stage: Stage, weights: Tensor) -> dict[str, Tensor]:
    """A = E[Σ_p a aᵀ] and Γ = E[(1/P) Σ_p h g gᵀ] of a batch, for terminal weights h [B].

    Upper triangles, one or a row of them per group of a convolution.
    """
    blocks = stage.blocks()
    assert blocks is not None  # only stages with factors are asked
    inputs, outputs = [], []
    for a, g in blocks:
        batch, positions = g.shape[:2]
        rows, weighted = a.flatten(0, 1), (g * weights.view(-1, 1, 1)).flatten(0, 1)
        inputs.append(upper_triangle(rows.T @ rows / batch))
        outputs.append(upper_triangle(weighted.T @ g.flatten(0, 1) / (batch * positions)))
    named = {"factor.input": inputs, "factor.output_grad": outputs}
    return {name: factors[0] if len(blocks) == 1 else torch.stack(factors) for name, factors in named.items()}


def upper_triangle(matrix: Tensor) -> Tensor:
    """A symmetric matrix's upper triangle, row by row."""
    rows, columns = torch.triu_indices(len(matrix), len(matrix), device=matrix.device)
    return matrix[rows, columns]
