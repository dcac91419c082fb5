"""EKFAC (George et al., 2018): second moments of the gradient in the eigenbasis of the Kronecker factors."""

from __future__ import annotations

import torch
from torch import Tensor

from curvature import FactorAverages, KroneckerOptions, per_sample
from networks import Stage


class EkfacCurvature:
    """P = (U_A ⊗ U_Γ) diag(s + γ) (U_A ⊗ U_Γ)ᵀ.

    The bases are refreshed every so many steps, s = E[h (U_AᵀJ U_Γ)²] is averaged at every step. A new basis starts from the
    second moments that the factors imply, the products of their eigenvalues.
    """

    def __init__(self, stage: Stage, options: KroneckerOptions) -> None:
        self._options = options
        self._averages = FactorAverages(stage, options)
        self._input_basis = torch.empty(0)
        self._output_basis = torch.empty(0)
        self._second_moment = torch.empty(0)

    def precondition(self, inputs: Tensor, outputs: Tensor, weights: Tensor) -> Tensor:
        """U_A ((U_Aᵀ (aᵀg/B) U_Γ) / (s + γ)) U_Γᵀ."""
        if self._averages.update(inputs, outputs, weights):
            self._refresh()
        a, g = inputs @ self._input_basis, outputs @ self._output_basis
        if a.dim() == 2:
            gradient = a.T @ g
            observed = a.square().T @ (g.square() * weights[:, None])
        else:
            gradients = torch.bmm(a.mT, g)
            gradient = gradients.sum(0)
            observed = (gradients.square() * per_sample(weights, gradients)).sum(0)
        batch = len(inputs)
        self._second_moment.lerp_(observed.div_(batch), 1 - self._options.decay)
        scaled = gradient.div_(batch) / (self._second_moment + self._options.damping)
        return self._input_basis @ scaled @ self._output_basis.T

    def _refresh(self) -> None:
        """The eigenbases of the averages as they are now; of a symmetric matrix only the lower triangle is read."""
        input_values, self._input_basis = torch.linalg.eigh(self._averages.input)
        output_values, self._output_basis = torch.linalg.eigh(self._averages.output)
        self._second_moment = torch.outer(input_values.clamp_min(0), output_values.clamp_min(0))
