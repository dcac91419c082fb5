"""The PyTorch optimizer's changes are those of the dense float64 oracle, layer by layer, second forward pass included."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from ddpnopt.torch import DDPNOpt  # noqa: E402

BATCH = 5
RATE = 3.0
LOSS_SCALE = {"floor": 0.6, "ceiling": 50}
KRONECKER = {"kind": "kronecker", "decay": 0.9, "damping": 0.05}

Oracle = Callable[[dict[str, Any]], Any]


class Scale(nn.Module):
    """A layer that the service does not know: y = tanh(x) ∘ a + b·x."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.linspace(0.5, 1.5, features))
        self.b = nn.Parameter(torch.tensor(0.3))

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x) * self.a + self.b * x


class Mean(nn.Module):
    """The mean over positions."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1)


def networks() -> dict[str, tuple[nn.Sequential, Tensor, Tensor]]:
    """Chains of modules, inputs and labels."""
    labels = torch.tensor([0, 1, 2, 1, 0])
    images = torch.randn(BATCH, 2, 5, 4)
    return {
        "dense": (
            nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5, bias=False), nn.ReLU(inplace=True), nn.Linear(5, 3)),
            torch.randn(BATCH, 4),
            labels,
        ),
        "conv2d": (
            nn.Sequential(
                nn.Conv2d(2, 4, 3, padding=1, stride=(2, 1)),
                nn.Tanh(),
                nn.Conv2d(4, 4, (2, 3), groups=2, padding="same", bias=False),
                nn.ReLU(),
                nn.Conv2d(4, 2, 2, dilation=(1, 2)),
                nn.Flatten(),
                nn.Linear(8, 3),
            ),
            images,
            labels,
        ),
        "circular padding and one dimension": (
            nn.Sequential(nn.Conv1d(2, 3, 3, padding=1, padding_mode="circular"), nn.Sigmoid(), nn.Flatten(), nn.Linear(15, 3)),
            torch.randn(BATCH, 2, 5),
            labels,
        ),
        "layer norm": (nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Tanh(), nn.Linear(6, 3)), torch.randn(BATCH, 4), labels),
        "group norm": (
            nn.Sequential(nn.Conv2d(2, 4, 2), nn.GroupNorm(2, 4), nn.Tanh(), nn.Flatten(), nn.Linear(48, 3)),
            images,
            labels,
        ),
        "embedding and sequences": (
            nn.Sequential(nn.Embedding(7, 4, padding_idx=0), nn.Linear(4, 5), nn.Tanh(), nn.LayerNorm(5), Mean(), nn.Linear(5, 3)),
            torch.randint(0, 7, (BATCH, 3)),
            labels,
        ),
        "generic": (nn.Sequential(nn.Linear(4, 5), Scale(5), nn.Linear(5, 3)), torch.randn(BATCH, 4), labels),
    }


def normalised(module: nn.Module, x: Tensor) -> Tensor:
    """What a normalisation's scale and shift are applied to, by the definition of mean and variance."""
    if isinstance(module, nn.GroupNorm):
        grouped = x.reshape(len(x), module.num_groups, -1)
        centred = grouped - grouped.mean(2, keepdim=True)
        return (centred / (centred.square().mean(2, keepdim=True) + module.eps).sqrt()).reshape(x.shape)
    assert isinstance(module, nn.LayerNorm)
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + module.eps).sqrt()


def affine(module: nn.Module, x: Tensor) -> Tensor:
    """Scale and shift of a normalisation."""
    assert isinstance(module, nn.GroupNorm | nn.LayerNorm)
    shape = (1, -1, 1, 1) if isinstance(module, nn.GroupNorm) else (-1,)
    return x * module.weight.reshape(shape) + module.bias.reshape(shape)


def on_a_copy(module: nn.Module, x: Tensor) -> Tensor:
    return module(x.clone())


def steps_of(network: nn.Sequential) -> list[tuple[nn.Module | None, Callable[[Tensor], Tensor]]]:
    """The network as functions, each with the module whose parameters it uses."""
    steps: list[tuple[nn.Module | None, Callable[[Tensor], Tensor]]] = []
    for module in network:
        if isinstance(module, nn.GroupNorm | nn.LayerNorm):
            steps.append((None, partial(normalised, module)))
            steps.append((module, partial(affine, module)))
        elif list(module.parameters()):
            steps.append((module, module))
        else:
            steps.append((None, partial(on_a_copy, module)))
    return steps


def layer_of(module: nn.Module, x: Tensor, y: Tensor) -> dict[str, Any]:
    """The module in the oracle's words."""
    if isinstance(module, nn.Linear):
        bias = module.bias is not None
        positions = 1 if x.dim() == 2 else x.shape[1]
        return {"kind": "dense", "positions": positions, "inputs": module.in_features, "outputs": module.out_features, "bias": bias}
    if isinstance(module, nn.Embedding):
        return {"kind": "embedding", "positions": x.shape[1], "vocabulary": module.num_embeddings, "outputs": module.embedding_dim}
    if isinstance(module, nn.LayerNorm):
        return {"kind": "scale-shift", "positions": x[0].numel() // x.shape[-1], "features": x.shape[-1], "shift": True}
    if isinstance(module, nn.GroupNorm):
        return {"kind": "scale-shift", "positions": x[0, 0].numel(), "features": x.shape[1], "shift": True}
    if isinstance(module, nn.Conv2d):
        kernel, dilation = module.kernel_size, module.dilation
        padding = (
            [[p, p] for p in module.padding]
            if not isinstance(module.padding, str)
            else [[(k - 1) * d // 2, (k - 1) * d - (k - 1) * d // 2] for k, d in zip(kernel, dilation, strict=True)]
        )
        return {
            "kind": "conv2d",
            "height": x.shape[2],
            "width": x.shape[3],
            "inputs": x.shape[1],
            "outputs": y.shape[1],
            "kernel": kernel,
            "strides": module.stride,
            "dilations": dilation,
            "padding": padding,
            "groups": module.groups,
            "bias": module.bias is not None,
        }
    if isinstance(module, nn.Conv1d):
        return {
            "kind": "conv2d",
            "height": 1,
            "width": x.shape[2] + 2,
            "inputs": x.shape[1],
            "outputs": y.shape[1],
            "kernel": [1, *module.kernel_size],
            "strides": [1, 1],
            "dilations": [1, 1],
            "padding": [[0, 0], [0, 0]],
            "groups": 1,
            "bias": True,
        }
    return {"kind": "generic", "parameters": sum(parameter.numel() for parameter in module.parameters())}


def layer_batch(module: nn.Module, x: Tensor, y: Tensor, g: Tensor) -> dict[str, Any]:
    """Inputs and gradients of every sample, flat, in the oracle's order of axes."""
    if isinstance(module, Scale):
        rows = []
        for i in range(len(x)):
            gradients = torch.autograd.grad((module(x[i : i + 1]) * g[i : i + 1]).sum(), list(module.parameters()))
            rows.append(torch.cat([gradient.flatten() for gradient in gradients]).tolist())
        return {"inputs": [[] for _ in rows], "gradients": rows}
    if isinstance(module, nn.Embedding) and module.padding_idx is not None:
        g = g * (x != module.padding_idx).unsqueeze(-1)
    if isinstance(module, nn.Conv1d):
        x = torch.cat([x[..., -1:], x, x[..., :1]], -1)
    if isinstance(module, nn.Conv2d | nn.Conv1d | nn.GroupNorm):
        x, g = x.movedim(1, -1), g.movedim(1, -1)
    return {"inputs": x.detach().flatten(1).double().tolist(), "gradients": g.flatten(1).tolist()}


def change_module(module: nn.Module, change: Tensor) -> None:
    """Adds a change in the oracle's order to a module's parameters."""
    with torch.no_grad():
        if isinstance(module, Scale | nn.LayerNorm | nn.GroupNorm):
            parts = change.split([parameter.numel() for parameter in module.parameters()])
            for parameter, part in zip(module.parameters(), parts, strict=True):
                parameter.add_(part.reshape(parameter.shape))
            return
        weight = module.weight
        assert isinstance(weight, Tensor)
        matrix = change[: weight.numel()]
        if isinstance(module, nn.Embedding):
            weight += matrix.reshape(weight.shape)
        elif isinstance(module, nn.Linear):
            weight += matrix.reshape(weight.T.shape).T
        elif isinstance(module, nn.Conv1d):
            c, channels, k = weight.shape
            weight += matrix.reshape(k, channels, c).permute(2, 1, 0)
        else:
            c, channels, rows, columns = weight.shape
            weight += matrix.reshape(rows, columns, channels, c).permute(3, 2, 0, 1)
        bias = getattr(module, "bias", None)
        if isinstance(bias, Tensor):
            bias += change[weight.numel() :]


class ExactTrainer:
    """Steps by the oracle, on a network in float64."""

    def __init__(self, network: nn.Sequential, metric: dict[str, Any], oracle: Oracle) -> None:
        self._network, self._metric, self._oracle = network, metric, oracle
        self._batches: list[dict[str, Any]] = []

    def step(self, x: Tensor, labels: Tensor, *, lag: int = 0) -> Tensor:
        """The losses after a step, whose metric has not seen the newest `lag` batches."""
        steps = steps_of(self._network)
        states = [x]
        for _, function in steps:
            states.append(function(states[-1]))
        losses = F.cross_entropy(states[-1], labels, reduction="none")
        wanted = [state for state in states if state.requires_grad]
        found = dict(zip(map(id, wanted), torch.autograd.grad(losses.sum(), wanted, retain_graph=True), strict=True))
        owned = [(t, module) for t, (module, _) in enumerate(steps) if module is not None]
        self._batches.append(
            {
                "losses": losses.tolist(),
                "layers": [layer_batch(module, states[t], states[t + 1], found[id(states[t + 1])]) for t, module in owned],
            }
        )
        policies = iter(
            self._oracle(
                {
                    "layers": [layer_of(module, states[t], states[t + 1]) for t, module in owned],
                    "batches": self._batches,
                    "metric": self._metric,
                    "learningRate": RATE,
                    "lossScale": LOSS_SCALE,
                    "lag": lag,
                }
            )
        )
        with torch.no_grad():
            changed = x
            for t, (module, function) in enumerate(steps):
                if module is not None:
                    policy = next(policies)
                    s = torch.zeros(len(x), dtype=torch.float64)
                    if id(states[t]) in found:
                        s = (found[id(states[t])] * (changed - states[t])).flatten(1).sum(1)
                    change_module(module, torch.tensor(policy["k"]).double() + torch.tensor(policy["K"]).double() @ s)
                changed = function(changed)
            return F.cross_entropy(changed, labels, reduction="none")


def parameters_of(network: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().double().flatten() for parameter in network.parameters()])


def relative_error(actual: Tensor, expected: Tensor) -> float:
    return float((actual - expected).norm() / expected.norm())


def prepared(name: str, precision: str) -> tuple[nn.Sequential, nn.Sequential, Tensor, Tensor, Tensor]:
    """A network, the same one in float64, inputs for either, and labels."""
    torch.manual_seed(4)
    network, x, labels = networks()[name]
    exact = networks()[name][0]
    exact.load_state_dict(network.state_dict())
    dtype = getattr(torch, precision)
    given, exact_given = (x.to(dtype), x.double()) if x.is_floating_point() else (x, x)
    return network.to(dtype), exact.double(), given, exact_given, labels


# What is sent is in the model's precision, what comes back in float32.
BOUNDS = {"float64": 2e-7, "float32": 2e-4}
OPTIONS = {"learningRate": {"kind": "constant"}, "terminalCurvature": {"kind": "gradient", "lossScale": LOSS_SCALE}}
CASES = [("layers", "kronecker"), ("layers", "identity"), ("kernel", "identity")]


@pytest.mark.parametrize(("mode", "kind"), CASES, ids=["-".join(case) for case in CASES])
@pytest.mark.parametrize("name", list(networks()))
@pytest.mark.parametrize("precision", list(BOUNDS))
def test_the_steps_are_the_oracles(
    name: str, mode: Any, kind: str, precision: str, url: str, exact_url: str, oracle: Oracle
) -> None:
    network, exact, x, exact_x, labels = prepared(name, precision)
    metric: dict[str, Any] = {"kind": "identity"} if kind == "identity" else KRONECKER
    trainer = ExactTrainer(exact, metric, oracle)
    chosen = metric if kind == "identity" else metric | {"refreshEvery": 1}
    address = exact_url if precision == "float64" else url
    optimizer = DDPNOpt(network, url=address, lr=RATE, metric=chosen, mode=mode, optimizer=OPTIONS)
    begin, bound = parameters_of(network), BOUNDS[precision]
    for _ in range(2):
        after = trainer.step(exact_x, labels)
        losses = optimizer.step(lambda: F.cross_entropy(network(x), labels, reduction="none"))
        assert relative_error(parameters_of(network) - begin, parameters_of(exact) - begin) < bound
        assert losses.after is not None
        torch.testing.assert_close(losses.after.double(), after, rtol=100 * bound, atol=bound)
    optimizer.close()


@pytest.mark.parametrize("name", ["dense", "conv2d", "circular padding and one dimension"])
@pytest.mark.parametrize("precision", list(BOUNDS))
def test_kernels_in_the_services_factors(name: str, precision: str, url: str, exact_url: str, oracle: Oracle) -> None:
    """The first step has the factors of its own batch; later ones arrive two steps after the batch that they are of."""
    network, exact, x, exact_x, labels = prepared(name, precision)
    trainer = ExactTrainer(exact, KRONECKER, oracle)
    address = exact_url if precision == "float64" else url
    optimizer = DDPNOpt(network, url=address, lr=RATE, metric=KRONECKER, mode="kernel", statistics_every=1, optimizer=OPTIONS)
    begin = parameters_of(network)
    for lag in (0, 1, 2):
        trainer.step(exact_x, labels, lag=lag)
        optimizer.step(lambda: F.cross_entropy(network(x), labels, reduction="none"))
        assert relative_error(parameters_of(network) - begin, parameters_of(exact) - begin) < BOUNDS[precision]
    assert optimizer.history[0]["step"] == 1
    optimizer.close()
