"""A convolutional network on Fashion-MNIST, with a learning-rate scheduler, mixed precision and a checkpoint.

npm start                                  # in another terminal
npm run bench:data -- fashion-mnist        # Fashion-MNIST; without it the script takes DIGITS
python examples/pytorch_fashion_cnn.py
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from data import load_images
from torch import Tensor, nn
from torch.nn import functional as F

from ddpnopt.torch import DDPNOpt

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--data", type=Path, default=Path(".datasets/fashion-mnist"))
parser.add_argument("--training", type=int, help="so many training images at most")
parser.add_argument("--epochs", type=int, default=2)
parser.add_argument("--batch", type=int, default=64)
parser.add_argument("--checkpoint", type=Path, help="a file to save to, and to go on from if it is there")
arguments = parser.parse_args()

torch.manual_seed(0)
device = "cuda" if torch.cuda.is_available() else "cpu"
images, labels, test_images, test_labels = (part.to(device) for part in load_images(arguments.data, arguments.training))
size = images.shape[-1] // 4
model = nn.Sequential(
    nn.Conv2d(1, 8, 3, padding=1),
    nn.GroupNorm(2, 8),
    nn.ReLU(inplace=True),
    nn.MaxPool2d(2),
    nn.Conv2d(8, 16, 3, padding=1),
    nn.ReLU(inplace=True),
    nn.MaxPool2d(2),
    nn.Flatten(),
    nn.Linear(16 * size * size, 10),
).to(device)

steps = arguments.epochs * -(-len(images) // arguments.batch)
optimizer = DDPNOpt(model, lr=10.0, send_as="bf16")
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, eta_min=0.1)
begun = 0
if arguments.checkpoint is not None and arguments.checkpoint.exists():
    saved = torch.load(arguments.checkpoint, map_location=device)
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    scheduler.load_state_dict(saved["scheduler"])
    begun = saved["epoch"]
    print(f"going on after epoch {begun}")


def losses_of(x: Tensor, y: Tensor) -> Tensor:
    """The loss of every sample; the passes of the network in bfloat16."""
    with torch.autocast(device, dtype=torch.bfloat16):
        output = model(x)
    return F.cross_entropy(output.float(), y, reduction="none")


for epoch in range(begun, arguments.epochs):
    for batch in optimizer.progress(torch.randperm(len(images)).split(arguments.batch), f"epoch {epoch + 1}"):
        x, y = images[batch], labels[batch]
        losses = optimizer.step(lambda: losses_of(x, y))
        scheduler.step()
    with torch.no_grad():
        accuracy = (model(test_images).argmax(1) == test_labels).float().mean()
    print(f"epoch {epoch + 1}: loss {losses.before.mean():.4f}, test accuracy {100 * accuracy:.1f} %")
    if arguments.checkpoint is not None:
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}
        torch.save({**state, "epoch": epoch + 1}, arguments.checkpoint)
optimizer.close()
