"""Inputs whitened once, before anything is trained on them."""

from __future__ import annotations

import torch
from torch import Tensor


class Whitening:
    """x ↦ (x − mean) U (Λ + d I)^−½, of the largest eigenvalues of the samples' covariance; d in mean eigenvalues."""

    def __init__(self, samples: Tensor, rank: int, damping: float) -> None:
        self._mean = samples.mean(0)
        centred = samples - self._mean
        values, vectors = torch.linalg.eigh(centred.T @ centred / len(samples))
        damped = values[-rank:].clamp_min(0) + damping * values.mean()
        self._transform = vectors[:, -rank:] / damped.sqrt()

    def __call__(self, samples: Tensor) -> Tensor:
        return (samples - self._mean) @ self._transform
