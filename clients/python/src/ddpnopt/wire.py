"""Tensors on the wire: safetensors bodies, with the element types that NumPy does not know."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, TensorSpec, deserialize, serialize

from ddpnopt.errors import UnexpectedAnswerError

NarrowType: TypeAlias = Literal["f16", "bf16", "int8"]
"""Element types that spare traffic: 11 or 8 significant bits, or 127 steps with one scale per tensor."""

SAFETENSORS = "application/vnd.safetensors"


@dataclass(frozen=True)
class Decoded:
    """A safetensors body as arrays."""

    tensors: dict[str, NDArray[Any]]
    metadata: dict[str, str]


def encode(
    tensors: Mapping[str, Any],
    *,
    send_as: NarrowType | None = None,
    narrows: Callable[[str], bool] = lambda _: True,
) -> bytes:
    """A safetensors body.

    Args:
        tensors: arrays by name: of NumPy, of PyTorch on any device, or anything that `numpy.asarray` takes.
        send_as: the element type for the floating-point tensors that `narrows` says may be narrowed.
        narrows: whether the tensor of this name may be narrowed.
    """
    metadata: dict[str, str] = {}
    # The specifications hold addresses: the arrays must live until the body is made.
    arrays: list[NDArray[Any]] = []
    specifications: dict[str, TensorSpec] = {}
    for name, given in tensors.items():
        array, dtype = _as_array(given)
        if send_as is not None and narrows(name) and dtype in ("float32", "float64"):
            array, dtype, scale = _narrowed(array, send_as)
            if scale is not None:
                metadata[f"{name}.scale"] = repr(scale)
        arrays.append(array)
        specifications[name] = TensorSpec(dtype=dtype, shape=list(array.shape), data_ptr=array.ctypes.data, data_len=array.nbytes)
    return bytes(serialize(specifications, metadata or None))


def decode(body: bytes) -> Decoded:
    """The arrays of a safetensors body; half precision and int8 are widened to float32.

    Raises:
        UnexpectedAnswerError: if it is none.
    """
    try:
        entries = deserialize(body)
        length = int.from_bytes(body[:8], "little")
        metadata: dict[str, str] = json.loads(body[8 : 8 + length]).get("__metadata__", {})
    except (SafetensorError, ValueError) as error:
        raise UnexpectedAnswerError(f"the answer is no safetensors file: {error}") from error
    tensors: dict[str, NDArray[Any]] = {}
    for name, entry in entries:
        values = _values(entry["dtype"], entry["data"])
        if entry["dtype"] == "I8":
            values = values.astype(np.float32) * np.float32(metadata.get(f"{name}.scale", "1"))
        tensors[name] = values.reshape(entry["shape"])
    return Decoded(tensors, metadata)


_DTYPES: Mapping[str, type[np.generic]] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "I64": np.int64,
    "I32": np.int32,
    "I8": np.int8,
    "U8": np.uint8,
}


def _values(dtype: str, data: bytes | bytearray) -> NDArray[Any]:
    if dtype == "BF16":
        return (np.frombuffer(data, np.uint16).astype(np.uint32) << 16).view(np.float32)
    if dtype not in _DTYPES:
        raise UnexpectedAnswerError(f"the answer has a tensor of element type {dtype}, which this client does not know")
    values = np.frombuffer(data, _DTYPES[dtype])
    return values.astype(np.float32) if dtype == "F16" else values


def _as_array(given: Any) -> tuple[NDArray[Any], str]:
    """A contiguous array in this machine's memory, and its element type in safetensors' words."""
    if hasattr(given, "detach"):  # PyTorch, which need not be installed
        tensor = given.detach().cpu().contiguous()
        if str(tensor.dtype) == "torch.bfloat16":
            import torch

            return tensor.view(torch.int16).numpy(), "bfloat16"
        given = tensor.numpy()
    array = np.asarray(given)
    # Not ascontiguousarray, which gives scalars an axis.
    array = array if array.flags.c_contiguous else array.copy()
    return array, array.dtype.name


def _narrowed(array: NDArray[Any], send_as: NarrowType) -> tuple[NDArray[Any], str, float | None]:
    single = array.astype(np.float32)
    if send_as == "f16":
        return single.astype(np.float16), "float16", None
    if send_as == "bf16":
        bits = single.view(np.uint32)
        # To nearest, ties to even. What is not finite is the service's to refuse.
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        return rounded.astype(np.uint16), "bfloat16", None
    largest = float(np.max(np.abs(single), initial=0))
    scale = largest / 127 if largest > 0 else 1.0
    return np.rint(single / scale).astype(np.int8), "int8", scale


def pack_symmetric(matrix: NDArray[Any]) -> NDArray[Any]:
    """The upper triangle of a symmetric matrix [n, n], row by row: [n(n + 1)/2]."""
    packed: NDArray[Any] = matrix[np.triu_indices(len(matrix))]
    return packed


def unpack_symmetric(packed: NDArray[Any], n: int) -> NDArray[Any]:
    """The symmetric matrices [..., n, n] of packed upper triangles [..., n(n + 1)/2]."""
    rows, columns = np.triu_indices(n)
    matrix = np.empty((*packed.shape[:-1], n, n), packed.dtype)
    matrix[..., rows, columns] = packed
    matrix[..., columns, rows] = packed
    return matrix


def unpack_lower(packed: NDArray[Any], n: int) -> NDArray[Any]:
    """The lower triangular matrix [n, n] of a packed lower triangle [n(n + 1)/2]."""
    matrix = np.zeros((n, n), packed.dtype)
    matrix[np.tril_indices(n)] = packed
    return matrix
