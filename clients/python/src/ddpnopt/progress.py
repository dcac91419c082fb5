"""Progress bars, where tqdm is installed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

Item = TypeVar("Item")


def progress(batches: Iterable[Item], history: Callable[[], Sequence[dict[str, Any]]], description: str | None) -> Iterator[Item]:
    """Goes through the batches, with a bar that shows the last step's loss; without tqdm it only goes through them.

    Args:
        batches: of a data loader, say.
        history: metrics of the steps so far, asked for after every batch.
        description: stands before the bar.
    """
    try:
        from tqdm.auto import tqdm
    except ModuleNotFoundError:
        yield from batches
        return
    with tqdm(batches, desc=description) as bar:
        for batch in bar:
            yield batch
            steps = history()
            if steps:
                bar.set_postfix(loss=f"{steps[-1]['loss']:.4g}", refresh=False)
