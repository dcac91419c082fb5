"""K-FAC (Martens & Grosse, 2015; Grosse & Martens, 2016, for convolutions)."""

from __future__ import annotations

from torch import Tensor

from curvature import KroneckerFactors, KroneckerOptions
from networks import Stage


class KfacCurvature:
    """P = (A + πγ^½ I) ⊗ (Γ + γ^½/π I), the metric of DDPNOpt."""

    def __init__(self, stage: Stage, options: KroneckerOptions) -> None:
        self._factors = KroneckerFactors(stage, options)

    def precondition(self, inputs: Tensor, outputs: Tensor, weights: Tensor) -> Tensor:
        """A⁻¹ (aᵀg/B) Γ⁻¹."""
        factors, batch = self._factors, len(inputs)
        factors.update(inputs, outputs, weights)
        a, g = inputs.flatten(0, -2), outputs.flatten(0, -2)
        # A⁻¹ meets whichever has less to multiply: the rows of a or the columns of the gradient.
        if len(a) < g.shape[1]:
            change = (a @ factors.inverse_input).T @ (g @ factors.inverse_output)
        else:
            change = factors.inverse_input @ (a.T @ g) @ factors.inverse_output
        return change.div_(batch)
