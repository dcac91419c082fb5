"""The optimizers of torch.optim as PyTorch's users run them, on a module of PyTorch's own layers.

Weights decay and biases do not. Which form of decay is each optimizer's standard: SGD and RMSprop add λu to the gradient (an L2
penalty), as torch.optim does; Adam and Muon take ηλu away beside their update (decoupled; Loshchilov & Hutter, 2019, and Jordan
et al., 2024), as torch.optim.AdamW and torch.optim.Muon do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import SGD, AdamW, Muon, Optimizer, RMSprop

from losses import Loss
from networks import Network
from trainer import Losses

KINDS = ("sgd", "rmsprop", "adam", "muon")


class TorchOptimizer:
    """One or more optimizers of torch.optim, each with its share of a module's parameters."""

    def __init__(self, network: Network, loss: Loss, options: Mapping[str, Any]) -> None:
        self._network = network
        self._loss = loss
        self._module = network.module()
        layers = [layer for layer in self._module if isinstance(layer, nn.Linear | nn.Conv2d)]
        self._flattened: list[tuple[Tensor, Tensor]] = []
        self._optimizers = self._make(layers, options)

    def _make(self, layers: Sequence[nn.Linear | nn.Conv2d], options: Mapping[str, Any]) -> list[Optimizer]:
        kind, rate = options["kind"], options["learningRate"]
        decay: float = options.get("weightDecay", 0.0)
        biases: list[Tensor] = [layer.bias for layer in layers if layer.bias is not None]
        weights: list[Tensor] = [layer.weight for layer in layers]
        groups = [{"params": weights, "weight_decay": decay}, {"params": biases, "weight_decay": 0.0}]
        if kind == "sgd":
            return [SGD(groups, lr=rate, momentum=options.get("momentum", 0.9))]
        if kind == "rmsprop":
            return [RMSprop(groups, lr=rate, alpha=options.get("decay", 0.99), momentum=options.get("momentum", 0.0))]
        if kind == "adam":
            # Without decay it is Adam.
            return [AdamW(groups, lr=rate, fused=True)]
        if kind == "muon":
            # Hidden weights only; biases and the output layer are left to AdamW. At this scale of the update both take one η.
            hidden = [self._flat(weight) for weight in weights[:-1]]
            head = [{"params": weights[-1:], "weight_decay": decay}, {"params": biases, "weight_decay": 0.0}]
            momentum = options.get("momentum", 0.95)
            muon = Muon(hidden, lr=rate, weight_decay=decay, momentum=momentum, adjust_lr_fn="match_rms_adamw")
            return [*([muon] if hidden else []), AdamW(head, lr=rate, fused=True)]
        raise ValueError(f"torch.optim has no {kind} here")

    def _flat(self, weight: Tensor) -> Tensor:
        """A weight as the matrix that Muon takes: of a kernel [outputs, all else], in the memory of the kernel."""
        if weight.dim() == 2:
            return weight
        flat = nn.Parameter(weight.detach().permute(0, 2, 3, 1).flatten(1))
        if flat.data_ptr() != weight.data_ptr():
            raise AssertionError("a kernel that is not channels-last has been copied")
        self._flattened.append((weight, flat))
        return flat

    @property
    def learning_rate(self) -> float:
        return float(self._optimizers[0].param_groups[0]["lr"])

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = value

    def step(self, inputs: Tensor, labels: Tensor) -> Losses:
        """Forward, backward, update."""
        self._module.zero_grad()
        loss = self._loss(self._module(inputs), labels).mean()
        loss.backward()
        for weight, flat in self._flattened:
            if weight.grad is not None:
                flat.grad = weight.grad.permute(0, 2, 3, 1).flatten(1)
        for optimizer in self._optimizers:
            optimizer.step()
        return Losses(float(loss.detach()))

    def store(self) -> None:
        """Hands the trained parameters to the network."""
        self._network.take_module(self._module)


def is_torch_optimizer(kind: str) -> bool:
    """Whether `TorchOptimizer` has that kind."""
    return kind in KINDS
