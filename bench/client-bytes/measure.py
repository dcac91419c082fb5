"""Bytes per step of every mode and model, as one JSON document on standard output; the service is where DDPNOPT_URL says.

How many bytes travel depends on shapes alone, so the images are random ones of MNIST's size.
"""

from __future__ import annotations

import json
from typing import Any

import ddpnopt
import torch
from ddpnopt.torch import DDPNOpt
from torch import Tensor, nn
from torch.nn import functional as F

BATCH = 64
STEPS = 20


def perceptron(width: int) -> tuple[nn.Sequential, dict[str, Any]]:
    """Two hidden layers, and the same declared."""
    layers: list[dict[str, Any]] = [{"kind": "flatten"}]
    for name in ("a", "b"):
        layers += [{"kind": "dense", "name": name, "outputs": width}, {"kind": "relu"}]
    layers.append({"kind": "dense", "name": "c", "outputs": 10})
    hidden = [nn.Linear(784, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(width, 10)), {"input": [28, 28, 1], "layers": layers}


def convolutional() -> tuple[nn.Sequential, dict[str, Any]]:
    """Two convolutions and a dense layer."""
    modules: list[nn.Module] = []
    layers: list[dict[str, Any]] = []
    for name, inputs, outputs in (("a", 1, 16), ("b", 16, 32)):
        modules += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        layers.append({"kind": "conv2d", "name": name, "outputs": outputs, "kernel": [3, 3], "padding": {"kind": "same"}})
        layers += [{"kind": "relu"}, {"kind": "max-pooling", "window": [2, 2]}]
    layers += [{"kind": "flatten"}, {"kind": "dense", "name": "c", "outputs": 10}]
    return nn.Sequential(*modules, nn.Flatten(), nn.Linear(1568, 10)), {"input": [28, 28, 1], "layers": layers}


MODES: dict[str, dict[str, Any]] = {
    "layers, feedback": {},
    "layers, feedback, bf16": {"send_as": "bf16", "reply_as": "bf16"},
    "layers, value": {"coupling": "value"},
    "kernel, kronecker": {"mode": "kernel"},
    "kernel, identity": {"mode": "kernel", "metric": "identity", "lr": 0.01},
}


def mean_bytes(history: list[dict[str, Any]]) -> dict[str, float]:
    """Over the steps that were taken."""
    return {name: sum(step[name] for step in history) / len(history) for name in ("bytesSent", "bytesReceived")}


def in_pytorch(model: nn.Module, x: Tensor, y: Tensor, options: dict[str, Any]) -> dict[str, float]:
    """Of a model that PyTorch runs."""
    optimizer = DDPNOpt(model, **options)
    for _ in range(STEPS):
        optimizer.step(lambda: F.cross_entropy(model(x), y, reduction="none"))
    measured = mean_bytes(optimizer.history)
    optimizer.close()
    return measured


def hosted(declaration: dict[str, Any], x: Tensor, y: Tensor) -> dict[str, float]:
    """Of a model that the service runs."""
    with ddpnopt.Client() as client:
        session = client.create_session({"mode": "hosted", "model": declaration, "loss": {"kind": "softmax-cross-entropy"}})
        for _ in range(STEPS):
            session.step({"x": x.movedim(1, -1), "y": y})
        session.delete()
        return mean_bytes(session.history)


def measure() -> list[dict[str, Any]]:
    """One entry per model."""
    results = []
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(BATCH, 1, 28, 28, generator=generator)
    y = torch.randint(0, 10, (BATCH,), generator=generator)
    makers = {"784-64-64-10": lambda: perceptron(64), "784-512-512-10": lambda: perceptron(512), "CNN 16-32": convolutional}
    for name, make in makers.items():
        modes = {}
        for mode, options in MODES.items():
            torch.manual_seed(0)
            modes[mode] = in_pytorch(make()[0], x, y, options)
        model, declaration = make()
        modes["hosted"] = hosted(declaration, x, y)
        results.append({"model": name, "parameters": sum(each.numel() for each in model.parameters()), "modes": modes})
    return results


print(json.dumps({"batch": BATCH, "steps": STEPS, "torch": torch.__version__, "models": measure()}))
