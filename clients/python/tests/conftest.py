"""What the tests share: the service they run against, which test/integration/python-client.test.ts starts."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import ddpnopt


def _setting(name: str) -> str:
    value = os.environ.get(name)
    if value is None:
        pytest.skip(f"{name} is not set: test/integration/python-client.test.ts starts the service and says where it is")
    return value


@pytest.fixture(scope="session")
def url() -> str:
    """Where a service is, of the best engine that is there."""
    return _setting("DDPNOPT_TEST_URL")


@pytest.fixture(scope="session")
def exact_url() -> str:
    """Where a service in float64 is, whose sessions survive the end of its worker."""
    return _setting("DDPNOPT_TEST_EXACT_URL")


@pytest.fixture(scope="session")
def control_url() -> str:
    """Where the test says that the float64 service's worker shall lose steps."""
    return _setting("DDPNOPT_TEST_CONTROL_URL")


@pytest.fixture
def client(url: str) -> Iterator[ddpnopt.Client]:
    with ddpnopt.Client(url, timeout=60) as opened:
        yield opened


@pytest.fixture(scope="session")
def oracle() -> Iterator[Callable[[dict[str, Any]], Any]]:
    """The dense float64 oracle of test/oracle, see test/integration/python-oracle.ts."""
    command = json.loads(_setting("DDPNOPT_TEST_ORACLE"))
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        requests, answers = process.stdin, process.stdout
        assert requests is not None and answers is not None

        def solve(problem: dict[str, Any]) -> Any:
            requests.write(json.dumps(problem) + "\n")
            requests.flush()
            answer = answers.readline()
            assert answer, "the oracle has ended; what it says is above"
            return json.loads(answer)

        yield solve
        requests.close()
