"""A layer's parameters as one matrix, in the service's layouts.

Policies multiply matrices, so that every layer is one here: a row per input and the bias last (dense, conv2d, embedding), a row of
scales and one of shifts (scale-shift), or one row of all parameters (generic).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Layer = Mapping[str, Any]
"""A layer as a session's definition has it."""


def parameter_shapes(layer: Layer) -> dict[str, tuple[int, ...]]:
    """Shapes of the parameters by name, in the order of the matrix's rows."""
    kind = layer["kind"]
    if kind == "scale-shift":
        shape = (layer["features"],)
        return {"scale": shape, "shift": shape} if layer.get("shift", True) else {"scale": shape}
    if kind == "generic":
        return {"parameters": (layer["parameters"],)}
    if kind == "embedding":
        return {"weight": (layer["inputs"], layer["outputs"])}
    weight: tuple[int, ...] = (layer["inputs"], layer["outputs"])
    if kind == "conv2d":
        weight = (*layer["kernel"], layer["inputs"] // layer.get("groups", 1), layer["outputs"])
    return {"weight": weight, "bias": (layer["outputs"],)} if layer.get("bias", True) else {"weight": weight}


def columns(layer: Layer) -> int:
    """Columns of the parameter matrix."""
    return next(iter(parameter_shapes(layer).values()))[-1]


def row_counts(layer: Layer) -> dict[str, int]:
    """Rows of the parameter matrix that each parameter takes."""
    return {name: int(np.prod(shape[:-1], dtype=int)) for name, shape in parameter_shapes(layer).items()}


def stacked(layer: Layer, values: Mapping[str, NDArray[Any]]) -> NDArray[Any] | None:
    """The parameter matrix of values by name; zeros for a parameter without, None if there are none at all."""
    if not values:
        return None
    width = columns(layer)
    dtype = next(iter(values.values())).dtype
    rows = [
        values[name].reshape(count, width) if name in values else np.zeros((count, width), dtype)
        for name, count in row_counts(layer).items()
    ]
    return np.concatenate(rows)


def split(layer: Layer, matrix: Any) -> dict[str, Any]:
    """The parameters by name, in their own shapes, of a parameter matrix of NumPy or PyTorch."""
    counts = row_counts(layer)
    parts: dict[str, Any] = {}
    begin = 0
    for name, shape in parameter_shapes(layer).items():
        end = begin + counts[name]
        parts[name] = matrix[begin:end].reshape(shape)
        begin = end
    return parts
