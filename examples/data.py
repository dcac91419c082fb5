"""Images for the examples: MNIST's format from a folder, or the digits that come with this repository."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

DIGITS = Path(__file__).parents[1] / "clients" / "datasets" / "digits" / "digits.csv.gz"


def load_images(folder: Path, training: int | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training images [N, 1, rows, columns] with pixels in [0, 1], their labels, test images, their labels.

    Args:
        folder: with the four IDX files of MNIST or Fashion-MNIST; `npm run bench:data -- mnist` or `fashion-mnist` brings
            them. Without it: DIGITS.
        training: so many training images at most.
    """
    if (folder / "train-images-idx3-ubyte").exists():
        images, labels = (_idx(folder / f"train-{name}-ubyte") for name in ("images-idx3", "labels-idx1"))
        test_images, test_labels = (_idx(folder / f"t10k-{name}-ubyte") for name in ("images-idx3", "labels-idx1"))
        scale = 255
    else:
        print(f"{folder} has no IDX files (npm run bench:data brings them): taking DIGITS, 1,797 images of 8×8")
        with gzip.open(DIGITS, "rt") as lines:
            table = torch.from_numpy(np.loadtxt(lines, delimiter=",")).round().long()
        table = table[torch.randperm(len(table), generator=torch.Generator().manual_seed(0))]
        every = table[:, :-1].reshape(-1, 8, 8), table[:, -1]
        (images, labels), (test_images, test_labels) = ((part[:1500] for part in every), (part[1500:] for part in every))
        scale = 16
    images, test_images = ((part.float() / scale).unsqueeze(1) for part in (images, test_images))
    return images[:training], labels.long()[:training], test_images, test_labels.long()


def _idx(file: Path) -> Tensor:
    data = file.read_bytes()
    shape = [int.from_bytes(data[4 + 4 * axis : 8 + 4 * axis], "big") for axis in range(data[3])]
    return torch.frombuffer(bytearray(data[4 + 4 * len(shape) :]), dtype=torch.uint8).reshape(shape)
