"""Answers requests, one JSON object a line, so that a benchmark can take turns with the peers in one run.

    {"command": "describe"}                            → versions and threads
    {"command": "prepare", "network": …, "batch": n, …} → {"parameters": count, "milliseconds": preparation}
    {"command": "steps", "count": n}                   → {"milliseconds": […], "losses": […], "lossesAfter": […]}
    {"command": "parameters"}                          → {"parameters": [array, …]}
    {"command": "evaluate", "inputs": …, "labels": …}  → {"loss": …, "accuracy": …}
    {"command": "matmul", "size": n}                   → {"milliseconds": …, "flopsPerSecond": …}

A request that fails is answered with {"error": …}. Arrays are base64 of little-endian numbers of the network's
precision. Start it with OMP_WAIT_POLICY=PASSIVE: otherwise PyTorch's threads spin between requests and take the cores
from whoever's turn it is.
"""

from __future__ import annotations

import argparse
import base64
import ctypes
import json
import platform
import sys
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from adam import Adam, Whitening
from curvature import KroneckerOptions
from ddpnopt import DdpNopt
from kfac import Kfac
from networks import Network
from trainer import Trainer

Request = Mapping[str, Any]
PRECISIONS = {"float32": torch.float32, "float64": torch.float64}
# Batches of random samples that the steps go through when the request brings no data.
RANDOM_BATCHES = 8


def decoded(text: str, dtype: torch.dtype) -> Tensor:
    """An array from its base64 form."""
    return torch.frombuffer(bytearray(base64.b64decode(text)), dtype=dtype)


def encoded(tensor: Tensor) -> str:
    """The base64 form of an array."""
    values = tensor.contiguous()
    return base64.b64encode(ctypes.string_at(values.data_ptr(), values.nbytes)).decode("ascii")


class Task:
    """A network, its batches and its optimizer, ready to take steps."""

    def __init__(self, request: Request) -> None:
        began = time.perf_counter()
        self.dtype = PRECISIONS[request.get("precision", "float32")]
        generator = torch.Generator().manual_seed(request.get("seed", 0))
        declaration: dict[str, Any] = dict(request["network"])
        batch: int = request["batch"]
        features = torch.Size(declaration["input"]).numel()
        optimizer: Request = request["optimizer"]
        if "inputs" in request:
            inputs = decoded(request["inputs"], self.dtype).view(-1, features)
        else:
            inputs = torch.randn(batch * RANDOM_BATCHES, features, generator=generator, dtype=self.dtype)
        self.whitening: Whitening | None = None
        if "whitening" in optimizer:
            rank: int = optimizer["whitening"]["rank"]
            self.whitening = Whitening(inputs, rank, optimizer["whitening"]["damping"])
            inputs = self.whitening(inputs)
            declaration["input"] = [rank]
        self.network = Network(declaration, self.dtype)
        if "parameters" in request:
            self.network.set_parameters([decoded(text, self.dtype) for text in request["parameters"]])
        else:
            self.network.initialise(generator)
        if "labels" in request:
            labels = torch.tensor(request["labels"])
        else:
            labels = torch.randint(self.network.classes, (len(inputs),), generator=generator)
        if len(labels) != len(inputs) or len(inputs) < batch:
            raise ValueError(f"{len(inputs)} samples with {len(labels)} labels make no batch of {batch}")
        samples = self.network.prepared(inputs)
        whole = len(inputs) // batch * batch
        self._batches = list(zip(samples[:whole].split(batch), labels[:whole].split(batch), strict=True))
        self._taken = 0
        self.trainer = make_trainer(self.network, optimizer)
        self.milliseconds = 1000 * (time.perf_counter() - began)

    def steps(self, count: int) -> dict[str, Any]:
        """Takes the next steps, through the batches in turn."""
        milliseconds, before, after = [], [], []
        for _ in range(count):
            inputs, labels = self._batches[self._taken % len(self._batches)]
            began = time.perf_counter()
            losses = self.trainer.step(inputs, labels)
            milliseconds.append(1000 * (time.perf_counter() - began))
            before.append(losses.before)
            after.append(losses.after)
            self._taken += 1
        return {"milliseconds": milliseconds, "losses": before, "lossesAfter": after}

    def trained(self) -> Network:
        """The network with the parameters as they are now."""
        if isinstance(self.trainer, Adam):
            self.trainer.store()
        return self.network

    def evaluate(self, request: Request) -> dict[str, float]:
        """Mean loss and accuracy on the request's samples."""
        labels = torch.tensor(request["labels"])
        inputs = decoded(request["inputs"], self.dtype).view(len(labels), -1)
        if self.whitening is not None:
            inputs = self.whitening(inputs)
        with torch.no_grad():
            outputs = self.trained()(inputs)
            loss = functional.cross_entropy(outputs, labels)
            accuracy = (outputs.argmax(1) == labels).double().mean()
        return {"loss": float(loss), "accuracy": float(accuracy)}


def make_trainer(network: Network, optimizer: Request) -> Trainer:
    """The optimizer that a request names."""
    kind, learning_rate = optimizer["kind"], optimizer["learningRate"]
    if kind == "adam":
        return Adam(network, learning_rate)
    if kind == "kfac":
        return Kfac(network, KroneckerOptions.of(optimizer), learning_rate)
    if kind == "ddpnopt":
        coupling = optimizer.get("batchCoupling", "full")
        return DdpNopt(network, KroneckerOptions.of(optimizer), learning_rate, coupling)
    raise ValueError(f"there is no peer {kind}")


def matmul(size: int) -> dict[str, float]:
    """The rate of a product of two float32 matrices of that order."""
    left, right, result = torch.randn(size, size), torch.randn(size, size), torch.empty(size, size)
    torch.mm(left, right, out=result)
    began = time.perf_counter()
    torch.mm(left, right, out=result)
    seconds = time.perf_counter() - began
    return {"milliseconds": 1000 * seconds, "flopsPerSecond": 2 * size**3 / seconds}


class Server:
    """The requests and the task they are about."""

    def __init__(self) -> None:
        self._task: Task | None = None

    def answer(self, request: Request) -> dict[str, Any]:
        """The reply to one request."""
        command = request["command"]
        if command == "describe":
            return {
                "python": platform.python_version(),
                "torch": torch.__version__,
                "threads": torch.get_num_threads(),
                "capability": torch.backends.cpu.get_cpu_capability(),
            }
        if command == "matmul":
            return dict(matmul(request["size"]))
        if command == "prepare":
            self._task = None
            self._task = Task(request)
            count = sum(values.numel() for values in self._task.network.parameters())
            return {"parameters": count, "milliseconds": self._task.milliseconds}
        if self._task is None:
            raise ValueError(f"{command} needs a prepared task")
        if command == "steps":
            return self._task.steps(request["count"])
        if command == "parameters":
            return {"parameters": [encoded(values) for values in self._task.trained().parameters()]}
        if command == "evaluate":
            return dict(self._task.evaluate(request))
        raise ValueError(f"there is no command {command}")


def main() -> None:
    """Reads requests until the input ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, help="threads of an operation; PyTorch's own choice if left out")
    arguments = parser.parse_args()
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    server = Server()
    for line in sys.stdin:
        try:
            reply = server.answer(json.loads(line))
        # Whatever goes wrong is the asker's to know; the process lives on for the next request.
        except Exception as error:
            reply = {"error": f"{type(error).__name__}: {error}"}
        try:
            line = json.dumps(reply, allow_nan=False)
        except ValueError:
            line = json.dumps({"error": "the training diverged: a loss is not a finite number"})
        print(line, flush=True)


if __name__ == "__main__":
    main()
