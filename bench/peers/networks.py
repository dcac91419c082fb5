"""Networks made from the service's own model declarations.

A stage is a layer with parameters and the parameter-free layers behind it. Its parameters are one matrix [n + 1, c],
the bias in the last row, as in the service: a dense weight is [inputs, outputs], the kernel of a convolution [rows,
columns, channels, outputs]. Images are [B, channels, rows, columns] in channels-last memory, so that flattening them
gives the service's order of features.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

ACTIVATIONS: Mapping[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid}


class ChannelsLastFlatten(nn.Module):
    """[B, channels, rows, columns] to [B, rows · columns · channels]."""

    def forward(self, images: Tensor) -> Tensor:
        return images.permute(0, 2, 3, 1).flatten(1)


class Dense:
    """x W + b."""

    def __init__(self, inputs: int, outputs: int, dtype: torch.dtype) -> None:
        self.matrix = torch.zeros(inputs + 1, outputs, dtype=dtype)
        self.weight, self.bias = self.matrix[:-1], self.matrix[-1]

    def __call__(self, inputs: Tensor) -> Tensor:
        return self.apply(self.matrix, inputs)

    def apply(self, matrix: Tensor, inputs: Tensor) -> Tensor:
        """The layer's output with other parameters."""
        return torch.addmm(matrix[-1], inputs, matrix[:-1])

    def module(self) -> nn.Module:
        """The same layer as PyTorch's users write it."""
        inputs, outputs = self.weight.shape
        layer = nn.Linear(inputs, outputs, dtype=self.matrix.dtype)
        with torch.no_grad():
            layer.weight.copy_(self.weight.T)
            layer.bias.copy_(self.bias)
        return layer


class Convolution:
    """A two-dimensional convolution with stride 1."""

    def __init__(
        self, shape: Sequence[int], outputs: int, kernel: Sequence[int], same: bool, dtype: torch.dtype
    ) -> None:
        height, width, channels = shape
        rows, columns = kernel
        if same and (rows % 2 == 0 or columns % 2 == 0):
            raise ValueError(f"the peers pad a kernel of odd size only, not {rows}×{columns}")
        self.kernel = (rows, columns)
        self.padding = (rows // 2, columns // 2) if same else (0, 0)
        self.output_size = (height + 2 * self.padding[0] - rows + 1, width + 2 * self.padding[1] - columns + 1)
        self.matrix = torch.zeros(rows * columns * channels + 1, outputs, dtype=dtype)
        self.channels = channels
        self.weight = self._kernel_of(self.matrix)
        self.bias = self.matrix[-1]
        self._patches = torch.empty(0)

    def __call__(self, inputs: Tensor) -> Tensor:
        return self.apply(self.matrix, inputs)

    def apply(self, matrix: Tensor, inputs: Tensor) -> Tensor:
        """The layer's output with other parameters."""
        weight = self._kernel_of(matrix).contiguous(memory_format=torch.channels_last)
        return functional.conv2d(inputs, weight, matrix[-1], padding=self.padding)

    def _kernel_of(self, matrix: Tensor) -> Tensor:
        return matrix[:-1].view(*self.kernel, self.channels, -1).permute(3, 2, 0, 1)

    def patches(self, inputs: Tensor) -> Tensor:
        """Every position's inputs and a one for the bias, [B, positions, n + 1]; valid until the next call."""
        (rows, columns), (height, width) = self.kernel, self.output_size
        batch, inner = len(inputs), rows * columns * self.channels
        if len(self._patches) != batch:
            self._patches = inputs.new_ones(batch, height, width, inner + 1)
        above, left = self.padding
        padded = functional.pad(inputs.permute(0, 2, 3, 1), (0, 0, left, left, above, above))
        sample, row, column, channel = padded.stride()
        windows = padded.as_strided(
            (batch, height, width, rows, columns, self.channels), (sample, row, column, row, column, channel)
        )
        target = self._patches[..., :inner].unflatten(-1, (rows, columns, self.channels))
        target.copy_(windows)
        return self._patches.view(batch, height * width, inner + 1)

    def module(self) -> nn.Module:
        """The same layer as PyTorch's users write it."""
        outputs = self.matrix.shape[1]
        layer = nn.Conv2d(self.channels, outputs, self.kernel, padding=self.padding, dtype=self.matrix.dtype)
        weight, bias = layer.parameters()
        with torch.no_grad():
            weight.copy_(self.weight)
            bias.copy_(self.bias)
        return layer.to(memory_format=torch.channels_last)


@dataclass(frozen=True)
class Stage:
    """A layer with parameters, and the map from its output to the next stage's input."""

    layer: Dense | Convolution
    after: nn.Sequential
    initialization: str

    def __call__(self, inputs: Tensor) -> Tensor:
        return self.applied(self.layer.matrix, inputs)

    def applied(self, matrix: Tensor, inputs: Tensor) -> Tensor:
        """The next stage's input, with other parameters."""
        outputs: Tensor = self.after(self.layer.apply(matrix, inputs))
        return outputs


class Network:
    """A feed-forward network whose output is the logits of its classes."""

    def __init__(self, declaration: Mapping[str, Any], dtype: torch.dtype) -> None:
        self.input_shape: list[int] = list(declaration["input"])
        self._preparation, self.stages, shape = _build(declaration, dtype)
        self.dtype = dtype
        self.classes = shape[0]

    def prepared(self, inputs: Tensor) -> Tensor:
        """The first stage's input from samples [B, …] in the service's layout."""
        samples = inputs.view(-1, *self.input_shape)
        if samples.dim() == 4:
            samples = samples.permute(0, 3, 1, 2)
        prepared: Tensor = self._preparation(samples)
        return prepared

    def set_parameters(self, values: Sequence[Tensor]) -> None:
        """Takes weight and bias of every stage, one after the other."""
        if len(values) != 2 * len(self.stages):
            raise ValueError(f"{2 * len(self.stages)} parameter arrays are needed, {len(values)} came")
        for index, stage in enumerate(self.stages):
            weight, bias = values[2 * index : 2 * index + 2]
            stage.layer.matrix[:-1] = weight.view_as(stage.layer.matrix[:-1])
            stage.layer.bias.copy_(bias)

    def initialise(self, generator: torch.Generator) -> None:
        """As each layer declares: weights normal of variance 2/n (He et al., 2015) or uniform of variance 2/(n + c), biases 0; or PyTorch's own."""
        for stage in self.stages:
            weights, bias = stage.layer.matrix[:-1], stage.layer.bias
            inputs, outputs = weights.shape
            bias.zero_()
            if stage.initialization == "glorot-uniform":
                # The service counts a kernel's positions in both.
                positions = math.prod(stage.layer.kernel) if isinstance(stage.layer, Convolution) else 1
                limit = math.sqrt(6 / (inputs + outputs * positions))
                weights.uniform_(-limit, limit, generator=generator)
            elif stage.initialization == "fan-in-uniform":
                limit = 1 / math.sqrt(inputs)
                weights.uniform_(-limit, limit, generator=generator)
                bias.uniform_(-limit, limit, generator=generator)
            else:
                weights.normal_(0, math.sqrt(2 / inputs), generator=generator)

    def parameters(self) -> list[Tensor]:
        """Weight and bias of every stage, one after the other, in the service's layout."""
        return [part for stage in self.stages for part in (stage.layer.matrix[:-1], stage.layer.bias)]

    def __call__(self, inputs: Tensor) -> Tensor:
        state = self.prepared(inputs)
        for stage in self.stages:
            state = stage(state)
        return state

    def module(self) -> nn.Sequential:
        """The stages as a PyTorch module with parameters of its own, for what `prepared` gives."""
        return nn.Sequential(*(part for stage in self.stages for part in (stage.layer.module(), stage.after)))

    def take_module(self, module: nn.Sequential) -> None:
        """Copies the parameters of a module that `module` made back into the stages."""
        with torch.no_grad():
            for stage, trained in zip(self.stages, module[::2], strict=True):
                weight, bias = trained.parameters()
                stage.layer.weight.copy_(weight if isinstance(stage.layer, Convolution) else weight.T)
                stage.layer.bias.copy_(bias)


def _build(declaration: Mapping[str, Any], dtype: torch.dtype) -> tuple[nn.Sequential, list[Stage], list[int]]:
    """What comes before the first stage, the stages, and the shape of one sample's output."""
    preparation = nn.Sequential()
    stages: list[Stage] = []
    behind = preparation
    shape: list[int] = list(declaration["input"])
    for layer in declaration["layers"]:
        kind = layer["kind"]
        if kind in ("dense", "conv2d"):
            built, shape = _layer(layer, shape, dtype)
            behind = nn.Sequential()
            stages.append(Stage(built, behind, layer.get("initialization", "he-normal")))
        elif kind in ACTIVATIONS:
            behind.append(ACTIVATIONS[kind]())
        elif kind == "flatten":
            behind.append(ChannelsLastFlatten() if len(shape) == 3 else nn.Flatten())
            shape = [math.prod(shape)]
        elif kind == "max-pooling":
            window = layer["window"]
            _refuse_options(layer, {"kind", "window"})
            behind.append(nn.MaxPool2d(tuple(window)))
            shape = [shape[0] // window[0], shape[1] // window[1], shape[2]]
        else:
            raise ValueError(f"the peers have no layer of kind {kind}")
    return preparation, stages, shape


def _layer(layer: Mapping[str, Any], shape: list[int], dtype: torch.dtype) -> tuple[Dense | Convolution, list[int]]:
    outputs: int = layer["outputs"]
    if layer["kind"] == "dense":
        _refuse_options(layer, {"kind", "name", "outputs", "initialization"})
        return Dense(shape[0], outputs, dtype), [outputs]
    _refuse_options(layer, {"kind", "name", "outputs", "kernel", "padding", "initialization"})
    padding = layer.get("padding", {"kind": "valid"})["kind"]
    if padding not in ("same", "valid"):
        raise ValueError(f"the peers have no {padding} padding")
    convolution = Convolution(shape, outputs, layer["kernel"], padding == "same", dtype)
    return convolution, [*convolution.output_size, outputs]


def _refuse_options(layer: Mapping[str, Any], known: set[str]) -> None:
    unknown = sorted(set(layer) - known)
    if unknown:
        raise ValueError(f"the peers' {layer['kind']} layer has no option {unknown[0]}")
