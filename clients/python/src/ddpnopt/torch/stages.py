"""Layers with trainable parameters as stages of the control problem: one class per kind of layer that the service knows.

A stage turns what the passes left at its module into the service's layouts, and the service's changes into the module's.
Axes: B samples; P positions at which a sample uses the parameters; n inputs, c outputs. Parameter matrices: `ddpnopt.parameters`.
"""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional
from torch.nn.grad import conv2d_weight

Definition = dict[str, Any]
Samples = tuple[Tensor, Tensor]
"""a [B, P, n], the bias's constant 1 included, and g [B, P, c]."""


class UnsupportedLayerError(TypeError):
    """A layer is used in a way that has no per-sample gradients here; the message names it and says what to do."""


@dataclass
class Call:
    """One call of a module in the first forward pass."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Tensor | None
    """As it came out; None if it is no tensor. What follows may change it in place, so that only its shape is read."""
    edge: Any
    """Where the gradient in the output arrives, as of the call; None without."""
    input_edges: dict[int, Any]
    """The same for the tensors among the positional arguments, by position."""
    versions: dict[int, int]
    """Counters of in-place changes of the positional arguments, as of the call."""
    output_grad: Tensor | None = None
    input_grads: dict[int, Tensor] = field(default_factory=dict)

    @property
    def input(self) -> Tensor:
        """The first positional argument."""
        given = self.args[0]
        assert isinstance(given, Tensor)
        return given


class Stage(ABC):
    """A module with its trainable parameters."""

    def __init__(self, name: str, module: nn.Module, has_bias: bool) -> None:
        self.name = name
        self.module = module
        self.has_bias = has_bias
        self._calls: list[Call] = []
        self._batch = 0

    @property
    @abstractmethod
    def parameters(self) -> list[Tensor]:
        """Its trainable parameters, in the order of the parameter matrix."""

    @abstractmethod
    def definition(self) -> Definition:
        """The layer, as a session's definition has it; of the pass that was recorded last."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """What a step carries of it: `input` and `output_grad`, or `param_grad`."""

    @abstractmethod
    def parameter_matrix(self) -> Tensor:
        """The parameters as they are now."""

    def as_parameters(self, matrix: Tensor) -> list[Tensor]:
        """What of a parameter matrix is in the place of each parameter."""
        with torch.enable_grad():
            placed = self.parameter_matrix()
        # The matrix is made of the parameters' numbers in another order: its adjoint puts them back.
        return list(torch.autograd.grad(placed, self.parameters, matrix.to(placed.dtype)))

    def decaying_matrix(self) -> Tensor:
        """The same with zeros for what does not decay: biases, scales and shifts."""
        matrix = self.parameter_matrix()
        return torch.cat([matrix[:-1], torch.zeros_like(matrix[-1:])]) if self.has_bias else matrix

    @abstractmethod
    def add(self, change: Tensor) -> None:
        """Adds a change of the parameter matrix to the parameters."""

    @abstractmethod
    def weighted_gradient(self, kappa: Tensor) -> Tensor:
        """Jᵀκ, the gradient of Σ_i κ_i φ_i in the parameter matrix."""

    @abstractmethod
    def jacobian(self) -> Tensor:
        """J [B, rows, columns]: every sample's gradient in the parameter matrix."""

    def samples(self) -> Samples | None:
        """a and g if the parameter matrix's gradient is Σ_p a_p g_pᵀ with factors that can be inverted; None else."""
        return None

    def blocks(self) -> list[Samples] | None:
        """The same for every block of columns that has factors of its own: one, or one per group of a convolution."""
        samples = self.samples()
        return None if samples is None else [samples]

    @abstractmethod
    def predicted_change(self, args: tuple[Any, ...]) -> Tensor | None:
        """s [B] for the inputs of the second forward pass: how they change each sample's loss to first order; None for 0."""

    def record(self, calls: Sequence[Call], batch: int) -> None:
        """Takes the calls of the first forward pass, with their gradients."""
        for call in calls:
            for position, version in call.versions.items():
                if call.args[position]._version != version:
                    raise UnsupportedLayerError(
                        f"the input of layer {self.name} is changed in place after the layer has seen it; "
                        "let what follows it make a new tensor (inplace=False)"
                    )
        self._calls = list(calls)
        self._batch = batch
        self._check()

    def forget(self) -> None:
        """Lets go of the activations."""
        self._calls = []

    def _check(self) -> None:
        """Refuses calls that the stage cannot take."""
        if len(self._calls) != 1:
            raise UnsupportedLayerError(
                f"layer {self.name} ({type(self.module).__name__}) is called {len(self._calls)} times in a forward pass, which is "
                "supported for Linear and Embedding; use a module of its own for each call"
            )

    @property
    def _call(self) -> Call:
        return self._calls[0]

    def _output_grad(self, call: Call) -> Tensor:
        """Not divided by B; zeros where the loss does not depend on the output."""
        assert call.output is not None
        if call.output_grad is None:
            return torch.zeros_like(call.output, dtype=self.dtype)
        return call.output_grad.to(self.dtype)

    @property
    def is_rounded(self) -> bool:
        """Whether the passes have rounded what was recorded to half precision."""
        halves = (torch.float16, torch.bfloat16)
        return any(call.output is not None and call.output.dtype in halves for call in self._calls)

    @property
    def dtype(self) -> torch.dtype:
        """float64 for models in float64, else float32: whatever autocast makes of activations."""
        return torch.float64 if self.parameters[0].dtype == torch.float64 else torch.float32


class DenseStage(Stage):
    """nn.Linear, over any number of positions and calls: the positions of all calls are one sequence."""

    module: nn.Linear

    @property
    def parameters(self) -> list[Tensor]:
        bias = [self.module.bias] if self.has_bias else []
        return [self.module.weight, *bias]

    def _check(self) -> None:
        return

    def definition(self) -> Definition:
        return {
            "kind": "dense",
            "inputs": self.module.in_features,
            "outputs": self.module.out_features,
            "bias": self.has_bias,
            "sequence": self._is_sequence,
        }

    @property
    def _is_sequence(self) -> bool:
        return len(self._calls) > 1 or self._call.input.dim() > 2

    def _inputs(self) -> Tensor:
        """[B, P, n]."""
        shape = (self._batch, -1, self.module.in_features)
        return torch.cat([call.input.detach().to(self.dtype).reshape(shape) for call in self._calls], 1)

    def _grads(self) -> Tensor:
        """[B, P, c]."""
        shape = (self._batch, -1, self.module.out_features)
        return torch.cat([self._output_grad(call).reshape(shape) for call in self._calls], 1)

    def tensors(self) -> dict[str, Tensor]:
        parts = {"input": self._inputs(), "output_grad": self._grads()}
        return parts if self._is_sequence else {name: part.squeeze(1) for name, part in parts.items()}

    def parameter_matrix(self) -> Tensor:
        return _with_bias(self.module.weight.T, self.module.bias if self.has_bias else None)

    def add(self, change: Tensor) -> None:
        _add(self.module.weight, change[: self.module.in_features].T)
        if self.has_bias:
            _add(self.module.bias, change[-1])

    def samples(self) -> Samples:
        inputs = self._inputs()
        return (_with_ones(inputs) if self.has_bias else inputs), self._grads()

    def weighted_gradient(self, kappa: Tensor) -> Tensor:
        return _weighted_product(self.samples(), kappa)

    def jacobian(self) -> Tensor:
        a, g = self.samples()
        return a.mT @ g

    def predicted_change(self, args: tuple[Any, ...]) -> Tensor | None:
        difference = args[0].to(self.dtype) - self._call.input.to(self.dtype)
        change = functional.linear(difference, self.module.weight.to(self.dtype))
        return _sample_dots(self._output_grad(self._call), change)


class EmbeddingStage(Stage):
    """nn.Embedding, over any number of positions and calls."""

    module: nn.Embedding

    def __init__(self, name: str, module: nn.Embedding, has_bias: bool) -> None:
        super().__init__(name, module, has_bias)
        if module.max_norm is not None:
            raise UnsupportedLayerError(f"embedding {name} has max_norm, which changes it in the forward pass; leave it out")

    @property
    def parameters(self) -> list[Tensor]:
        return [self.module.weight]

    def _check(self) -> None:
        return

    def definition(self) -> Definition:
        return {"kind": "embedding", "inputs": self.module.num_embeddings, "outputs": self.module.embedding_dim}

    def _tokens(self) -> Tensor:
        """[B, P]."""
        return torch.cat([call.input.reshape(self._batch, -1) for call in self._calls], 1).long()

    def _grads(self) -> Tensor:
        """[B, P, c]; 0 at padding, whose row is not trained."""
        shape = (self._batch, -1, self.module.embedding_dim)
        grads = torch.cat([self._output_grad(call).reshape(shape) for call in self._calls], 1)
        padding = self.module.padding_idx
        return grads if padding is None else grads * (self._tokens() != padding).unsqueeze(-1)

    def tensors(self) -> dict[str, Tensor]:
        # The service takes one floating-point type throughout; token numbers are exact in it.
        return {"input": self._tokens().to(self.dtype), "output_grad": self._grads()}

    def parameter_matrix(self) -> Tensor:
        return self.module.weight

    def add(self, change: Tensor) -> None:
        _add(self.module.weight, change)

    def weighted_gradient(self, kappa: Tensor) -> Tensor:
        weighted = kappa.view(-1, 1, 1) * self._grads()
        zeros = torch.zeros_like(self.module.weight, dtype=self.dtype)
        return zeros.index_add_(0, self._tokens().flatten(), weighted.flatten(0, 1))

    def jacobian(self) -> Tensor:
        tokens, grads = self._tokens(), self._grads()
        result = grads.new_zeros(self._batch, *self.module.weight.shape)
        samples = torch.arange(self._batch, device=tokens.device).unsqueeze(1).expand_as(tokens)
        return result.index_put_((samples, tokens), grads, accumulate=True)

    def predicted_change(self, args: tuple[Any, ...]) -> Tensor | None:
        del args  # tokens do not change
        return None


class Conv2dStage(Stage):
    """nn.Conv2d and nn.Conv1d, which is one of height 1."""

    module: nn.Conv2d | nn.Conv1d

    @property
    def parameters(self) -> list[Tensor]:
        bias = [self.module.bias] if self.has_bias and self.module.bias is not None else []
        return [self.module.weight, *bias]

    def definition(self) -> Definition:
        x, padding = self._input, self._padding()
        return {
            "kind": "conv2d",
            "height": x.shape[2],
            "width": x.shape[3],
            "inputs": self.module.in_channels,
            "outputs": self.module.out_channels,
            "kernel": list(self._weight.shape[2:]),
            "strides": self._pair(self.module.stride, 1),
            "dilations": self._pair(self.module.dilation, 1),
            "padding": {"kind": "explicit", "rows": [padding[0]] * 2, "columns": [padding[1]] * 2},
            "groups": self.module.groups,
            "bias": self.has_bias,
        }

    def _pair(self, values: Sequence[int], first: int) -> list[int]:
        return [first, *values] if len(values) == 1 else list(values)

    @property
    def _weight(self) -> Tensor:
        """[c, C/groups, rows, columns]."""
        weight = self.module.weight.to(self.dtype)
        return weight.unsqueeze(2) if weight.dim() == 3 else weight

    def _pads_before(self) -> bool:
        return self.module.padding_mode != "zeros" or isinstance(self.module.padding, str)

    def _padding(self) -> list[int]:
        """Zeros on either side of rows and columns that are left to the convolution."""
        if self._pads_before() or isinstance(self.module.padding, str):
            return [0, 0]
        return self._pair(self.module.padding, 0)

    def _prepared(self, x: Tensor) -> Tensor:
        """[B, C, height, width], padded where the service's convolution has no such padding."""
        if self._pads_before():
            mode = "constant" if self.module.padding_mode == "zeros" else self.module.padding_mode
            x = functional.pad(x, self.module._reversed_padding_repeated_twice, mode=mode)
        return (x.unsqueeze(2) if x.dim() == 3 else x).detach().to(self.dtype)

    @property
    def _input(self) -> Tensor:
        return self._prepared(self._call.input)

    def _grads(self) -> Tensor:
        """[B, c, rows, columns]."""
        grads = self._output_grad(self._call)
        return grads.unsqueeze(2) if grads.dim() == 3 else grads

    def tensors(self) -> dict[str, Tensor]:
        return {"input": self._input.permute(0, 2, 3, 1), "output_grad": self._grads().permute(0, 2, 3, 1)}

    def parameter_matrix(self) -> Tensor:
        bias = self.module.bias if self.has_bias else None
        return _with_bias(self._as_matrix(self._weight), bias)

    def _as_matrix(self, weight: Tensor) -> Tensor:
        return weight.permute(2, 3, 1, 0).reshape(-1, self.module.out_channels)

    def add(self, change: Tensor) -> None:
        c, per_group, rows, columns = self._weight.shape
        weight = change[: rows * columns * per_group].reshape(rows, columns, per_group, c).permute(3, 2, 0, 1)
        _add(self.module.weight, weight.reshape(self.module.weight.shape))
        if self.has_bias and self.module.bias is not None:
            _add(self.module.bias, change[-1])

    def _geometry(self) -> dict[str, Any]:
        return {
            "stride": self._pair(self.module.stride, 1),
            "padding": self._padding(),
            "dilation": self._pair(self.module.dilation, 1),
        }

    def weighted_gradient(self, kappa: Tensor) -> Tensor:
        weighted = kappa.view(-1, 1, 1, 1) * self._grads()
        shape = self._weight.shape
        weight = conv2d_weight(self._input, shape, weighted, groups=self.module.groups, **self._geometry())
        return _with_bias(self._as_matrix(weight), weighted.sum((0, 2, 3)) if self.has_bias else None)

    def _patches(self) -> Tensor:
        """[B, P, groups, rows·columns·C/groups], the channels last as in the parameter matrix."""
        kernel = self._weight.shape[2:]
        patches = functional.unfold(self._input, kernel, **self._geometry())
        groups, positions = self.module.groups, patches.shape[-1]
        per_group = self.module.in_channels // groups
        split = patches.reshape(self._batch, groups, per_group, math.prod(kernel), positions)
        return split.permute(0, 4, 1, 3, 2).reshape(self._batch, positions, groups, -1)

    def samples(self) -> Samples | None:
        if self.module.groups > 1:
            return None
        return self.blocks()[0]

    def blocks(self) -> list[Samples]:
        patches, grads = self._patches(), self._grouped_grads()
        a = _with_ones(patches) if self.has_bias else patches
        return [(a[:, :, group], grads[:, :, group]) for group in range(self.module.groups)]

    def _grouped_grads(self) -> Tensor:
        """[B, P, groups, c/groups]."""
        grads = self._grads().flatten(2).mT
        return grads.reshape(*grads.shape[:2], self.module.groups, -1)

    def jacobian(self) -> Tensor:
        patches = self._patches()
        grads = self._grads().flatten(2).mT
        weight = torch.einsum("bpgn,bpgc->bngc", patches, self._grouped_grads()).flatten(2)
        return torch.cat([weight, grads.sum(1, keepdim=True)], 1) if self.has_bias else weight

    def predicted_change(self, args: tuple[Any, ...]) -> Tensor | None:
        difference = self._prepared(args[0]) - self._input
        change = functional.conv2d(difference, self._weight, groups=self.module.groups, **self._geometry())
        return _sample_dots(self._grads(), change)


NORMALISATIONS = (nn.LayerNorm, nn.GroupNorm, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class ScaleShiftStage(Stage):
    """The scale and shift of a normalisation, whose inputs are what has been normalised."""

    module: nn.LayerNorm | nn.GroupNorm | nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d

    @property
    def parameters(self) -> list[Tensor]:
        return [self.module.weight, self.module.bias] if self.has_bias else [self.module.weight]

    def definition(self) -> Definition:
        return {
            "kind": "scale-shift",
            "features": self.module.weight.numel(),
            "shift": self.has_bias,
            "sequence": self._normalised(self._call.input).shape[1] > 1,
        }

    def _normalised(self, x: Tensor) -> Tensor:
        """[B, P, features]."""
        x, module = x.detach().to(self.dtype), self.module
        if isinstance(module, nn.LayerNorm):
            return self._positions(functional.layer_norm(x, module.normalized_shape, eps=module.eps))
        if isinstance(module, nn.GroupNorm):
            return self._positions(functional.group_norm(x, module.num_groups, eps=module.eps))
        uses_batch = module.training or module.running_mean is None or module.running_var is None
        mean = None if uses_batch else module.running_mean
        variance = None if uses_batch else module.running_var
        return self._positions(functional.batch_norm(x, mean, variance, training=uses_batch, eps=module.eps))

    def _positions(self, x: Tensor) -> Tensor:
        """[B, P, features] of a tensor as the module has it: LayerNorm's features come last, those of the others second."""
        if not isinstance(self.module, nn.LayerNorm):
            x = x.movedim(1, -1)
        return x.reshape(self._batch, -1, self.module.weight.numel())

    def _grads(self) -> Tensor:
        return self._positions(self._output_grad(self._call))

    def tensors(self) -> dict[str, Tensor]:
        parts = {"input": self._normalised(self._call.input), "output_grad": self._grads()}
        return parts if parts["input"].shape[1] > 1 else {name: part.squeeze(1) for name, part in parts.items()}

    def parameter_matrix(self) -> Tensor:
        return torch.stack([parameter.flatten() for parameter in self.parameters])

    def decaying_matrix(self) -> Tensor:
        return torch.zeros_like(self.parameter_matrix())

    def add(self, change: Tensor) -> None:
        for parameter, row in zip(self.parameters, change, strict=True):
            _add(parameter, row.reshape(parameter.shape))

    def weighted_gradient(self, kappa: Tensor) -> Tensor:
        return torch.einsum("b,brc->rc", kappa, self.jacobian())

    def jacobian(self) -> Tensor:
        grads = self._grads()
        rows = [(grads * self._normalised(self._call.input)).sum(1)]
        if self.has_bias:
            rows.append(grads.sum(1))
        return torch.stack(rows, 1)

    def predicted_change(self, args: tuple[Any, ...]) -> Tensor | None:
        difference = self._normalised(args[0]) - self._normalised(self._call.input)
        return _sample_dots(self._grads(), difference * self.module.weight.flatten().to(self.dtype))


class GenericStage(Stage):
    """Any other module, or several together: per-sample gradients by torch.func."""

    def __init__(self, name: str, module: nn.Module, parameters: Mapping[str, nn.Parameter]) -> None:
        super().__init__(name, module, has_bias=False)
        self._named = dict(parameters)
        self._jacobian: Tensor | None = None

    @property
    def parameters(self) -> list[Tensor]:
        return list(self._named.values())

    def record(self, calls: Sequence[Call], batch: int) -> None:
        super().record(calls, batch)
        # Now, since it may refuse, and since the module's own hooks must not run in the second forward pass.
        self._jacobian = self._per_sample_gradients()

    def forget(self) -> None:
        super().forget()
        self._jacobian = None

    def definition(self) -> Definition:
        return {"kind": "generic", "parameters": sum(parameter.numel() for parameter in self.parameters)}

    def tensors(self) -> dict[str, Tensor]:
        return {"param_grad": self.jacobian().squeeze(1)}

    def parameter_matrix(self) -> Tensor:
        return torch.cat([parameter.flatten() for parameter in self.parameters]).unsqueeze(0)

    def add(self, change: Tensor) -> None:
        sizes = [parameter.numel() for parameter in self.parameters]
        for parameter, part in zip(self.parameters, torch.split(change[0], sizes), strict=True):
            _add(parameter, part.reshape(parameter.shape))

    def weighted_gradient(self, kappa: Tensor) -> Tensor:
        return (kappa @ self.jacobian().squeeze(1)).unsqueeze(0)

    def jacobian(self) -> Tensor:
        assert self._jacobian is not None  # what is recorded has one
        return self._jacobian

    def _per_sample_gradients(self) -> Tensor:
        """[B, 1, m]."""
        call = self._call
        args = tuple(arg.detach() if isinstance(arg, Tensor) else arg for arg in call.args)
        axes = tuple(0 if self._is_batch(arg) else None for arg in args)
        module, kwargs = self.module, call.kwargs
        wrong = [key for key, value in kwargs.items() if self._is_batch(value)]
        if wrong:
            raise UnsupportedLayerError(f"layer {self.name} takes samples as the keyword {wrong[0]}; pass them by position")

        def loss(parameters: dict[str, Tensor], output_grad: Tensor, *sample: Any) -> Tensor:
            alone = tuple(part if axis is None else part.unsqueeze(0) for part, axis in zip(sample, axes, strict=True))
            output: Tensor = functional_call(module, parameters, alone, kwargs)
            return (output.squeeze(0).to(output_grad.dtype) * output_grad).sum()

        parameters = {key: parameter.detach() for key, parameter in self._named.items()}
        per_sample = vmap(grad(loss), in_dims=(None, 0, *axes))
        try:
            with warnings.catch_warnings():
                # Operations that vmap runs sample by sample: right, and nothing that a user could change.
                warnings.filterwarnings("ignore", message="There is a performance drop")
                gradients = per_sample(parameters, self._output_grad(call), *args)
        except RuntimeError as error:
            raise UnsupportedLayerError(
                f"the gradients of layer {self.name} ({type(module).__name__}) cannot be taken sample by sample: {error}"
            ) from error
        flat = [gradients[key].reshape(self._batch, -1).to(self.dtype) for key in self._named]
        return torch.cat(flat, 1).unsqueeze(1)

    def _is_batch(self, value: Any) -> bool:
        return isinstance(value, Tensor) and value.dim() > 0 and value.shape[0] == self._batch

    def predicted_change(self, args: tuple[Any, ...]) -> Tensor | None:
        total: Tensor | None = None
        for position, gradient in self._call.input_grads.items():
            difference = args[position].to(self.dtype) - self._call.args[position].detach().to(self.dtype)
            dots = _sample_dots(gradient.to(self.dtype), difference)
            total = dots if total is None else total + dots
        return total


def _add(parameter: Tensor, change: Tensor) -> None:
    with torch.no_grad():
        parameter.add_(change.to(parameter.dtype))


def _with_bias(weight: Tensor, bias: Tensor | None) -> Tensor:
    return weight if bias is None else torch.cat([weight, bias.unsqueeze(0)])


def _with_ones(inputs: Tensor) -> Tensor:
    return torch.cat([inputs, inputs.new_ones(*inputs.shape[:-1], 1)], -1)


def _weighted_product(samples: Samples, kappa: Tensor) -> Tensor:
    a, g = samples
    return a.flatten(0, 1).T @ (kappa.view(-1, 1, 1) * g).flatten(0, 1)


def _sample_dots(gradient: Tensor, difference: Tensor) -> Tensor:
    """⟨gradient_i, difference_i⟩, [B]."""
    return (gradient * difference).flatten(1).sum(1)
