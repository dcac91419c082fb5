"""The feedback policy of one layer, as a client applies it in its second forward pass.

    κ = S⁻¹(target + s),  δu = −η P⁻¹Jᵀκ + what does not depend on s: weight decay

Arrays are NumPy's, or PyTorch's where `convert` makes them so; κ is always NumPy's, in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ddpnopt.errors import UnexpectedAnswerError
from ddpnopt.parameters import Layer, columns, parameter_shapes, row_counts, split, stacked
from ddpnopt.wire import unpack_lower, unpack_symmetric

Tensors = Mapping[str, NDArray[Any]]
Array: TypeAlias = Any
"""A NumPy array or a PyTorch tensor."""
Convert = Callable[[NDArray[Any]], Array]
WeightedGradient = Callable[[NDArray[np.float64]], Array]
"""Jᵀκ for κ [B]: the gradient of Σ_i κ_i φ_i in the layer's parameter matrix."""


@dataclass(frozen=True)
class FixedCoefficients:
    """κ that depends on nothing; with couplings that take no second forward pass."""

    kappa: NDArray[Any]

    def solve(self, predicted_change: NDArray[Any] | None) -> NDArray[np.float64]:
        """κ, [R]."""
        del predicted_change
        return self.kappa.astype(np.float64)


@dataclass(frozen=True)
class CholeskyCoefficients:
    """L Lᵀ κ = target + s."""

    factor: NDArray[np.float64]
    """L, [R, R]."""
    target: NDArray[np.float64]
    """[R]."""

    def solve(self, predicted_change: NDArray[Any] | None) -> NDArray[np.float64]:
        """κ(s), [R]."""
        right = self.target if predicted_change is None else self.target + predicted_change
        lower, upper = self.factor, np.ascontiguousarray(self.factor.T)
        kappa = np.array(right, np.float64)
        # Substitution by hand: NumPy would factorise anew, which is R times as much work.
        for i in range(len(kappa)):
            kappa[i] = (kappa[i] - lower[i, :i] @ kappa[:i]) / lower[i, i]
        for i in reversed(range(len(kappa))):
            kappa[i] = (kappa[i] - upper[i, i + 1 :] @ kappa[i + 1 :]) / upper[i, i]
        return kappa


@dataclass(frozen=True)
class DiagonalCoefficients:
    """κ = offset + gain ∘ s: without cross-sample terms."""

    gain: NDArray[np.float64]
    offset: NDArray[np.float64]

    def solve(self, predicted_change: NDArray[Any] | None) -> NDArray[np.float64]:
        """κ(s), [B]."""
        return self.offset if predicted_change is None else self.offset + self.gain * predicted_change


Coefficients: TypeAlias = FixedCoefficients | CholeskyCoefficients | DiagonalCoefficients


@dataclass(frozen=True)
class Inverses:
    """The damped inverse factors of one layer, P⁻¹ = A⁻¹ ⊗ Γ⁻¹, one block or one per group of a convolution."""

    version: int
    input: Array
    """A⁻¹, [groups, n, n]; the bias is the last input."""
    output_grad: Array
    """Γ⁻¹, [groups, c/groups, c/groups]."""

    def precondition(self, gradient: Array) -> Array:
        """A⁻¹ M Γ⁻¹ of a parameter matrix M, [n, c]."""
        groups, width = len(self.output_grad), self.output_grad.shape[-1]
        blocks = gradient.reshape(len(gradient), groups, width).swapaxes(0, 1)
        product = self.input @ blocks @ self.output_grad
        return product.swapaxes(0, 1).reshape(len(gradient), groups * width)


@dataclass(frozen=True)
class SampleFactors:
    """A policy in metric-weighted samples: δ[W; b] = −ãᵀ diag(κ) g̃."""

    input: Array
    """ã, [B, n (+ 1, bias last)]."""
    output_grad: Array
    """g̃, learning rate included, [B, c]."""


@dataclass(frozen=True)
class InverseFactors:
    """A policy in the inverse of the layer's metric: δu = −η P⁻¹Jᵀκ."""

    learning_rate: float
    inverse: Inverses | Array | None
    """P⁻¹: two factors, or elementwise as a parameter matrix, or None for the identity."""

    def precondition(self, gradient: Array) -> Array:
        """P⁻¹ of a parameter matrix."""
        if self.inverse is None:
            return gradient
        return self.inverse.precondition(gradient) if isinstance(self.inverse, Inverses) else self.inverse * gradient


@dataclass(frozen=True)
class LayerPolicy:
    """How a layer's change depends on what the layers before it have just changed."""

    layer: Layer
    coefficients: Coefficients
    encoding: SampleFactors | InverseFactors
    fixed_change: Array | None
    """The part of the change that does not depend on s, as a parameter matrix; None without weight decay."""
    convert: Convert
    gradient: WeightedGradient | None = None

    def change_matrix(self, predicted_change: NDArray[Any] | None = None, gradient: WeightedGradient | None = None) -> Array:
        """The layer's change as a parameter matrix; see `change`."""
        kappa = self.coefficients.solve(predicted_change)
        if isinstance(self.encoding, SampleFactors):
            weights = self.convert(kappa.astype(np.float32))
            change = -(self.encoding.input.swapaxes(0, 1) @ (weights[:, None] * self.encoding.output_grad))
        else:
            form = gradient or self.gradient
            if form is None:
                raise ValueError(f"layer {self.layer['name']} is not dense: pass gradient, which forms Jᵀκ")
            change = -self.encoding.learning_rate * self.encoding.precondition(form(kappa))
        return change if self.fixed_change is None else change + self.fixed_change

    def change(self, predicted_change: NDArray[Any] | None = None, gradient: WeightedGradient | None = None) -> dict[str, Array]:
        """What to add to the layer's parameters, by name, in their own shapes.

        Args:
            predicted_change: s [B], s_i = ⟨∂φ_i/∂x, x̂_i − x_i⟩: the change of sample i's loss that the change of this layer's
                input predicts to first order. None for the first layer, whose input does not change.
            gradient: forms Jᵀκ, [n (+ 1), c]; needed for layers that are not dense, in inverse factors.
        """
        return split(self.layer, self.change_matrix(predicted_change, gradient))


def tensor_of(tensors: Tensors, name: str) -> NDArray[Any]:
    """A tensor that an answer must have."""
    if name not in tensors:
        raise UnexpectedAnswerError(f"the answer lacks {name}")
    return tensors[name]


def read_coefficients(tensors: Tensors, layer: str) -> Coefficients:
    """What an answer says of a layer's κ."""
    prefix = f"layers.{layer}"
    if f"{prefix}.coefficients" in tensors:
        return FixedCoefficients(tensors[f"{prefix}.coefficients"])
    if f"{prefix}.policy.chol" in tensors:
        target = tensor_of(tensors, f"{prefix}.policy.target").astype(np.float64)
        packed = tensors[f"{prefix}.policy.chol"].astype(np.float64)
        return CholeskyCoefficients(unpack_lower(packed, len(target)), target)
    gain, offset = (tensor_of(tensors, f"{prefix}.policy.{part}").astype(np.float64) for part in ("gain", "offset"))
    return DiagonalCoefficients(gain, offset)


def read_changes(tensors: Tensors, layer: Layer) -> dict[str, NDArray[Any]]:
    """The changes of a layer's parameters that an answer has, by name."""
    names = {parameter: f"layers.{layer['name']}.update.{parameter}" for parameter in parameter_shapes(layer)}
    return {parameter: tensors[name] for parameter, name in names.items() if name in tensors}


def read_inverses(tensors: Tensors, layer: str, sizes: tuple[int, int], version: int) -> Inverses | None:
    """A layer's inverse factors, if an answer has any.

    Args:
        tensors: of the answer.
        layer: its name.
        sizes: n and c of one block.
        version: of the inverses, as `metric_versions` of the answer says.
    """
    prefix = f"layers.{layer}.metric"
    if f"{prefix}.input_inverse" not in tensors:
        return None
    inputs, outputs = (
        unpack_symmetric(packed.reshape(-1, packed.shape[-1]), n)
        for packed, n in zip(
            (tensors[f"{prefix}.input_inverse"], tensor_of(tensors, f"{prefix}.output_grad_inverse")),
            sizes,
            strict=True,
        )
    )
    return Inverses(version, inputs, outputs)


def block_sizes(layer: Layer) -> tuple[int, int]:
    """Inputs n, the bias counted, and outputs c of a block of a layer's parameters."""
    return sum(row_counts(layer).values()), columns(layer) // layer.get("groups", 1)


def read_policy(
    tensors: Tensors,
    layer: Layer,
    inverses: Inverses | None,
    convert: Convert = lambda array: array,
    gradient: WeightedGradient | None = None,
) -> LayerPolicy:
    """A layer's policy from an answer in mode `layers`, in whichever encoding it came.

    Args:
        tensors: of the answer.
        layer: as the session's definition has it.
        inverses: the layer's inverse factors as of this answer.
        convert: makes an array one of the kind that the policy shall compute with.
        gradient: forms Jᵀκ.
    """
    prefix = f"layers.{layer['name']}"
    fixed = stacked(layer, read_changes(tensors, layer))
    encoding: SampleFactors | InverseFactors
    if f"{prefix}.policy.input" in tensors:
        parts = (tensor_of(tensors, f"{prefix}.policy.{part}") for part in ("input", "output_grad"))
        encoding = SampleFactors(*map(convert, parts))
    else:
        learning_rate = float(tensor_of(tensors, f"{prefix}.learning_rate"))
        names = {parameter: f"{prefix}.metric.inverse_diagonal.{parameter}" for parameter in parameter_shapes(layer)}
        diagonal = stacked(layer, {key: tensors[name] for key, name in names.items() if name in tensors})
        inverse = inverses if diagonal is None else convert(diagonal)
        encoding = InverseFactors(learning_rate, inverse)
    fixed_change = None if fixed is None else convert(fixed)
    return LayerPolicy(layer, read_coefficients(tensors, layer["name"]), encoding, fixed_change, convert, gradient)
