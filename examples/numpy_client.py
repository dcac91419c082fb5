"""A multilayer perceptron in NumPy, trained through the plain client: no framework at all.

The passes are the script's own; the service keeps the curvature, and answers with a policy for every layer, which is applied in a
second forward pass. The same calls serve JAX and everything else that makes arrays.

    npm start                                  # in another terminal
    python examples/numpy_client.py
"""

from __future__ import annotations

import argparse
import gzip
from itertools import pairwise
from pathlib import Path

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
train, test = slice(0, 1500), slice(1500, None)

widths = [64, 32, 10]
names = ["hidden", "out"]
weights = [generator.standard_normal((n, c)).astype(np.float32) / np.float32(np.sqrt(n)) for n, c in pairwise(widths)]
biases = [np.zeros(c, np.float32) for c in widths[1:]]

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
        x, y = images[batch], labels[batch]

        # Forward and backward, keeping every layer's input and the gradient of each sample's own loss in its output.
        outputs = [x @ weights[0] + biases[0]]
        hidden = np.tanh(outputs[0])
        outputs.append(hidden @ weights[1] + biases[1])
        probabilities = np.exp(outputs[1] - outputs[1].max(1, keepdims=True))
        probabilities /= probabilities.sum(1, keepdims=True)
        out_gradient = probabilities - np.eye(10, dtype=np.float32)[y]
        gradients = [(out_gradient @ weights[1].T) * (1 - hidden**2), out_gradient]
        step = {"losses": -np.log(probabilities[np.arange(len(y)), y] + 1e-12)}
        for name, layer_input, gradient in zip(names, [x, hidden], gradients, strict=True):
            step[f"layers.{name}.input"] = layer_input
            step[f"layers.{name}.output_grad"] = gradient
        reply = session.step(step)

        # The second forward pass: each layer learns what the layers before it have just done to every sample's loss.
        changed = x
        for t, name in enumerate(names):
            s = ((changed @ weights[t] + biases[t] - outputs[t]) * gradients[t]).sum(1)
            change = reply.policy(name).change(s)
            weights[t] += change["weight"]
            biases[t] += change["bias"]
            changed = np.tanh(changed @ weights[t] + biases[t])
    scores = np.tanh(images[test] @ weights[0] + biases[0]) @ weights[1] + biases[1]
    accuracy = (scores.argmax(1) == labels[test]).mean()
    print(f"epoch {epoch + 1}: loss {session.history[-1]['loss']:.4f}, test accuracy {100 * accuracy:.1f} %")
session.delete()
client.close()
