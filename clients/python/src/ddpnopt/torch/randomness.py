"""What a second forward pass must find as the first one found it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Randomness:
    """States of PyTorch's generators, so that dropout drops the same units twice."""

    def __init__(self) -> None:
        self._cpu = torch.get_rng_state()
        # Asking a device that nobody uses would claim it.
        uses_cuda = torch.cuda.is_initialized()
        self._cuda = torch.cuda.get_rng_state_all() if uses_cuda else []

    def restore(self) -> None:
        """Sets the generators back."""
        torch.set_rng_state(self._cpu)
        if self._cuda:
            torch.cuda.set_rng_state_all(self._cuda)


@contextmanager
def kept_buffers(model: nn.Module) -> Iterator[None]:
    """Keeps buffers as they are: a batch counts once in running statistics, however often it passes."""
    before: list[tuple[Tensor, Tensor]] = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        for buffer, value in before:
            buffer.copy_(value)
