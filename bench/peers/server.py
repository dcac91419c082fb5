"""Answers requests, one JSON object a line, so that a benchmark can take turns with the peers in one run.

    {"command": "describe"}                            → versions and threads
    {"command": "prepare", "network": …, "batch": n, …} → {"parameters": count, "milliseconds": preparation}
    {"command": "steps", "count": n}                   → {"milliseconds": […], "losses": […], "lossesAfter": […]}
    {"command": "steps", "samples": [index, …]}        → the same, on these samples of the data, batch after batch
    {"command": "train", "samples": [index, …], "every": n, "parts": {name: data}}
                                                       → {"evaluations": […], "milliseconds": …, "divergedAt": step or null}
    {"command": "parameters"}                          → {"parameters": [array, …]}
    {"command": "gradients", "samples": [index, …]}    → {"norms": [of every layer, …]}
    {"command": "evaluate", "inputs": …, "labels": …}  → {"loss": …, "accuracy": …}
    {"command": "matmul", "size": n}                   → {"milliseconds": …, "flopsPerSecond": …}

Data come in the request, as "inputs" and "labels", or lie in files, "files": {"inputs": path, "labels": path, "size": n}, inputs
as little-endian float32, labels as bytes.

A request that fails is answered with {"error": …}. Arrays are base64 of little-endian numbers of the network's
precision. Start it with OMP_WAIT_POLICY=PASSIVE: otherwise PyTorch's threads spin between requests and take the cores
from whoever's turn it is.
"""

from __future__ import annotations

import argparse
import base64
import ctypes
import json
import math
import platform
import sys
import time
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from curvature import KroneckerOptions
from ddpnopt import DdpNopt
from ekfac import EkfacCurvature
from emsa import Emsa
from kfac import KfacCurvature
from losses import Loss, make_loss
from natural_gradient import NaturalGradient
from networks import Network
from torch_optimizers import TorchOptimizer, is_torch_optimizer
from trainer import Losses, Trainer
from vanilla_ddp import DEFAULT_MEMORY_LIMIT, VanillaDdp
from whitening import Whitening

Request = Mapping[str, Any]
PRECISIONS = {"float32": torch.float32, "float64": torch.float64}
# Batches of random samples that the steps go through when the request brings no data.
RANDOM_BATCHES = 8
# What a training that diverges ends with: a number that is none, or a factorisation that there is not.
DIVERGENCE = (ArithmeticError, torch.linalg.LinAlgError)  # type: ignore[attr-defined]


def decoded(text: str, dtype: torch.dtype) -> Tensor:
    """An array from its base64 form."""
    return torch.frombuffer(bytearray(base64.b64decode(text)), dtype=dtype)


def encoded(tensor: Tensor) -> str:
    """The base64 form of an array."""
    values = tensor.contiguous()
    return base64.b64encode(ctypes.string_at(values.data_ptr(), values.nbytes)).decode("ascii")


def mapped(files: Mapping[str, Any], features: int) -> tuple[Tensor, Tensor]:
    """Inputs and labels that lie in files, one sample after the other."""
    size: int = files["size"]
    inputs = torch.from_file(files["inputs"], shared=False, size=size * features, dtype=torch.float32)
    labels = torch.from_file(files["labels"], shared=False, size=size, dtype=torch.uint8)
    return inputs.view(size, features), labels.long()


def cosine(progress: float) -> float:
    """The share of the learning rate at a share of the steps: half a cosine from 1 to 0."""
    return (1 + math.cos(math.pi * min(1.0, progress))) / 2


class Task:
    """A network, its batches and its optimizer, ready to take steps."""

    def __init__(self, request: Request) -> None:
        began = time.perf_counter()
        self.dtype = PRECISIONS[request.get("precision", "float32")]
        generator = torch.Generator().manual_seed(request.get("seed", 0))
        declaration: dict[str, Any] = dict(request["network"])
        batch: int = request["batch"]
        features = self._features = torch.Size(declaration["input"]).numel()
        optimizer: Request = request["optimizer"]
        given = mapped(request["files"], features) if "files" in request else None
        if given is not None:
            inputs = given[0]
        elif "inputs" in request:
            inputs = decoded(request["inputs"], self.dtype).view(-1, features)
        else:
            inputs = torch.randn(batch * RANDOM_BATCHES, features, generator=generator, dtype=self.dtype)
        self.whitening: Whitening | None = None
        self.whitening_milliseconds = 0.0
        if "whitening" in optimizer:
            whitening_began = time.perf_counter()
            rank: int = optimizer["whitening"]["rank"]
            self.whitening = Whitening(inputs, rank, optimizer["whitening"]["damping"])
            inputs = self.whitening(inputs)
            declaration["input"] = [rank]
            self.whitening_milliseconds = 1000 * (time.perf_counter() - whitening_began)
        self.network = Network(declaration, self.dtype)
        self.loss = make_loss(request.get("loss", {"kind": "softmax-cross-entropy"}), self.network.classes, self.dtype)
        if "parameters" in request:
            self.network.set_parameters([decoded(text, self.dtype) for text in request["parameters"]])
        else:
            self.network.initialise(generator)
        if given is not None:
            labels = given[1]
        elif "labels" in request:
            labels = torch.tensor(request["labels"])
        else:
            labels = torch.randint(self.network.classes, (len(inputs),), generator=generator)
        if len(labels) != len(inputs) or len(inputs) < batch:
            raise ValueError(f"{len(inputs)} samples with {len(labels)} labels make no batch of {batch}")
        self._batch = batch
        self._samples, self._labels = self.network.prepared(inputs), labels
        whole = len(inputs) // batch * batch
        self._batches = list(zip(self._samples[:whole].split(batch), labels[:whole].split(batch), strict=True))
        self._taken = 0
        self._schedule_steps: int | None = optimizer.get("cosineSteps")
        self._learning_rate: float = optimizer["learningRate"]
        self.trainer = make_trainer(self.network, self.loss, optimizer)
        self.milliseconds = 1000 * (time.perf_counter() - began)

    def steps(self, count: int) -> dict[str, Any]:
        """Takes the next steps, through the batches in turn."""
        taken = self._taken
        return self._train(self._batches[(taken + index) % len(self._batches)] for index in range(count))

    def steps_on(self, samples: list[int]) -> dict[str, Any]:
        """Takes the next steps on batches of these samples; the last may be smaller."""
        chosen = torch.tensor(samples).split(self._batch)
        return self._train((self._samples[indices], self._labels[indices]) for indices in chosen)

    def _train(self, batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, Any]:
        milliseconds, before, after = [], [], []
        for inputs, labels in batches:
            began = time.perf_counter()
            losses = self._step(inputs, labels)
            milliseconds.append(1000 * (time.perf_counter() - began))
            before.append(losses.before)
            after.append(losses.after)
        return {"milliseconds": milliseconds, "losses": before, "lossesAfter": after}

    def _step(self, inputs: Tensor, labels: Tensor) -> Losses:
        if self._schedule_steps is not None:
            self.trainer.learning_rate = self._learning_rate * cosine(self._taken / self._schedule_steps)
        losses = self.trainer.step(inputs, labels)
        self._taken += 1
        return losses

    def train(self, request: Request) -> dict[str, Any]:
        """A whole training in one request: steps on these samples, and evaluations after every so many of them and the last."""
        every: int = request["every"]
        parts = {name: self._part(part) for name, part in request["parts"].items()}
        batches = torch.tensor(request["samples"]).split(self._batch)
        milliseconds, losses = 0.0, 0.0
        evaluations: list[dict[str, Any]] = []
        diverged: int | None = None
        last = 0
        for count, indices in enumerate(batches, 1):
            inputs, labels = self._samples[indices], self._labels[indices]
            began = time.perf_counter()
            try:
                loss = self._step(inputs, labels).before
            except DIVERGENCE:
                loss = math.nan
            milliseconds += 1000 * (time.perf_counter() - began)
            losses += loss
            if not math.isfinite(loss):
                diverged = count
                break
            if count % every != 0 and count != len(batches):
                continue
            scores = {name: self._score(*part) for name, part in parts.items()}
            if not all(math.isfinite(score["loss"]) for score in scores.values()):
                diverged = count
                break
            trained = {"steps": count, "milliseconds": milliseconds, "trainLoss": losses / (count - last)}
            evaluations.append({**trained, "scores": scores})
            losses, last = 0.0, count
        return {"milliseconds": milliseconds, "evaluations": evaluations, "divergedAt": diverged}

    def trained(self) -> Network:
        """The network with the parameters as they are now."""
        if isinstance(self.trainer, TorchOptimizer):
            self.trainer.store()
        return self.network

    def gradient_norms(self, samples: list[int]) -> list[float]:
        """‖∂/∂u_t‖ of the mean loss on these samples, weight and bias together, of every layer."""
        stages = self.trained().stages
        indices = torch.tensor(samples)
        matrices = [stage.layer.matrix.clone().requires_grad_() for stage in stages]
        state = self._samples[indices]
        for stage, matrix in zip(stages, matrices, strict=True):
            state = stage.applied(matrix, state)
        gradients = torch.autograd.grad(self.loss(state, self._labels[indices]).mean(), matrices)
        return [float(gradient.norm()) for gradient in gradients]

    def evaluate(self, request: Request) -> dict[str, float]:
        """Mean loss and accuracy on the request's samples."""
        return self._score(*self._part(request))

    def _part(self, request: Request) -> tuple[Tensor, Tensor]:
        """The inputs and labels that a request brings, or names."""
        if "files" in request:
            inputs, labels = mapped(request["files"], self._features)
        else:
            labels = torch.tensor(request["labels"])
            inputs = decoded(request["inputs"], self.dtype).view(len(labels), -1)
        return (inputs if self.whitening is None else self.whitening(inputs)), labels

    def _score(self, inputs: Tensor, labels: Tensor) -> dict[str, float]:
        with torch.no_grad():
            outputs = self.trained()(inputs)
            loss = self.loss(outputs, labels).mean()
            accuracy = (self.loss.predictions(outputs) == labels).double().mean()
        return {"loss": float(loss), "accuracy": float(accuracy)}


def make_trainer(network: Network, loss: Loss, optimizer: Request) -> Trainer:
    """The optimizer that a request names."""
    # JSON's 1e20 is a whole number here, which no tensor takes.
    kind, learning_rate = optimizer["kind"], float(optimizer["learningRate"])
    decay: float = optimizer.get("weightDecay", 0.0)
    if is_torch_optimizer(kind):
        return TorchOptimizer(network, loss, optimizer)
    if kind in ("kfac", "ekfac"):
        options = KroneckerOptions.of(optimizer)
        curvature = KfacCurvature if kind == "kfac" else EkfacCurvature
        momentum = optimizer.get("momentum", 0.0)
        return NaturalGradient(
            network, loss, lambda stage: curvature(stage, options), options, learning_rate, momentum, decay
        )
    if kind == "ddpnopt":
        coupling = optimizer.get("batchCoupling", "full")
        return DdpNopt(network, loss, KroneckerOptions.of(optimizer), learning_rate, coupling, decay)
    if kind == "e-msa":
        penalty, iterations = optimizer.get("penalty", 1.0), optimizer.get("iterations", 10)
        return Emsa(network, loss, learning_rate, penalty, iterations, decay)
    if kind == "vanilla-ddp":
        dynamics = optimizer.get("dynamics", "second-order")
        limit = optimizer.get("memoryLimit", DEFAULT_MEMORY_LIMIT)
        return VanillaDdp(network, loss, learning_rate, dynamics, decay, limit)
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
            whitening = self._task.whitening_milliseconds
            return {"parameters": count, "milliseconds": self._task.milliseconds, "whiteningMilliseconds": whitening}
        if self._task is None:
            raise ValueError(f"{command} needs a prepared task")
        if command == "steps" and "samples" in request:
            return self._task.steps_on(request["samples"])
        if command == "steps":
            return self._task.steps(request["count"])
        if command == "train":
            return self._task.train(request)
        if command == "gradients":
            return {"norms": self._task.gradient_norms(request["samples"])}
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
        except DIVERGENCE as error:
            reply = {"error": f"the training diverged: {type(error).__name__}: {error}"}
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
