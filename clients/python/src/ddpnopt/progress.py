"""Progress bars, where tqdm is installed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
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


@contextmanager
def progress_bar(total: int, description: str, unit: str, *, is_shown: bool) -> Iterator[Callable[[int, float | None], None]]:
    """A bar that is told how many of `total` are done, and the last loss if there is one; nothing without tqdm."""
    try:
        from tqdm.auto import tqdm
    except ModuleNotFoundError:
        is_shown = False
    if not is_shown:
        yield lambda *_: None
        return
    with tqdm(total=total, desc=description, unit=unit) as bar:

        def show(done: int, loss: float | None) -> None:
            if loss is not None:
                bar.set_postfix(loss=f"{loss:.4g}", refresh=False)
            bar.update(done - bar.n)

        yield show
