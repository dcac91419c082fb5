"""A multilayer perceptron on MNIST, trained by the service as a PyTorch optimizer.

npm start                                  # in another terminal
npm run bench:data -- mnist                # MNIST; without it the script takes DIGITS
python examples/pytorch_mnist_mlp.py
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from data import load_images
from torch import nn
from torch.nn import functional as F

from ddpnopt.torch import DDPNOpt

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--data", type=Path, default=Path(".datasets/mnist"))
parser.add_argument("--training", type=int, help="so many training images at most")
parser.add_argument("--epochs", type=int, default=2)
parser.add_argument("--batch", type=int, default=128)
parser.add_argument("--mode", choices=["layers", "kernel"], default="layers")
arguments = parser.parse_args()

torch.manual_seed(0)
images, labels, test_images, test_labels = load_images(arguments.data, arguments.training)
model = nn.Sequential(nn.Flatten(), nn.Linear(images[0].numel(), 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))

# The service is where DDPNOPT_URL says, or at http://127.0.0.1:8787.
optimizer = DDPNOpt(model, mode=arguments.mode)
for epoch in range(arguments.epochs):
    for batch in optimizer.progress(torch.randperm(len(images)).split(arguments.batch), f"epoch {epoch + 1}"):
        x, y = images[batch], labels[batch]
        losses = optimizer.step(lambda: F.cross_entropy(model(x), y, reduction="none"))
    with torch.no_grad():
        accuracy = (model(test_images).argmax(1) == test_labels).float().mean()
    print(f"epoch {epoch + 1}: loss {losses.before.mean():.4f}, test accuracy {100 * accuracy:.1f} %")

history = optimizer.history_arrays()
sent, received = (history[name].mean() / 1000 for name in ("bytesSent", "bytesReceived"))
parameters = sum(parameter.numel() for parameter in model.parameters())
print(f"{len(history['loss'])} steps of {parameters} parameters: {sent:.0f} kB sent and {received:.0f} kB received per step")
optimizer.close()
