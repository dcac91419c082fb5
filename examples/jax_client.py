"""A multilayer perceptron in JAX, trained through the plain client: JAX differentiates, the service keeps the curvature.

The gradient of every sample's own loss in a layer's output is the gradient in something that is added to that output.

    npm start                                             # in another terminal
    pip install -r examples/requirements-jax.txt
    python examples/jax_client.py
"""

from __future__ import annotations

import argparse
import gzip
from itertools import pairwise
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import ddpnopt

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--epochs", type=int, default=5)
parser.add_argument("--batch", type=int, default=64)
arguments = parser.parse_args()

generator = np.random.default_rng(0)
with gzip.open(Path(__file__).parents[1] / "clients" / "datasets" / "digits" / "digits.csv.gz", "rt") as lines:
    table = generator.permutation(np.loadtxt(lines, delimiter=","))
images, labels = (table[:, :-1] / 16).astype(np.float32), table[:, -1].astype(int)
test = slice(1500, None)

widths = [64, 32, 32, 10]
names = [f"dense{t}" for t in range(len(widths) - 1)]
parameters = [
    {"weight": generator.standard_normal((n, c)).astype(np.float32) / np.float32(np.sqrt(n)), "bias": np.zeros(c, np.float32)}
    for n, c in pairwise(widths)
]


def layer(parameter: Any, x: Any) -> Any:
    """What the layer's activation gets."""
    return x @ parameter["weight"] + parameter["bias"]


def activate(t: int, output: Any) -> Any:
    """Tanh, but for the last layer."""
    return output if t == len(widths) - 2 else jnp.tanh(output)


def sample_losses(scores: Any, y: Any) -> Any:
    """Cross-entropy, [B]."""
    return -jax.nn.log_softmax(scores)[jnp.arange(len(y)), y]


@jax.jit
def passes(parameters: Any, x: Any, y: Any) -> Any:
    """Losses [B]; every layer's input, output, and gradient in its output."""

    def forward(added: Any) -> Any:
        inputs, outputs, changed = [], [], x
        for t, (parameter, nothing) in enumerate(zip(parameters, added, strict=True)):
            inputs.append(changed)
            outputs.append(layer(parameter, changed) + nothing)
            changed = activate(t, outputs[-1])
        losses = sample_losses(changed, y)
        return losses.sum(), (losses, inputs, outputs)

    nothing = [jnp.zeros((len(x), c)) for c in widths[1:]]
    gradients, (losses, inputs, outputs) = jax.grad(forward, has_aux=True)(nothing)
    return losses, inputs, outputs, gradients


@jax.jit
def predicted_change(parameter: Any, changed: Any, output: Any, gradient: Any) -> Any:
    """s [B]: what the layers before have just done to every sample's loss."""
    return ((layer(parameter, changed) - output) * gradient).sum(1)


# The service is where DDPNOPT_URL says, or at http://127.0.0.1:8787.
client = ddpnopt.Client()
session = client.create_session(
    {
        "layers": [
            {"name": name, "kind": "dense", "inputs": n, "outputs": c} for name, (n, c) in zip(names, pairwise(widths), strict=True)
        ]
    }
)
for epoch in range(arguments.epochs):
    for batch in np.array_split(generator.permutation(1500), 1500 // arguments.batch):
        x, y = jnp.asarray(images[batch]), jnp.asarray(labels[batch])
        losses, inputs, outputs, gradients = passes(parameters, x, y)
        step = {"losses": losses}
        for name, layer_input, gradient in zip(names, inputs, gradients, strict=True):
            step[f"layers.{name}.input"] = layer_input
            step[f"layers.{name}.output_grad"] = gradient
        reply = session.step(step)

        # The second forward pass: each layer reacts to what the layers before it have just changed.
        changed = x
        for t, name in enumerate(names):
            s = predicted_change(parameters[t], changed, outputs[t], gradients[t])
            change = reply.policy(name).change(np.asarray(s))
            parameters[t] = {key: value + change[key] for key, value in parameters[t].items()}
            changed = activate(t, layer(parameters[t], changed))
    scores = jnp.asarray(images[test])
    for t, parameter in enumerate(parameters):
        scores = activate(t, layer(parameter, scores))
    accuracy = float((scores.argmax(1) == labels[test]).mean())
    print(f"epoch {epoch + 1}: loss {session.history[-1]['loss']:.4f}, test accuracy {100 * accuracy:.1f} %")
session.delete()
client.close()
