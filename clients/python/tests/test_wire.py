"""Element types on the wire."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ddpnopt import UnexpectedAnswerError, pack_symmetric
from ddpnopt.wire import NarrowType, decode, encode, unpack_lower, unpack_symmetric

VALUES = np.array([[0.0, 1.0, -2.5], [1e-3, 3.14159, -1000.0]], np.float32)


def header(body: bytes) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(body[8 : 8 + int.from_bytes(body[:8], "little")])
    return document


def test_arrays_travel_as_they_are() -> None:
    tensors = {"single": VALUES, "double": VALUES.astype(np.float64).T, "whole": np.arange(3), "scalar": np.float32(2)}
    decoded = decode(encode(tensors))
    for name, array in tensors.items():
        np.testing.assert_array_equal(decoded.tensors[name], array)
        assert decoded.tensors[name].dtype == array.dtype
        assert decoded.tensors[name].shape == array.shape


@pytest.mark.parametrize(
    ("send_as", "dtype", "bound"),
    [
        ("f16", "F16", np.abs(VALUES) / 2048),
        ("bf16", "BF16", np.abs(VALUES) / 256),
        ("int8", "I8", np.full(VALUES.shape, 1000 / 254)),
    ],
)
def test_narrow_types_round_to_nearest(send_as: NarrowType, dtype: str, bound: NDArray[Any]) -> None:
    body = encode({"x": VALUES, "y": VALUES}, send_as=send_as, narrows=lambda name: name == "x")
    assert {name: header(body)[name]["dtype"] for name in ("x", "y")} == {"x": dtype, "y": "F32"}
    assert ("x.scale" in header(body).get("__metadata__", {})) == (send_as == "int8")
    decoded = decode(body).tensors
    assert decoded["x"].dtype == np.float32
    assert np.all(np.abs(decoded["x"] - VALUES) <= bound * 1.0001)
    np.testing.assert_array_equal(decoded["y"], VALUES)


def test_bfloat16_is_rounded_as_pytorch_rounds() -> None:
    torch = pytest.importorskip("torch")
    values = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    expected = torch.from_numpy(values).bfloat16()
    np.testing.assert_array_equal(decode(encode({"x": values}, send_as="bf16")).tensors["x"], expected.float().numpy())
    np.testing.assert_array_equal(decode(encode({"x": expected})).tensors["x"], expected.float().numpy())
    assert header(encode({"x": expected}))["x"]["dtype"] == "BF16"


def test_pytorch_tensors_of_any_layout() -> None:
    torch = pytest.importorskip("torch")
    tensor = torch.arange(6.0, requires_grad=True).reshape(2, 3).T
    np.testing.assert_array_equal(decode(encode({"x": tensor})).tensors["x"], tensor.detach().numpy())


def test_triangles() -> None:
    symmetric = np.array([[1.0, 2, 3], [2, 4, 5], [3, 5, 6]])
    np.testing.assert_array_equal(pack_symmetric(symmetric), [1, 2, 3, 4, 5, 6])
    np.testing.assert_array_equal(unpack_symmetric(pack_symmetric(symmetric), 3), symmetric)
    np.testing.assert_array_equal(unpack_symmetric(np.array([[1, 2, 3], [4, 5, 6]]), 2)[1], [[4, 5], [5, 6]])
    np.testing.assert_array_equal(unpack_lower(np.array([1, 2, 3]), 2), [[1, 0], [2, 3]])


def test_what_is_no_safetensors_file() -> None:
    with pytest.raises(UnexpectedAnswerError, match="no safetensors"):
        decode(b"<html>")
