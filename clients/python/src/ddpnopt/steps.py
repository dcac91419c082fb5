"""What a session consists of on the client's side, and its operations: shared by the synchronous and the asynchronous client."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal
from urllib.parse import urlencode

import numpy as np
from numpy.typing import NDArray

from ddpnopt.errors import SessionRewoundError, UnexpectedAnswerError
from ddpnopt.exchange import JSON, Answer, Operation, Request, exchange
from ddpnopt.parameters import Layer
from ddpnopt.policy import (
    Coefficients,
    Convert,
    Inverses,
    LayerPolicy,
    WeightedGradient,
    block_sizes,
    read_changes,
    read_coefficients,
    read_inverses,
    read_policy,
    tensor_of,
)
from ddpnopt.retries import Retries
from ddpnopt.wire import SAFETENSORS, Decoded, NarrowType, decode, encode

Document = dict[str, Any]
"""A JSON object of the service."""

_CHUNK_BYTES = 16_000_000
# What a data set may have, see `GET /v1/capabilities`.
_MOST_CHUNKS = 1024

# A service that keeps losing steps while they are sent again is not to be followed for ever.
_REWINDS = 3


@dataclass(frozen=True)
class ReplayLimits:
    """How much of its last steps a session keeps, to send it again after the service has lost steps."""

    steps: int = 16
    bytes: int = 256_000_000


class StepBuffer:
    """The bodies of the last steps, bounded in number and in bytes."""

    def __init__(self, limits: ReplayLimits) -> None:
        self._limits = limits
        self._bodies: deque[tuple[int, bytes]] = deque()
        self._bytes = 0

    def keep(self, n: int, body: bytes) -> None:
        """Keeps a step that has been applied; it must follow the last one that was kept, or all others are forgotten."""
        if self._bodies and self._bodies[-1][0] != n - 1:
            self._bodies.clear()
            self._bytes = 0
        self._bodies.append((n, body))
        self._bytes += len(body)
        while self._bodies and (len(self._bodies) > self._limits.steps or self._bytes > self._limits.bytes):
            self._bytes -= len(self._bodies.popleft()[1])

    def since(self, n: int) -> list[tuple[int, bytes]] | None:
        """The steps from n to the last one, or None if some of them have been forgotten."""
        kept = [entry for entry in self._bodies if entry[0] >= n]
        return kept if kept and kept[0][0] == n else None


@dataclass(frozen=True)
class StepReply:
    """What came of a step."""

    metrics: Document
    """`step`, `batch`, `loss`, `lossAfter`, `learningRate`, and the rest of StepMetrics in the options."""
    tensors: dict[str, NDArray[Any]]
    """The reply's tensors by name; none in mode `hosted`."""
    bytes_sent: int
    """Of the body."""
    bytes_received: int
    """Of the body."""
    seconds: float
    """From the first byte sent to the last one received, retries included."""
    layers: Mapping[str, Layer] = field(repr=False)
    inverses: Mapping[str, Inverses] = field(repr=False)
    gradients: Mapping[str, WeightedGradient] = field(repr=False)

    def update(self, layer: str) -> dict[str, NDArray[Any]]:
        """What to add to a layer's parameters, by name: replies of the form `update`."""
        changes = read_changes(self.tensors, self._layer(layer))
        if not changes:
            raise ValueError(f"the reply has no update of layer {layer}; with coupling feedback it has a policy")
        return changes

    def policy(self, layer: str, convert: Convert = lambda array: array, gradient: WeightedGradient | None = None) -> LayerPolicy:
        """How a layer's change depends on your second forward pass: replies of the form `policy`.

        Args:
            layer: its name.
            convert: makes an array one of another library's; NumPy's stay as they are.
            gradient: forms Jᵀκ as a parameter matrix; not needed for dense layers.
        """
        definition = self._layer(layer)
        form = gradient or self.gradients.get(layer)
        return read_policy(self.tensors, definition, self.inverses.get(layer), convert, form)

    def coefficients(self, layer: str) -> tuple[float, Coefficients]:
        """Mode `kernel`: η and κ of a layer; its change is −η P⁻¹ Jᵀ κ."""
        learning_rate = float(tensor_of(self.tensors, f"layers.{layer}.learning_rate"))
        return learning_rate, read_coefficients(self.tensors, layer)

    def _layer(self, name: str) -> Layer:
        if name not in self.layers:
            raise ValueError(f"there is no layer {name}; the session has {', '.join(self.layers)}")
        return self.layers[name]


@dataclass(frozen=True)
class Prediction:
    """What a hosted model answers."""

    outputs: NDArray[Any]
    """[B, C]."""
    loss: float | None
    """Mean loss, where the truth was given."""


class SessionState:
    """A session as its client knows it."""

    def __init__(self, description: Document, retries: Retries, limits: ReplayLimits) -> None:
        self.description = description
        self.next_step = int(description["nextStep"])
        self.inverses: dict[str, Inverses] = {}
        self.history: list[Document] = []
        self._retries = retries
        self._buffer = StepBuffer(limits)
        self._is_stepping = False
        self._layers: dict[str, Layer] = {layer["name"]: layer for layer in description.get("layers", [])}

    @property
    def id(self) -> str:
        return str(self.description["id"])

    @property
    def mode(self) -> str:
        return str(self.description["mode"])

    @property
    def path(self) -> str:
        return f"v1/sessions/{self.id}"

    def step(self, tensors: Mapping[str, Any], send_as: NarrowType | None) -> Operation[StepReply]:
        """Takes the next step; it counts when its reply is complete."""

        def take(n: int) -> Operation[tuple[Answer, int]]:
            body = self._encode(tensors, send_as)
            answer = yield from self._put(n, body)
            self._buffer.keep(n, body)
            return answer, len(body)

        return self._count(take, tensors)

    def commit(self, parts: int, batch: Mapping[str, Any] | None) -> Operation[StepReply]:
        """Takes the next step of the parts that have been sent."""

        def take(n: int) -> Operation[tuple[Answer, int]]:
            content = json.dumps({"parts": parts}).encode()
            # The number makes it the same commit, however often it is sent.
            request = Request("POST", f"{self.path}/steps/{n}/commit", content, JSON)
            return (yield from exchange(request, self._retries)), len(content)

        return self._count(take, batch or {})

    def reply(self, batch: Mapping[str, Any] | None) -> Operation[StepReply]:
        """The reply of a step that another client has committed; counts it."""

        def take(n: int) -> Operation[tuple[Answer, int]]:
            return (yield from exchange(Request("GET", f"{self.path}/steps/{n}"), self._retries)), 0

        return self._count(take, batch or {})

    def _count(self, take: Callable[[int], Operation[tuple[Answer, int]]], sent: Mapping[str, Any]) -> Operation[StepReply]:
        """Reads what came of the next step.

        Args:
            take: asks for the step of this number; gives the answer, and how many bytes were sent.
            sent: the tensors of its batch, as far as they are here.
        """
        if self._is_stepping:
            raise RuntimeError("the session is taking a step; wait for its reply before the next one")
        self._is_stepping = True
        try:
            n, began = self.next_step, time.monotonic()
            answer, bytes_sent = yield from take(n)
            reply = self._read(answer, sent, bytes_sent, time.monotonic() - began)
            self.next_step = n + 1
            traffic = {"bytesSent": reply.bytes_sent, "bytesReceived": reply.bytes_received, "seconds": reply.seconds}
            self.history.append({**reply.metrics, **traffic})
            return reply
        finally:
            self._is_stepping = False

    def _encode(self, tensors: Mapping[str, Any], send_as: NarrowType | None) -> bytes:
        sent = dict(tensors)
        if self._has_versions():
            versions = [self.inverses[name].version if name in self.inverses else 0 for name in self._layers]
            sent.setdefault("metric_versions", np.asarray(versions, np.int64))
        return encode(sent, send_as=send_as, narrows=self._narrows)

    @property
    def _parts_path(self) -> str:
        return f"{self.path}/steps/{self.next_step}/parts"

    def send_part(self, k: int, tensors: Mapping[str, Any], send_as: NarrowType | None) -> Operation[Document]:
        request = Request("PUT", f"{self._parts_path}/{k}", self._encode(tensors, send_as), SAFETENSORS)
        return _document((yield from exchange(request, self._retries)))

    def parts(self) -> Operation[Document]:
        return _document((yield from exchange(Request("GET", self._parts_path), self._retries)))

    def drop_parts(self, k: int | None) -> Operation[None]:
        path = self._parts_path if k is None else f"{self._parts_path}/{k}"
        yield from exchange(Request("DELETE", path), self._retries)

    def _put(self, n: int, body: bytes) -> Operation[Answer]:
        """Sends a step, and before it those that the service says it has lost."""
        for attempt in range(_REWINDS):
            try:
                return (yield from exchange(self._step_request(n, body), self._retries))
            except SessionRewoundError as rewound:
                lost = self._buffer.since(rewound.resume_from)
                if lost is None or lost[-1][0] != n - 1 or attempt == _REWINDS - 1:
                    raise
                for number, earlier in lost:
                    yield from exchange(self._step_request(number, earlier), self._retries)
        raise AssertionError("the last attempt returns or raises")

    def _step_request(self, n: int, body: bytes) -> Request:
        return Request("PUT", f"{self.path}/steps/{n}", body, SAFETENSORS)

    def _has_versions(self) -> bool:
        optimizer = self.description["optimizer"]
        if optimizer["metric"]["kind"] != "kronecker":
            return False
        if self.mode == "kernel":
            return True
        if self.mode != "layers" or self.description["policyEncoding"] == "sample-factors":
            return False
        reply = self.description["reply"]
        return bool(reply == "policy" or (reply == "auto" and optimizer["coupling"] == "feedback"))

    def _narrows(self, name: str) -> bool:
        """Neither losses nor whole numbers: versions, labels, the tokens of an embedding."""
        if self.mode == "hosted":
            return name == "x"
        if not name.startswith("layers."):
            return False
        layer = self._layers.get(name.removeprefix("layers.").removesuffix(".input"))
        return layer is None or layer.get("kind") != "embedding"

    def _read(self, answer: Answer, sent: Mapping[str, Any], bytes_sent: int, seconds: float) -> StepReply:
        gradients: dict[str, WeightedGradient] = {}
        if answer.media_type == JSON:
            decoded, metrics = Decoded({}, {}), answer.document()
        else:
            decoded = decode(answer.content)
            metrics = _metrics(decoded)
            self._keep_inverses(decoded)
            gradients = {
                name: _dense_gradient(layer, sent)
                for name, layer in self._layers.items()
                if layer.get("kind") == "dense" and f"layers.{name}.input" in sent
            }
        return StepReply(
            metrics,
            decoded.tensors,
            bytes_sent,
            len(answer.content),
            seconds,
            self._layers,
            dict(self.inverses),
            gradients,
        )

    def _keep_inverses(self, reply: Decoded) -> None:
        versions = reply.tensors.get("metric_versions")
        if versions is None:
            return
        for version, (name, layer) in zip(versions, self._layers.items(), strict=True):
            if self.mode == "kernel":
                if layer["factors"] is None:
                    continue
                sizes = (layer["factors"]["inputs"], layer["factors"]["outputs"])
            else:
                sizes = block_sizes(layer)
            inverses = read_inverses(reply.tensors, name, sizes, int(version))
            if inverses is not None:
                self.inverses[name] = inverses

    def upload_data(
        self,
        tensors: Mapping[str, Any],
        send_as: NarrowType | None,
        chunk_samples: int | None,
        first_chunk: int,
        on_chunk: Callable[[int, float | None], None],
    ) -> Operation[Document]:
        """Sends those chunks of a data set that are not there yet."""
        size = chunk_samples or _chunk_samples(tensors["x"])
        total = len(tensors["x"])
        data = yield from self.data()
        for first in range(0, total, size):
            k, last = first_chunk + first // size, min(total, first + size)
            body = encode({name: values[first:last] for name, values in tensors.items()}, send_as=send_as, narrows=self._narrows)
            digest = hashlib.sha256(body).hexdigest()
            if not any(chunk["chunk"] == k and chunk["digest"] == digest for chunk in data["chunks"]):
                request = Request("PUT", f"{self.path}/data/{k}", body, SAFETENSORS)
                data = _document((yield from exchange(request, self._retries)))
            on_chunk(last, None)
        return data

    def data(self) -> Operation[Document]:
        return _document((yield from exchange(Request("GET", f"{self.path}/data"), self._retries)))

    def delete_data(self) -> Operation[None]:
        yield from exchange(Request("DELETE", f"{self.path}/data"), self._retries)

    def begin_run(self, order: Mapping[str, Any]) -> Operation[Document]:
        """Has the service take steps from the next one on; the same order again is the same run."""
        request = json_request("PUT", f"{self.path}/runs/{self.next_step}", order)
        return _document((yield from exchange(request, self._retries)))

    def count_run_step(self, metrics: Document) -> None:
        """Notes a step of a run, once however often it is heard of."""
        if not self.history or self.history[-1]["step"] < metrics["step"]:
            self.history.append(metrics)

    def get_run(self, n: int) -> Operation[Document]:
        return _document((yield from exchange(Request("GET", f"{self.path}/runs/{n}"), self._retries)))

    def cancel_run(self, n: int) -> Operation[Document]:
        return _document((yield from exchange(Request("DELETE", f"{self.path}/runs/{n}"), self._retries)))

    def runs(self) -> Operation[list[Document]]:
        answer = yield from exchange(Request("GET", f"{self.path}/runs"), self._retries)
        found: list[Document] = _document(answer)["runs"]
        return found

    def describe(self) -> Operation[Document]:
        answer = yield from exchange(Request("GET", self.path), self._retries)
        return _document(answer)

    def resynchronise(self) -> Operation[None]:
        description = yield from self.describe()
        self.next_step = int(description["nextStep"])

    def change_hyper_parameters(self, changes: Mapping[str, Any]) -> Operation[Document]:
        request = json_request("PATCH", self.path, changes)
        answer = yield from exchange(request, self._retries)
        description = _document(answer)
        self.description = description
        return description

    def cancel_step(self) -> Operation[None]:
        yield from exchange(Request("DELETE", f"{self.path}/steps/{self.next_step}"), self._retries)

    def delete(self) -> Operation[None]:
        yield from exchange(Request("DELETE", self.path), self._retries)

    def make_checkpoint(self) -> Operation[Document]:
        answer = yield from exchange(Request("POST", f"{self.path}/checkpoints", is_idempotent=False), self._retries)
        return _document(answer)

    def checkpoints(self) -> Operation[list[Document]]:
        answer = yield from exchange(Request("GET", f"{self.path}/checkpoints"), self._retries)
        found: list[Document] = _document(answer)["checkpoints"]
        return found

    def weights(self) -> Operation[dict[str, NDArray[Any]]]:
        answer = yield from exchange(Request("GET", f"{self.path}/weights"), self._retries)
        return decode(answer.content).tensors

    def predict(self, x: Any, y: Any, send_as: NarrowType | None) -> Operation[Prediction]:
        tensors = {"x": x} if y is None else {"x": x, "y": y}
        body = encode(tensors, send_as=send_as, narrows=self._narrows)
        # It changes nothing.
        request = Request("POST", f"{self.path}/predictions", body, SAFETENSORS)
        decoded = decode((yield from exchange(request, self._retries)).content)
        loss = decoded.metadata.get("loss")
        return Prediction(tensor_of(decoded.tensors, "outputs"), None if loss is None else float(loss))


def history_arrays(history: Iterable[Mapping[str, Any]]) -> dict[str, NDArray[np.float64]]:
    """Metrics as one array each, ready to plot; NaN where a step has none."""
    rows = list(history)
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: np.asarray([np.nan if row.get(name) is None else float(row[name]) for row in rows]) for name in names}


def json_request(method: str, path: str, document: Mapping[str, Any]) -> Request:
    """A request with a JSON body, which is idempotent unless it is a POST."""
    content = json.dumps(document, allow_nan=False).encode()
    return Request(method, path, content, JSON, is_idempotent=method != "POST")


def capabilities(retries: Retries) -> Operation[Document]:
    """What the service can do."""
    return _document((yield from exchange(Request("GET", "v1/capabilities"), retries)))


def open_session(id: str, retries: Retries, limits: ReplayLimits) -> Operation[SessionState]:  # noqa: A002
    """The state of a session that exists."""
    answer = yield from exchange(Request("GET", f"v1/sessions/{id}"), retries)
    return SessionState(_document(answer), retries, limits)


def create_session(document: Mapping[str, Any], retries: Retries, limits: ReplayLimits) -> Operation[SessionState]:
    """Creates a session, of a definition or of a checkpoint."""
    answer = yield from exchange(json_request("POST", "v1/sessions", document), retries)
    return SessionState(_document(answer), retries, limits)


def solve_kernels(losses: Any, grams: Any, settings: Mapping[str, Any], retries: Retries) -> Operation[dict[str, NDArray[Any]]]:
    """Solves the systems of one batch without a session."""
    kernels = np.asarray(grams)
    if kernels.ndim != 3 or kernels.shape[1] != kernels.shape[2]:
        raise ValueError(f"grams has shape {list(kernels.shape)}; [layers, B, B] was expected")
    rows, columns = np.triu_indices(kernels.shape[1])
    body = encode({"losses": losses, "grams": kernels[:, rows, columns]})
    request = Request("POST", f"v1/kernel/solve?{urlencode(settings)}", body, SAFETENSORS)
    return decode((yield from exchange(request, retries)).content).tensors


def estimate(
    definition: Mapping[str, Any],
    batch: int,
    positions: Mapping[str, int] | None,
    send_as: Literal["f16", "bf16"] | None,
    retries: Retries,
) -> Operation[Document]:
    """What a step of a session would take."""
    order: Document = {"session": definition, "batch": batch, "positions": positions or {}}
    if send_as is not None:
        order["sendAs"] = send_as.upper()
    # It changes nothing.
    request = replace(json_request("POST", "v1/estimates", order), is_idempotent=True)
    return _document((yield from exchange(request, retries)))


def list_sessions(retries: Retries) -> Operation[list[Document]]:
    """All sessions of the key's tenant, page by page."""
    found: list[Document] = []
    query = {"limit": "200"}
    while True:
        page = _document((yield from exchange(Request("GET", f"v1/sessions?{urlencode(query)}"), retries)))
        found.extend(page["sessions"])
        if page["next"] is None:
            return found
        query["after"] = page["next"]


def usage(first: str | None, last: str | None, retries: Retries) -> Operation[list[Document]]:
    """What was taken, by day."""
    query = urlencode({name: day for name, day in (("from", first), ("to", last)) if day is not None})
    days: list[Document] = _document((yield from exchange(Request("GET", f"v1/usage?{query}"), retries)))["days"]
    return days


def download_checkpoint(id: str, retries: Retries) -> Operation[bytes]:  # noqa: A002
    """A checkpoint's file."""
    return (yield from exchange(Request("GET", f"v1/checkpoints/{id}"), retries)).content


def import_checkpoint(file: bytes, retries: Retries) -> Operation[Document]:
    """Brings a checkpoint's file into the service."""
    request = Request("POST", "v1/checkpoints", file, SAFETENSORS, is_idempotent=False)
    return _document((yield from exchange(request, retries)))


def delete_checkpoint(id: str, retries: Retries) -> Operation[None]:  # noqa: A002
    """Deletes a checkpoint."""
    yield from exchange(Request("DELETE", f"v1/checkpoints/{id}"), retries)


def _chunk_samples(x: Any) -> int:
    """So many samples that a chunk is about 16 MB: small enough to be sent again, large enough to be few."""
    sample_bytes = 4 * math.prod(int(size) for size in x.shape[1:])
    return max(1, _CHUNK_BYTES // max(1, sample_bytes), math.ceil(len(x) / _MOST_CHUNKS))


def _document(answer: Answer) -> Document:
    document = answer.document()
    if not isinstance(document, dict):
        raise UnexpectedAnswerError("the answer is no JSON object")
    return document


def _metrics(reply: Decoded) -> Document:
    try:
        metrics = json.loads(reply.metadata.get("metrics", ""))
    except ValueError as error:
        raise UnexpectedAnswerError("the reply has no metrics") from error
    if not isinstance(metrics, dict):
        raise UnexpectedAnswerError("the reply's metrics are no JSON object")
    return metrics


def _dense_gradient(layer: Layer, sent: Mapping[str, Any]) -> WeightedGradient:
    """Jᵀκ of a dense layer from what was sent of it."""
    name = layer["name"]

    def gradient(kappa: NDArray[np.float64]) -> NDArray[Any]:
        inputs, output_grads = (
            np.asarray(sent[f"layers.{name}.{part}"]).reshape(len(kappa), -1, layer[side])
            for part, side in (("input", "inputs"), ("output_grad", "outputs"))
        )
        weighted = kappa.astype(output_grads.dtype)[:, None, None] * output_grads
        weight = np.einsum("bpn,bpc->nc", inputs, weighted)
        return np.concatenate([weight, weighted.sum((0, 1))[None]]) if layer["bias"] else weight

    return gradient
