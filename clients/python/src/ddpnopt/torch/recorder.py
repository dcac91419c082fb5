"""Which modules are stages, and the hooks that see their calls."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge

from ddpnopt.torch.stages import (
    NORMALISATIONS,
    Call,
    Conv2dStage,
    DenseStage,
    EmbeddingStage,
    GenericStage,
    ScaleShiftStage,
    Stage,
    UnsupportedLayerError,
)

Calls = dict[nn.Module, list[Call]]
"""In the order in which the modules were first called."""


def _edge(tensor: Any) -> Any:
    return get_gradient_edge(tensor) if isinstance(tensor, Tensor) and tensor.requires_grad else None


@contextmanager
def recording(modules: Sequence[nn.Module], input_grads: Callable[[nn.Module], bool]) -> Iterator[Calls]:
    """Notes every call of these modules.

    Args:
        modules: of a model.
        input_grads: for which of them the gradients in their inputs are wanted, too.
    """
    calls: Calls = {}

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        tensors = {position: arg for position, arg in enumerate(args) if isinstance(arg, Tensor)}
        edges = {position: _edge(tensor) for position, tensor in tensors.items()} if input_grads(module) else {}
        edges = {position: edge for position, edge in edges.items() if edge is not None}
        versions = {position: tensor._version for position, tensor in tensors.items()}
        calls.setdefault(module, []).append(Call(args, kwargs, None, None, edges, versions))

    def after(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        del args, kwargs
        call = calls[module][-1]
        if isinstance(output, Tensor):
            call.output, call.edge = output, _edge(output)

    handles = [module.register_forward_pre_hook(before, with_kwargs=True) for module in modules]
    # Before others' hooks, which may put another tensor in the output's place.
    handles += [module.register_forward_hook(after, with_kwargs=True, prepend=True) for module in modules]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def applying(stages: Mapping[nn.Module, Stage], apply: Callable[[Stage, tuple[Any, ...]], None]) -> Iterator[None]:
    """Applies each stage's change when a forward pass first reaches it; what it does not reach is an error."""
    waiting = dict(stages)

    def before(module: nn.Module, args: tuple[Any, ...]) -> None:
        stage = waiting.pop(module, None)
        if stage is not None:
            device = next(iter(stage.parameters)).device.type
            with torch.no_grad(), torch.autocast(device, enabled=False):
                apply(stage, args)

    handles = [module.register_forward_pre_hook(before) for module in stages]
    try:
        yield
        if waiting:
            names = ", ".join(stage.name for stage in waiting.values())
            raise UnsupportedLayerError(f"the second call of the closure did not reach {names}; it must do what the first did")
    finally:
        for handle in handles:
            handle.remove()


def differentiate(losses: Tensor, calls: Calls, parameters: Sequence[nn.Parameter] = ()) -> dict[nn.Parameter, Tensor]:
    """One backward pass: gradients of each sample's own loss in the outputs, and in the inputs that were asked for.

    Returns:
        The gradients of the losses' sum in those of the parameters that they depend on.
    """
    every = [call for of_module in calls.values() for call in of_module]
    edges = [call.edge for call in every if call.edge is not None]
    edges += [edge for call in every for edge in call.input_edges.values()]
    if not losses.requires_grad:
        raise ValueError("the losses depend on no parameter that is trained; does the closure call the model, with gradients?")
    gradients = iter(torch.autograd.grad(losses.sum(), [*edges, *parameters], allow_unused=True))
    for call in every:
        if call.edge is not None:
            call.output_grad = next(gradients)
    for call in every:
        for position in call.input_edges:
            gradient = next(gradients)
            if gradient is not None:
                call.input_grads[position] = gradient
    return {parameter: gradient for parameter in parameters if (gradient := next(gradients)) is not None}


def check_gradients(stages: Iterable[Stage], gradients: Mapping[nn.Parameter, Tensor], batch: int) -> None:
    """Holds what the stages make of the recorded calls against PyTorch's own gradients.

    Args:
        stages: with the calls of a pass.
        gradients: of the sum of its losses, by parameter.
        batch: B.

    Raises:
        UnsupportedLayerError: for parameters that the losses depend on in another way, too.
    """
    total = torch.stack([gradient.double().norm() for gradient in gradients.values()]).norm()
    for stage in stages:
        tolerance = 0.1 if stage.is_rounded else 0.01
        matrix = stage.weighted_gradient(torch.ones(batch, dtype=total.dtype, device=stage.parameters[0].device).to(stage.dtype))
        for parameter, found in zip(stage.parameters, stage.as_parameters(matrix), strict=True):
            expected = gradients[cast(nn.Parameter, parameter)].double()
            # Where gradients cancel nothing is left of them but rounding.
            if (found.double() - expected).norm() > tolerance * (expected.norm() + 0.01 * total):
                shape = list(parameter.shape)
                raise UnsupportedLayerError(
                    f"the losses depend on the parameter {shape} of layer {stage.name} not through the layer's calls alone: it is "
                    "used outside of them, as weights are that F.linear shares or that a penalty is made of, or the layer does not "
                    "treat samples independently. Call the module itself, take the penalty out (weight_decay is one), or freeze it"
                )


def layer_name(name: str) -> str:
    """A name as the service takes it."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", name)[:128]


def plan(model: nn.Module, used: Collection[nn.Parameter], calls: Calls, batch: int) -> list[Stage]:
    """The stages of a model, in the order of the forward pass that was recorded.

    Args:
        model: whose modules were recorded, all of them.
        used: the parameters to train, without those that the losses do not depend on.
        calls: of the first forward pass.
        batch: B.

    Raises:
        UnsupportedLayerError: for parameters that no module is responsible for.
    """
    names = {module: name or "model" for name, module in model.named_modules()}
    parents = {child: module for module in names for child in module.children()}
    held: dict[nn.Parameter, str] = {}
    generic: dict[nn.Module, dict[str, nn.Parameter]] = {}
    stages: dict[nn.Module, Stage] = {}
    for module, name in names.items():
        own = {key: parameter for key, parameter in module.named_parameters(recurse=False) if parameter in used}
        for key, parameter in own.items():
            if parameter in held:
                raise UnsupportedLayerError(
                    f"{name}.{key} is the same parameter as {held[parameter]}: shared weights of different modules are not "
                    "supported; call one module twice if it is a Linear or an Embedding, or freeze one of the layers"
                )
            held[parameter] = f"{name}.{key}"
        if not own:
            continue
        stage = _known_stage(layer_name(name), module, own) if _takes_samples(module, calls, batch) else None
        if stage is not None:
            stages[module] = stage
            continue
        owner: nn.Module | None = module
        path: list[str] = []
        while owner is not None and not _is_function(owner, calls, batch):
            parent = parents.get(owner)
            if parent is not None:
                path.insert(0, next(key for key, child in parent.named_children() if child is owner))
            owner = parent
        if owner is None:
            raise UnsupportedLayerError(
                f"no module around {name} is called with the samples on the first axis and gives one tensor with them there; "
                f"freeze its parameters ({', '.join(own)}), or wrap what uses them into such a module"
            )
        generic.setdefault(owner, {}).update({".".join([*path, key]): parameter for key, parameter in own.items()})
    for module, parameters in generic.items():
        name = layer_name(names[module])
        if module in stages:
            raise UnsupportedLayerError(f"the layers inside {name} are not called as modules; wrap them into a module of their own")
        stages[module] = GenericStage(name, module, parameters)
    order = {module: position for position, module in enumerate(calls)}
    return [stages[module] for module in sorted(stages, key=order.__getitem__)]


def _known_stage(name: str, module: nn.Module, own: Mapping[str, nn.Parameter]) -> Stage | None:
    if "weight" not in own or set(own) - {"weight", "bias"}:
        return None
    has_bias = "bias" in own
    # Subclasses may do something else in their forward.
    if type(module) is nn.Linear:
        return DenseStage(name, module, has_bias)
    if type(module) in (nn.Conv2d, nn.Conv1d):
        return Conv2dStage(name, module, has_bias)
    if type(module) is nn.Embedding:
        return EmbeddingStage(name, module, has_bias)
    if type(module) in NORMALISATIONS:
        return ScaleShiftStage(name, module, has_bias)
    return None


def _takes_samples(module: nn.Module, calls: Calls, batch: int) -> bool:
    """Whether every call has the samples on the first axis of its only argument."""
    found = calls.get(module, [])
    return bool(found) and all(
        len(call.args) == 1 and not call.kwargs and _has_samples(call.args[0], batch) and _has_samples(call.output, batch)
        for call in found
    )


def _is_function(module: nn.Module, calls: Calls, batch: int) -> bool:
    """Whether it is called once, with samples, and gives them back as one tensor."""
    found = calls.get(module, [])
    return (
        len(found) == 1
        and any(_has_samples(arg, batch) for arg in found[0].args)
        and _has_samples(found[0].output, batch)
        and found[0].edge is not None
    )


def _has_samples(value: Any, batch: int) -> bool:
    return isinstance(value, Tensor) and value.dim() > 0 and value.shape[0] == batch
