"""Makes the synchronous client of the asynchronous one: python clients/python/generate.py.

Both drive the same generators, and have the same methods with the same descriptions; only `async` and `await` are missing in one of
them. tests/test_generated.py fails if client.py is not what this makes.
"""

from __future__ import annotations

import re
from pathlib import Path

PACKAGE = Path(__file__).parent / "src" / "ddpnopt"
SOURCE, TARGET = PACKAGE / "asynchronous.py", PACKAGE / "client.py"

HEADING = '"""The synchronous client, made of asynchronous.py by generate.py: change that one."""'

# In this order; words are whole words.
REPLACEMENTS = [
    (r'\A""".*?"""', HEADING),
    (r"\bimport asyncio\b", "import time"),
    (r"\basyncio\.sleep\b", "time.sleep"),
    (r"\b(async|await) ", ""),
    (r"\bAsyncGenerator\[(\w+), None\]", r"Generator[\1, None, None]"),
    (r"\bAsync(Client|Session|Iterator|Generator)\b", r"\1"),
    (r"\basynccontextmanager\b", "contextmanager"),
    (r"\b__a(enter|exit)__\b", r"__\1__"),
    (r"\ba(close|read|iter_lines)\(", r"\1("),
    (r"contextlib\.aclosing", "contextlib.closing"),
    (r" for asyncio\.", "."),
    (r"From another task", "From another thread"),
    (r"Ctrl-C, or a task that is cancelled", "Ctrl-C"),
    # Iterators of both kinds are the same here.
    (
        r"import Generator, Iterator, Callable, Iterable, Iterator, Mapping",
        "import Callable, Generator, Iterable, Iterator, Mapping",
    ),
]


def synchronous(text: str) -> str:
    """The text of the synchronous client."""
    for pattern, replacement in REPLACEMENTS:
        text = re.sub(pattern, replacement, text, flags=re.DOTALL)
    return text


if __name__ == "__main__":
    TARGET.write_text(synchronous(SOURCE.read_text()))
