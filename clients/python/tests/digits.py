"""DIGITS, as clients/datasets has it: 8×8 images of handwritten digits."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_FILE = Path(__file__).parents[2] / "datasets" / "digits" / "digits.csv.gz"


def load_digits() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Images [1797, 64] with pixels in [0, 1], and labels."""
    with gzip.open(_FILE, "rt") as lines:
        table = np.loadtxt(lines, delimiter=",")
    return (table[:, :-1] / 16).astype(np.float32), table[:, -1].astype(np.int64)
