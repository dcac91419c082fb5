"""When a request is sent again, and after how long."""

from __future__ import annotations

import random
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Retries:
    """Exponential backoff with full jitter: a uniform share of min(longest, first · 2^k) seconds after the k-th failure.

    A problem's Retry-After is waited for besides. Only requests that do nothing twice are sent again: numbered steps, reading,
    predictions, deletions; never the creation of a session or a checkpoint, unless the request cannot have left this machine.
    """

    attempts: int = 6
    """How often a request is sent at most; 1 for no retries."""
    first: float = 0.25
    """Seconds."""
    longest: float = 10.0
    """Seconds."""
    generator: random.Random = field(default_factory=random.Random, repr=False)

    def delay(self, failures: int, retry_after: float | None) -> float:
        """Seconds to wait after so many failures, at least 1."""
        ceiling = min(self.longest, self.first * 2.0 ** (failures - 1))
        return (retry_after or 0.0) + self.generator.uniform(0, ceiling)
