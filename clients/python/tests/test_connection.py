"""Connections that break off anywhere: every step is applied once."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import numpy as np
import pytest

import ddpnopt
from proxy import CUTS, cutting_proxy

MODEL: dict[str, Any] = {
    "mode": "hosted",
    "model": {
        "input": [4],
        "layers": [{"kind": "dense", "name": "a", "outputs": 8}, {"kind": "tanh"}, {"kind": "dense", "name": "b", "outputs": 3}],
    },
    "loss": {"kind": "softmax-cross-entropy"},
}
RETRIES = ddpnopt.Retries(first=0.001, longest=0.01, generator=random.Random(0))


def batches(count: int) -> list[dict[str, Any]]:
    generator = np.random.default_rng(5)
    return [{"x": generator.standard_normal((6, 4)).astype(np.float32), "y": generator.integers(0, 3, 6)} for _ in range(count)]


def undisturbed(client: ddpnopt.Client, steps: int) -> tuple[list[float], dict[str, Any]]:
    session = client.create_session(MODEL)
    losses = [float(session.step(batch).metrics["loss"]) for batch in batches(steps)]
    return losses, session.weights()


def check(session: ddpnopt.Session, losses: list[float], expected: tuple[list[float], dict[str, Any]]) -> None:
    assert losses == expected[0]
    assert session.describe()["nextStep"] == len(losses)
    weights = session.weights()
    assert sorted(weights) == sorted(expected[1])
    for name, values in expected[1].items():
        np.testing.assert_array_equal(weights[name], values)


@pytest.mark.parametrize("resets", [False, True], ids=["FIN", "RST"])
def test_every_step_is_applied_once(client: ddpnopt.Client, url: str, resets: bool) -> None:
    expected = undisturbed(client, len(CUTS))
    created = client.create_session(MODEL)
    with cutting_proxy(url) as proxy, ddpnopt.Client(proxy.url, retries=RETRIES) as through:
        proxy.resets = resets
        session = through.open_session(created.id)
        losses = []
        for cut, batch in zip(CUTS.values(), batches(len(CUTS)), strict=True):
            # Twice, so that what is sent again is broken off as well.
            proxy.cuts.extend([cut, cut])
            losses.append(float(session.step(batch).metrics["loss"]))
            assert proxy.cuts == []
    check(created, losses, expected)


def test_every_step_is_applied_once_asynchronously(client: ddpnopt.Client, url: str) -> None:
    expected = undisturbed(client, len(CUTS))
    created = client.create_session(MODEL)

    async def train(address: str, cuts: list[Any]) -> list[float]:
        async with ddpnopt.AsyncClient(address, retries=RETRIES) as through:
            session = await through.open_session(created.id)
            losses = []
            for cut, batch in zip(CUTS.values(), batches(len(CUTS)), strict=True):
                cuts.append(cut)
                losses.append(float((await session.step(batch)).metrics["loss"]))
            return losses

    with cutting_proxy(url) as proxy:
        losses = asyncio.run(train(proxy.url, proxy.cuts))
        assert proxy.cuts == []
    check(created, losses, expected)


def test_parts_and_their_commit_are_applied_once(client: ddpnopt.Client, url: str) -> None:
    expected = undisturbed(client, len(CUTS))
    created = client.create_session(MODEL)
    with cutting_proxy(url) as proxy, ddpnopt.Client(proxy.url, retries=RETRIES) as through:
        session = through.open_session(created.id)
        losses = []
        for cut, batch in zip(CUTS.values(), batches(len(CUTS)), strict=True):
            for k in range(2):
                proxy.cuts.append(cut)
                session.send_part(k, {name: values[3 * k : 3 * k + 3] for name, values in batch.items()})
            proxy.cuts.extend([cut, cut])
            losses.append(float(session.commit(2).metrics["loss"]))
            assert proxy.cuts == []
    check(created, losses, expected)


def test_a_run_and_its_data_are_taken_once(client: ddpnopt.Client, url: str) -> None:
    """Chunks, the order and the events of a run break off: the steps are those of one that nothing disturbs."""
    generator = np.random.default_rng(6)
    x, y = generator.standard_normal((2 * len(CUTS), 4)).astype(np.float32), generator.integers(0, 3, 2 * len(CUTS))
    undisturbed_session = client.create_session(MODEL)
    undisturbed_session.upload_data(x, y, chunk_samples=2)
    expected = undisturbed_session.run(len(CUTS), 6)
    created = client.create_session(MODEL)
    with cutting_proxy(url) as proxy, ddpnopt.Client(proxy.url, retries=RETRIES) as through:
        session = through.open_session(created.id)
        for first, cut in zip(range(0, len(x), 2), CUTS.values(), strict=True):
            # The first request asks what is there.
            proxy.cuts.extend([cut, cut])
            session.upload_data(x[first : first + 2], y[first : first + 2], chunk_samples=2, first_chunk=first // 2)
        assert proxy.cuts == []
        for steps, cut in enumerate(CUTS.values()):
            proxy.cuts.append(cut)
            assert session.run(1, 6)["nextStep"] == steps + 1
            assert proxy.cuts == []
        assert session.run(1, 6, order={"kind": "shuffled"})["metrics"]["step"] == len(CUTS)
    losses = [row["loss"] for row in undisturbed_session.history]
    assert [row["loss"] for row in session.history][: len(CUTS)] == losses
    assert expected["metrics"]["loss"] == losses[-1]


@pytest.mark.parametrize("name", [name for name in CUTS if name != "before a byte of the request"])
def test_a_session_is_never_created_twice(url: str, name: str) -> None:
    with cutting_proxy(url) as proxy, ddpnopt.Client(proxy.url, retries=RETRIES) as through:
        proxy.cuts.append(CUTS[name])
        with pytest.raises(ddpnopt.NoAnswerError, match="v1/sessions") as raised:
            through.create_session(MODEL)
        assert raised.value.was_sent
        assert proxy.requests == ["POST /v1/sessions HTTP/1.1"]


def test_nobody_there() -> None:
    with cutting_proxy("http://127.0.0.1:1") as proxy:
        address = proxy.url
    retries = ddpnopt.Retries(attempts=2, first=0.001)
    with ddpnopt.Client(address, retries=retries) as client, pytest.raises(ddpnopt.NoAnswerError, match="no answer") as raised:
        client.create_session(MODEL)
    assert not raised.value.was_sent
