"""The synchronous client is what generate.py makes of the asynchronous one."""

from __future__ import annotations

import runpy
from pathlib import Path


def test_the_synchronous_client_is_up_to_date() -> None:
    generator = runpy.run_path(str(Path(__file__).parents[1] / "generate.py"))
    made = generator["synchronous"](generator["SOURCE"].read_text())
    assert generator["TARGET"].read_text() == made, "run python clients/python/generate.py"
