"""The plain client against the service: sessions in every mode, synchronous and asynchronous."""

from __future__ import annotations

import asyncio
import http.client
import threading
from contextlib import aclosing, closing
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import ddpnopt
from ddpnopt.connection import API_VERSION
from proxy import CUTS, cutting_proxy

HOSTED: dict[str, Any] = {
    "mode": "hosted",
    "model": {"input": [2], "layers": [{"kind": "dense", "name": "line", "outputs": 1}]},
    "loss": {"kind": "mse"},
}
X = np.array([[1, 0], [0, 1], [1, 1]], np.float32)
Y = np.array([[3], [-2], [1]], np.float32)

WIDTHS = (5, 7, 3)
LAYERS = [{"name": f"fc{t}", "kind": "dense", "inputs": n, "outputs": c} for t, (n, c) in enumerate(pairwise(WIDTHS))]


class Perceptron:
    """A multilayer perceptron in NumPy: tanh between the layers, softmax cross-entropy at the end."""

    def __init__(self) -> None:
        generator = np.random.default_rng(3)
        self.x = generator.standard_normal((12, WIDTHS[0])).astype(np.float32)
        self.labels = generator.integers(0, WIDTHS[-1], 12)
        self.weights = [generator.standard_normal((n, c)) / np.sqrt(n) for n, c in pairwise(WIDTHS)]
        self.biases = [np.zeros(c) for c in WIDTHS[1:]]

    def losses(self, logits: NDArray[Any]) -> NDArray[Any]:
        shifted = logits - logits.max(1, keepdims=True)
        return np.asarray(np.log(np.exp(shifted).sum(1)) - shifted[np.arange(len(shifted)), self.labels])

    def passes(self) -> tuple[dict[str, NDArray[Any]], list[NDArray[Any]], list[NDArray[Any]]]:
        """What a step carries; pre-activations; output gradients."""
        inputs, outputs, x = [], [], np.asarray(self.x, np.float64)
        for t, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            inputs.append(x)
            outputs.append(x @ weight + bias)
            x = np.tanh(outputs[-1]) if t < len(self.weights) - 1 else outputs[-1]
        probabilities = np.exp(x - x.max(1, keepdims=True))
        probabilities /= probabilities.sum(1, keepdims=True)
        gradient = probabilities - np.eye(WIDTHS[-1])[self.labels]
        gradients: list[NDArray[Any]] = []
        for t in reversed(range(len(self.weights))):
            gradients.insert(0, gradient)
            if t > 0:
                gradient = (gradient @ self.weights[t].T) * (1 - inputs[t] ** 2)
        tensors: dict[str, NDArray[Any]] = {"losses": self.losses(x)}
        for t in range(len(self.weights)):
            tensors[f"layers.fc{t}.input"] = inputs[t]
            tensors[f"layers.fc{t}.output_grad"] = gradients[t]
        return tensors, outputs, gradients

    def loss(self) -> float:
        return float(self.passes()[0]["losses"].mean())

    def apply_policies(self, reply: ddpnopt.StepReply, outputs: list[NDArray[Any]], gradients: list[NDArray[Any]]) -> None:
        """The second forward pass."""
        x = np.asarray(self.x, np.float64)
        for t in range(len(self.weights)):
            s = ((x @ self.weights[t] + self.biases[t] - outputs[t]) * gradients[t]).sum(1)
            change = reply.policy(f"fc{t}").change(s)
            self.weights[t] = self.weights[t] + change["weight"]
            self.biases[t] = self.biases[t] + change["bias"]
            x = np.tanh(x @ self.weights[t] + self.biases[t])


def test_hosted(client: ddpnopt.Client) -> None:
    session = client.create_session(HOSTED)
    assert (session.mode, session.next_step) == ("hosted", 0)
    before = session.predict(X, Y)
    weights = session.weights()
    np.testing.assert_allclose(before.outputs, X @ weights["layers.line.weight"] + weights["layers.line.bias"], rtol=1e-5)
    assert before.loss is not None
    reply = session.step({"x": X, "y": Y})
    assert reply.metrics["loss"] == pytest.approx(before.loss, rel=1e-5)
    assert reply.metrics["lossAfter"] < before.loss
    assert session.predict(X).loss is None
    again = client.open_session(session.id)
    assert again.next_step == 1
    again.step({"x": X, "y": Y}, send_as="f16")
    with pytest.raises(ddpnopt.ProblemError, match=r"layers\.line") as raised:
        session.step({"x": X, "layers.line.input": X})
    assert raised.value.code == "unknown_tensor"
    # The second client's step, which this one has not seen, is in the way of another batch.
    with pytest.raises(ddpnopt.ProblemError) as raised:
        session.step({"x": X[:2], "y": Y[:2]})
    assert raised.value.code == "step_conflict"
    session.resynchronise()
    assert session.next_step == 2
    session.delete()
    with pytest.raises(ddpnopt.SessionNotFoundError) as missing:
        session.describe()
    assert missing.value.remedy != "" and missing.value.request_id is not None


def test_the_service_speaks_the_clients_version(client: ddpnopt.Client) -> None:
    assert API_VERSION in client.capabilities()["apiVersions"]


def test_history(client: ddpnopt.Client) -> None:
    session = client.create_session(HOSTED | {"optimizer": {"coupling": "value"}})
    for _ in session.progress(range(3), "three steps"):
        session.step({"x": X, "y": Y})
    arrays = session.history_arrays()
    assert arrays["step"].tolist() == [0, 1, 2]
    assert arrays["loss"][2] < arrays["loss"][0]
    assert np.isnan(arrays["lossAfter"]).all()
    assert (arrays["bytesSent"] > 0).all() and (arrays["bytesReceived"] > 0).all() and (arrays["seconds"] > 0).all()


@pytest.mark.parametrize(
    ("metric", "encoding"),
    [("kronecker", "sample-factors"), ("kronecker", "inverse-factors"), ("identity", "auto"), ("adam", "auto")],
)
def test_layers_with_feedback(client: ddpnopt.Client, metric: str, encoding: str) -> None:
    optimizer = {"metric": {"kind": metric}, "learningRate": {"kind": "leverage", "warmUpSteps": 0}}
    session = client.create_session({"layers": LAYERS, "optimizer": optimizer, "policyEncoding": encoding})
    network = Perceptron()
    losses = []
    for _ in range(5):
        tensors, outputs, gradients = network.passes()
        reply = session.step(tensors)
        losses.append(reply.metrics["loss"])
        network.apply_policies(reply, outputs, gradients)
    assert network.loss() < 0.2 * losses[0]
    has_inverses = encoding == "inverse-factors"
    assert sorted(session.inverses) == (["fc0", "fc1"] if has_inverses else [])
    if has_inverses:
        # They come again only when they have changed.
        assert not any("inverse" in name for name in reply.tensors)


def test_both_encodings_are_the_same_step(exact_url: str) -> None:
    changed = []
    with ddpnopt.Client(exact_url) as client:
        for encoding in ("sample-factors", "inverse-factors"):
            session = client.create_session({"layers": LAYERS, "policyEncoding": encoding})
            network = Perceptron()
            for _ in range(3):
                tensors, outputs, gradients = network.passes()
                network.apply_policies(session.step(tensors), outputs, gradients)
            changed.append(np.concatenate([weight.ravel() for weight in network.weights]))
    # Sample factors are multiplied with κ in float32.
    np.testing.assert_allclose(changed[0], changed[1], rtol=1e-4, atol=1e-5)


def test_layers_with_updates(client: ddpnopt.Client) -> None:
    session = client.create_session({"layers": LAYERS, "optimizer": {"coupling": "gauss-newton-step"}})
    network = Perceptron()
    first = network.loss()
    for _ in range(4):
        reply = session.step(network.passes()[0], send_as="bf16")
        for t in range(2):
            change = reply.update(f"fc{t}")
            network.weights[t] = network.weights[t] + change["weight"]
            network.biases[t] = network.biases[t] + change["bias"]
    assert network.loss() < 0.2 * first
    with pytest.raises(ValueError, match="there is no layer fc9"):
        reply.update("fc9")


def test_kernel(client: ddpnopt.Client) -> None:
    """With P = I the step is that of mode `layers` with metric identity."""
    network, twin = Perceptron(), Perceptron()
    rate = {"learningRate": {"kind": "constant", "value": 0.3}, "coupling": "value"}
    session = client.create_session({"mode": "kernel", "layers": [{"name": "fc0"}, {"name": "fc1"}], "optimizer": rate})
    other = client.create_session({"layers": LAYERS, "optimizer": {**rate, "metric": {"kind": "identity"}}})
    for _ in range(2):
        tensors, _, _ = network.passes()
        sent = {"losses": tensors["losses"]}
        samples = []
        for t in range(2):
            a = np.hstack([tensors[f"layers.fc{t}.input"], np.ones((12, 1))])
            g = tensors[f"layers.fc{t}.output_grad"]
            samples.append((a, g))
            sent[f"layers.fc{t}.gram"] = ddpnopt.pack_symmetric((a @ a.T) * (g @ g.T))
        reply = session.step(sent)
        expected = other.step(twin.passes()[0])
        for t, (a, g) in enumerate(samples):
            learning_rate, coefficients = reply.coefficients(f"fc{t}")
            change = -learning_rate * a.T @ (coefficients.solve(None)[:, None] * g)
            update = expected.update(f"fc{t}")
            np.testing.assert_allclose(change, np.vstack([update["weight"], update["bias"]]), rtol=1e-3, atol=1e-5)
            network.weights[t] = network.weights[t] + change[:-1]
            network.biases[t] = network.biases[t] + change[-1]
            twin.weights[t] = twin.weights[t] + update["weight"]
            twin.biases[t] = twin.biases[t] + update["bias"]


def test_solving_kernels_without_a_session(client: ddpnopt.Client) -> None:
    losses, kernel = np.array([0.7, 1.2]), np.array([[1, 0.5], [0.5, 2]])
    solved = client.solve_kernels(losses, kernel[None], learningRate=2, lossFloor=0.5)
    h = np.clip(1 / (2 * losses), 0.5, 100)
    expected = np.linalg.solve(2 * np.diag(1 / h) + 2 * kernel, 1 / h)
    np.testing.assert_allclose(solved["coefficients"], expected[None], rtol=1e-6)
    with pytest.raises(ValueError, match="B, B"):
        client.solve_kernels(losses, kernel)


def test_checkpoints(client: ddpnopt.Client) -> None:
    session = client.create_session(HOSTED)
    session.step({"x": X, "y": Y})
    checkpoint = session.make_checkpoint()
    assert [each["id"] for each in session.checkpoints()] == [checkpoint["id"]]
    file = client.download_checkpoint(checkpoint["id"])
    imported = client.import_checkpoint(file)
    expected = session.step({"x": X, "y": Y}).metrics
    for name in (checkpoint["id"], imported["id"]):
        resumed = client.resume_session(name, ttl_seconds=60)
        assert resumed.next_step == 1
        assert resumed.step({"x": X, "y": Y}).metrics == expected
        client.delete_checkpoint(name)
    with pytest.raises(ddpnopt.ProblemError) as raised:
        client.download_checkpoint(checkpoint["id"])
    assert raised.value.code == "checkpoint_not_found"


def test_asynchronously(url: str) -> None:
    async def train() -> list[float]:
        async with ddpnopt.AsyncClient(url) as client:
            sessions = await asyncio.gather(*(client.create_session(HOSTED) for _ in range(3)))
            replies = await asyncio.gather(*(session.step({"x": X, "y": Y}) for session in sessions))
            session = sessions[0]
            assert (await session.predict(X, Y)).loss == pytest.approx(replies[0].metrics["lossAfter"], rel=1e-3, abs=1e-6)
            checkpoint = await session.make_checkpoint()
            resumed = await client.resume_session(checkpoint["id"])
            assert sorted(await resumed.weights()) == ["layers.line.bias", "layers.line.weight"]
            assert (await client.open_session(session.id)).next_step == 1
            await client.import_checkpoint(await client.download_checkpoint(checkpoint["id"]))
            await client.delete_checkpoint(checkpoint["id"])
            solved = await client.solve_kernels(np.ones(2), np.eye(2)[None])
            assert solved["coefficients"].shape == (1, 2)
            await session.cancel_step()
            assert "modes" in await client.capabilities()
            assert await session.checkpoints() == []
            assert (await session.describe())["nextStep"] == 1
            await asyncio.gather(*(session.delete() for session in [*sessions, resumed]))
            with pytest.raises(ddpnopt.SessionNotFoundError):
                await session.step({"x": X, "y": Y})
            return [reply.metrics["loss"] for reply in replies]

    losses = asyncio.run(train())
    assert losses == [losses[0]] * 3


def rows(tensors: dict[str, NDArray[Any]], first: int, last: int) -> dict[str, NDArray[Any]]:
    return {name: values[first:last] for name, values in tensors.items()}


@pytest.mark.parametrize("encoding", ["sample-factors", "inverse-factors"])
def test_a_step_from_parts(exact_url: str, encoding: str) -> None:
    """Two clients send parts; one commits, the other takes the reply: both have the step of the whole batch."""
    definition = {"layers": LAYERS, "policyEncoding": encoding}
    with ddpnopt.Client(exact_url) as client, ddpnopt.Client(exact_url) as helper:
        whole, divided = client.create_session(definition), client.create_session(definition)
        other = helper.open_session(divided.id)
        networks = [Perceptron() for _ in range(3)]
        for _ in range(2):
            passes = [network.passes() for network in networks]
            tensors = passes[0][0]
            expected = whole.step(tensors)
            divided.send_part(1, tensors)
            divided.drop_parts(1)
            with pytest.raises(ddpnopt.ProblemError) as raised:
                divided.commit(2)
            assert raised.value.code == "parts_missing"
            divided.send_part(1, rows(tensors, 5, 12))
            sent = other.send_part(0, rows(tensors, 0, 5))
            assert [(part["samples"], part["firstSample"]) for part in sent["parts"]] == [(5, 0), (7, 5)]
            assert divided.parts()["samples"] == 12
            with pytest.raises(ddpnopt.StepOutOfOrderError):
                other.reply()
            replies = [expected, divided.commit(2, batch=tensors), other.reply(batch=tensors)]
            assert replies[1].metrics == replies[2].metrics == expected.metrics
            for network, reply, (_, outputs, gradients) in zip(networks, replies, passes, strict=True):
                network.apply_policies(reply, outputs, gradients)
            for network in networks[1:]:
                for ours, theirs in zip(network.weights, networks[0].weights, strict=True):
                    np.testing.assert_array_equal(ours, theirs)
        assert (divided.next_step, other.next_step) == (2, 2)
        assert [row["step"] for row in other.history] == [0, 1]


def test_parts_are_refused_where_they_make_up_no_batch(client: ddpnopt.Client) -> None:
    session = client.create_session({"mode": "kernel", "layers": [{"name": "fc"}]})
    with pytest.raises(ddpnopt.ProblemError) as raised:
        session.send_part(0, {"losses": np.ones(2), "layers.fc.gram": np.array([1.0, 0.0, 1.0])})
    assert raised.value.code == "parts_unsupported"


def test_events(client: ddpnopt.Client, url: str) -> None:
    session = client.create_session(HOSTED)
    taken = [session.step({"x": X, "y": Y}).metrics for _ in range(3)]
    # From two connections: the second one goes on where the first broke off.
    with cutting_proxy(url) as proxy, ddpnopt.Client(proxy.url, retries=ddpnopt.Retries(first=0.001)) as through:
        proxy.cuts.append(CUTS["inside the reply's head"])
        heard = []
        with closing(through.open_session(session.id).events(after=0)) as events:
            for event in events:
                assert event.kind == "step"
                heard.append(event.data)
                if len(heard) == 2:
                    taken.append(session.step({"x": X, "y": Y}).metrics)
                if len(heard) == 3:
                    session.delete()
    assert heard == taken[1:]
    with pytest.raises(ddpnopt.SessionNotFoundError):
        next(session.events())


def test_estimates_sessions_and_usage(client: ddpnopt.Client) -> None:
    definition = {"layers": [{"name": "fc", "kind": "dense", "inputs": 5, "outputs": 3, "sequence": True}]}
    estimate = client.estimate(definition, 12, positions={"fc": 7})
    narrow = client.estimate(definition, 12, positions={"fc": 7}, send_as="bf16")
    assert estimate["accepted"] and 0 < narrow["request"]["bytes"] < 0.6 * estimate["request"]["bytes"]
    session = client.create_session(definition)
    reply = session.step(
        {
            "losses": np.ones(12, np.float32),
            "layers.fc.input": np.ones((12, 7, 5), np.float32),
            "layers.fc.output_grad": np.ones((12, 7, 3), np.float32),
        }
    )
    # Versions travel as 64-bit numbers both ways; padding of the header may differ.
    assert abs(reply.bytes_sent - estimate["request"]["bytes"]) < 64
    assert [each["nextStep"] for each in client.sessions() if each["id"] == session.id] == [1]
    with pytest.raises(ddpnopt.ProblemError) as raised:
        client.estimate({"layers": []}, 12)
    assert raised.value.param == "session.layers"
    assert client.usage("2026-01-01", "2026-01-02") == []


def circle(count: int) -> tuple[NDArray[Any], NDArray[Any]]:
    x = np.random.default_rng(4).uniform(-1, 1, (count, 2)).astype(np.float32)
    return x, (x @ np.array([[2.0], [-1.0]], np.float32))


def test_a_run_on_a_data_set(client: ddpnopt.Client, url: str) -> None:
    """It takes the steps that its batches, sent one by one, take."""
    x, y = circle(12)
    definition = HOSTED | {"optimizer": {"learningRate": {"kind": "constant", "value": 0.5}}}
    session, other = client.create_session(definition), client.create_session(definition)
    sent = session.upload_data(x[:8], y[:8], chunk_samples=3, show_progress=True)
    assert [chunk["samples"] for chunk in sent["chunks"]] == [3, 3, 2]
    assert session.upload_data(x[:8], y[:8], chunk_samples=3) == sent
    assert session.upload_data(x[8:], y[8:], first_chunk=3)["samples"] == 12
    assert session.data()["missingChunks"] == []
    seen: list[int] = []
    run = session.run(5, 4, order={"kind": "sequential"}, on_step=lambda metrics: seen.append(metrics["step"]), show_progress=True)
    assert (run["state"], run["nextStep"], session.next_step) == ("finished", 5, 5)
    assert seen == [0, 1, 2, 3, 4] == [row["step"] for row in session.history]
    expected = [other.step({"x": x[first : first + 4], "y": y[first : first + 4]}).metrics for first in (0, 4, 8, 0, 4)]
    assert [row["loss"] for row in session.history] == [metrics["loss"] for metrics in expected]
    for name, values in other.weights().items():
        np.testing.assert_array_equal(session.weights()[name], values)
    # Steps of its own go on behind it, and then another run.
    session.step({"x": X, "y": Y})
    assert session.run(2, 6)["firstStep"] == 6
    assert [each["firstStep"] for each in session.runs()] == [0, 6]
    assert session.history_arrays()["loss"].shape == (8,)
    session.delete_data()
    with pytest.raises(ddpnopt.ProblemError) as raised:
        session.run(1, 4)
    assert raised.value.code == "data_missing"
    assert session.next_step == 8


def test_a_run_that_diverges_says_so(client: ddpnopt.Client) -> None:
    session = client.create_session(HOSTED)
    x, y = circle(6)
    session.upload_data(x, 1e30 * y)
    with pytest.raises(ddpnopt.RunError, match=r"step \d+ of the run could not be taken") as raised:
        session.run(50, 3)
    assert raised.value.run["state"] == "failed"
    assert session.next_step == raised.value.run["nextStep"] == session.describe()["nextStep"]


def test_an_interrupted_run_is_cancelled(client: ddpnopt.Client, url: str) -> None:
    session = client.create_session(HOSTED | {"optimizer": {"learningRate": {"kind": "constant", "value": 1e-6}}})
    x, y = circle(8)
    session.upload_data(x, y)

    def interrupt(metrics: dict[str, Any]) -> None:
        if metrics["step"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        session.run(100_000, 4, on_step=interrupt)
    (run,) = session.runs()
    assert run["state"] == "cancelled"
    assert 3 <= run["nextStep"] == session.next_step < 100_000

    async def cancel() -> int:
        async with ddpnopt.AsyncClient(url) as opened:
            second = await opened.open_session(session.id)
            started = asyncio.Event()
            task = asyncio.create_task(second.run(100_000, 4, on_step=lambda _: started.set()))
            await started.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert [each["state"] for each in await second.runs()] == ["cancelled", "cancelled"]
            return second.next_step

    assert asyncio.run(cancel()) == session.describe()["nextStep"]


def test_parts_events_and_estimates_asynchronously(url: str) -> None:
    async def train() -> None:
        async with ddpnopt.AsyncClient(url) as client:
            session = await client.create_session(HOSTED)
            assert (await client.estimate(HOSTED, 3))["accepted"]
            assert session.id in [each["id"] for each in await client.sessions()]
            await asyncio.gather(*(session.send_part(k, {"x": X[k : k + 1], "y": Y[k : k + 1]}) for k in range(3)))
            assert len((await session.parts())["parts"]) == 3
            heard = []
            async with aclosing(session.events(after=-1)) as events:
                metrics = (await session.commit(3)).metrics
                async for event in events:
                    heard.append(event.data)
                    await session.delete()
            assert heard == [metrics]

    asyncio.run(train())


def test_one_step_at_a_time(client: ddpnopt.Client) -> None:
    session = client.create_session(HOSTED)
    operation = session._state.step({"x": X, "y": Y}, None)
    next(operation)
    with pytest.raises(RuntimeError, match="is taking a step"):
        session.step({"x": X, "y": Y})
    operation.close()
    assert session.step({"x": X, "y": Y}).metrics["step"] == 0


def test_a_rewound_session_is_sent_its_steps_again(exact_url: str, control_url: str) -> None:
    generator = np.random.default_rng(8)
    steps = [{"x": generator.standard_normal((3, 2)).astype(np.float32), "y": Y} for _ in range(8)]
    limits = ddpnopt.ReplayLimits(steps=1)
    with ddpnopt.Client(exact_url) as client, ddpnopt.Client(exact_url, replay=limits) as forgetful_client:
        whole, session, forgetful = (each.create_session(HOSTED) for each in (client, client, forgetful_client))
        expected = [whole.step(step).metrics for step in steps]
        weights = whole.weights()["layers.line.weight"]
        for step in steps[:6]:
            session.step(step)
            forgetful.step(step)
        # The step that the worker will find damaged in its storage.
        control = http.client.HTTPConnection(control_url)
        control.request("POST", "/", steps[3]["x"].tobytes())
        assert control.getresponse().status == 204
        control.close()
        assert session.describe()["nextStep"] == 3
        assert [session.step(step).metrics for step in steps[6:]] == expected[6:]
        np.testing.assert_array_equal(session.weights()["layers.line.weight"], weights)
        with pytest.raises(ddpnopt.SessionRewoundError) as raised:
            forgetful.step(steps[6])
        assert raised.value.resume_from == 3
        forgetful.resynchronise()
        assert forgetful.next_step == 3


def test_the_api_key_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server of the test's own: what a request carries, the service does not tell."""
    seen: list[str | None] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.headers.get("authorization"))
            assert self.headers.get("ddpnopt-version") == API_VERSION
            self.send_response(401)
            self.send_header("content-type", "application/problem+json")
            self.send_header("content-length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            return

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        address = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setenv("DDPNOPT_API_KEY", "from-environment")
        monkeypatch.setenv("DDPNOPT_URL", address)
        for client in (ddpnopt.Client(), ddpnopt.Client(address, api_key="given")):
            with client, pytest.raises(ddpnopt.AuthenticationError):
                client.open_session("ses_0")
        monkeypatch.delenv("DDPNOPT_API_KEY")
        with ddpnopt.Client() as client, pytest.raises(ddpnopt.AuthenticationError):
            client.open_session("ses_0")
        server.shutdown()
        thread.join()
    assert seen == ["Bearer from-environment", "Bearer given", None]
