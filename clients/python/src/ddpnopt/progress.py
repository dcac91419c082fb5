"""Progress bars, where tqdm is installed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

Item = TypeVar("Item")


def progress(items: Iterable[Item], history: Sequence[dict[str, Any]], description: str | None = None) -> Iterator[Item]:
    """Goes through the batches, with a bar that shows the last step's loss; without tqdm it only goes through them.

    Args:
        items: batches.
        history: a session's or an optimizer's.
        description: stands before the bar.
    """
    try:
        from tqdm.auto import tqdm
    except ModuleNotFoundError:
        yield from items
        return
    with tqdm(items, desc=description) as bar:
        for item in bar:
            yield item
            if history:
                bar.set_postfix(loss=f"{history[-1]['loss']:.4g}", refresh=False)
