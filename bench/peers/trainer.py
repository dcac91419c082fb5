"""What the peers have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class Losses:
    """A batch's mean loss before a step, and after it where the step yields that too."""

    before: float
    after: float | None = None


class Trainer(Protocol):
    """An optimizer with its network and state."""

    learning_rate: float
    """Of the next step."""

    def step(self, inputs: Tensor, labels: Tensor) -> Losses:
        """One training step on a batch."""
