"""The losses of classification that the peers train, as the service declares them: φ of every sample, and the class it is given."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional


class Loss(Protocol):
    """φ of one sample's output and label."""

    def __call__(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """φ, [B], of outputs [B, c] and labels [B]."""

    def predictions(self, outputs: Tensor) -> Tensor:
        """The class with the smallest φ, [B]."""


class SoftmaxCrossEntropy:
    """φ = −log softmax(x_T)_y."""

    def __call__(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return functional.cross_entropy(outputs, labels, reduction="none")

    def predictions(self, outputs: Tensor) -> Tensor:
        return outputs.argmax(1)


class MaxMahalanobisCentre:
    """φ = ½ ‖x_T − μ_y‖² (Pang et al., 2020): centres of one length, as far apart as so many points can be."""

    def __init__(self, classes: int, features: int, scale: float, dtype: torch.dtype) -> None:
        self._centres = scale * max_mahalanobis_centres(classes, features).to(dtype)

    def __call__(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return (outputs - self._centres[labels]).square().sum(1) / 2

    def predictions(self, outputs: Tensor) -> Tensor:
        # All centres have the same length: the nearest one is the one with the largest inner product.
        return (outputs @ self._centres.T).argmax(1)


def max_mahalanobis_centres(classes: int, features: int) -> Tensor:
    """μ of length 1 with ⟨μ_i, μ_j⟩ = −1/(L − 1), [L, d] in float64: Algorithm 1 of Pang et al., which needs L ≤ d + 1."""
    if classes > features + 1:
        raise ValueError(f"{classes} centres do not fit into {features} dimensions")
    centres = torch.zeros(classes, features, dtype=torch.float64)
    for i in range(classes):
        for j in range(min(i, features)):
            inner = float(centres[i, :j] @ centres[j, :j])
            centres[i, j] = -(1 / (classes - 1) + inner) / centres[j, j]
        if i < features:
            centres[i, i] = math.sqrt(max(0.0, 1 - float(centres[i].square().sum())))
    return centres


def make_loss(declaration: Mapping[str, Any], outputs: int, dtype: torch.dtype) -> Loss:
    """The loss that a request declares, for a network with so many outputs."""
    kind = declaration["kind"]
    if kind == "softmax-cross-entropy":
        return SoftmaxCrossEntropy()
    if kind == "max-mahalanobis-centre":
        return MaxMahalanobisCentre(declaration["classes"], outputs, declaration.get("scale", 10.0), dtype)
    raise ValueError(f"the peers have no loss {kind}")
