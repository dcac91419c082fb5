"""The synchronous client, made of asynchronous.py by generate.py: change that one."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Literal, TypeVar

import httpx
import numpy as np
from numpy.typing import NDArray

from ddpnopt import steps
from ddpnopt.connection import DEFAULT_TIMEOUT, EVENT_TIMEOUT, as_answer, client_arguments, no_answer, request_arguments
from ddpnopt.errors import NoAnswerError, ProblemError, RunError
from ddpnopt.events import Event, EventListener
from ddpnopt.exchange import Answer, Operation, Request, Result, Wait, error_of
from ddpnopt.policy import Inverses
from ddpnopt.progress import progress, progress_bar
from ddpnopt.retries import Retries
from ddpnopt.steps import Document, Prediction, ReplayLimits, SessionState, StepReply
from ddpnopt.wire import NarrowType

Item = TypeVar("Item")


class Client:
    """A client of the service.

    Every method may raise `ProblemError` (the service refuses), `NoAnswerError` (no answer came, after the retries) and
    `UnexpectedAnswerError` (something else answered).

    Args:
        url: where the service is; else the environment's DDPNOPT_URL, else http://127.0.0.1:8787.
        api_key: is sent as `Authorization: Bearer …`; else the environment's DDPNOPT_API_KEY, else none is sent.
        timeout: seconds to connect, and that may pass between two bytes of an answer; or httpx's own kind of timeout.
        retries: when requests are sent again.
        replay: how many of its last steps a session keeps, to send them again after the service has lost steps.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        api_key: str | None = None,
        timeout: float | httpx.Timeout = DEFAULT_TIMEOUT,
        retries: Retries | None = None,
        replay: ReplayLimits | None = None,
    ) -> None:
        self._retries = retries or Retries()
        self._replay = replay or ReplayLimits()
        self._http = httpx.Client(**client_arguments(url, api_key, timeout))

    @property
    def url(self) -> str:
        """Where the service is."""
        return str(self._http.base_url)

    def capabilities(self) -> Document:
        """What the service can do: modes, layers, options, limits, versions of the API."""
        return self.run(steps.capabilities(self._retries))

    def create_session(self, definition: Mapping[str, Any]) -> Session:
        """Creates a session.

        Args:
            definition: the document of `POST /v1/sessions`, see docs/options.md; `mode` is `layers` unless it says otherwise.
        """
        return Session(self, self.run(steps.create_session(definition, self._retries, self._replay)))

    def open_session(self, id: str) -> Session:  # noqa: A002
        """Takes up a session that exists, at the step where the service stands."""
        return Session(self, self.run(steps.open_session(id, self._retries, self._replay)))

    def resume_session(self, checkpoint: str, *, ttl_seconds: int | None = None) -> Session:
        """Creates a session that goes on where a checkpoint was made; `next_step` says with which step."""
        order: Document = {"fromCheckpoint": checkpoint}
        if ttl_seconds is not None:
            order["ttlSeconds"] = ttl_seconds
        return Session(self, self.run(steps.create_session(order, self._retries, self._replay)))

    def sessions(self) -> list[Document]:
        """The sessions of the key's tenant, newest first: `id`, `mode`, `nextStep`, `createdAt`, `expiresAt`."""
        return self.run(steps.list_sessions(self._retries))

    def usage(self, first: str | None = None, last: str | None = None) -> list[Document]:
        """Steps, bytes and compute seconds of the key's tenant by day, from the first to the last, as `2026-01-31` in UTC."""
        return self.run(steps.usage(first, last, self._retries))

    def estimate(
        self,
        definition: Mapping[str, Any],
        batch: int,
        *,
        positions: Mapping[str, int] | None = None,
        send_as: Literal["f16", "bf16"] | None = None,
    ) -> Document:
        """What a step of a session would take, and whether it would be accepted; neither need exist.

        Args:
            definition: the document of `POST /v1/sessions`.
            batch: samples of the step.
            positions: mode `layers`: S by layer name, of layers over sequences and of embeddings; 1 unless given.
            send_as: element type for the large tensors of a request.

        Returns:
            Bytes up and down, memory, multiply-adds; `accepted`, and in `problems` what it would be refused with.
        """
        return self.run(steps.estimate(definition, batch, positions, send_as, self._retries))

    def solve_kernels(self, losses: Any, grams: Any, **settings: Any) -> dict[str, NDArray[Any]]:
        """`POST /v1/kernel/solve`: solves the systems of one batch without a session.

        Args:
            losses: of each sample, [B].
            grams: N_t = J_t P_t⁻¹ J_tᵀ of every layer in the order of the forward pass, without the learning rate, [layers, B, B].
            settings: `learningRate`, `coupling`, `reply`, `lossFloor`, `lossCeiling`.

        Returns:
            `coefficients` [layers, B], or with reply `factors` `chol` [layers, B(B + 1)/2] and `target` [B].
        """
        return self.run(steps.solve_kernels(losses, grams, settings, self._retries))

    def download_checkpoint(self, id: str) -> bytes:  # noqa: A002
        """A checkpoint's safetensors file."""
        return self.run(steps.download_checkpoint(id, self._retries))

    def import_checkpoint(self, file: bytes) -> Document:
        """Brings a downloaded file into the service; says the checkpoint's `id` there."""
        return self.run(steps.import_checkpoint(file, self._retries))

    def delete_checkpoint(self, id: str) -> None:  # noqa: A002
        """Deletes a checkpoint; sessions made of it go on."""
        self.run(steps.delete_checkpoint(id, self._retries))

    def close(self) -> None:
        """Closes the connections. Sessions stay."""
        self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def run(self, operation: Operation[Result]) -> Result:
        """Sends what an operation asks for, until it has its result."""
        try:
            effect = next(operation)
            while True:
                if isinstance(effect, Wait):
                    time.sleep(effect.seconds)
                    effect = operation.send(None)
                    continue
                try:
                    answer = self._send(effect)
                except NoAnswerError as error:
                    effect = operation.throw(error)
                else:
                    effect = operation.send(answer)
        except StopIteration as stop:
            result: Result = stop.value
            return result
        finally:
            # Whatever interrupts it: the session is then ready for its next step.
            operation.close()

    def _send(self, request: Request) -> Answer:
        try:
            return as_answer(self._http.request(**request_arguments(request)))
        except httpx.TransportError as error:
            raise no_answer(request, error) from error

    def listen(self, path: str, after: int | None) -> Generator[Event, None, None]:
        """The events of a session until it ends; connections that break off are made again."""
        listener = EventListener(path, after, self._retries)
        while not listener.is_over:
            failure: NoAnswerError | ProblemError | None = None
            try:
                with self._lines(listener) as lines:
                    for line in lines:
                        event = listener.read(line)
                        if event is not None:
                            yield event
                        if listener.is_over:
                            return
            except (NoAnswerError, ProblemError) as error:
                failure = error
            time.sleep(listener.pause(failure))

    @contextmanager
    def _lines(self, listener: EventListener) -> Iterator[Iterator[str]]:
        request = Request("GET", listener.path)
        try:
            # Whatever the client's timeout is: between two steps there are only heartbeats.
            with self._http.stream("GET", listener.path, headers=listener.headers, timeout=EVENT_TIMEOUT) as response:
                if not listener.accepts(response.status_code, response.headers.get("content-type")):
                    response.read()
                    raise error_of(as_answer(response), request)
                yield response.iter_lines()
        except httpx.TransportError as error:
            raise no_answer(request, error) from error


class Session:
    """A session at the service, in any mode, and the number of its next step."""

    def __init__(self, client: Client, state: SessionState) -> None:
        self._client = client
        self._state = state

    @property
    def id(self) -> str:
        """Its identifier."""
        return self._state.id

    @property
    def mode(self) -> str:
        """`layers`, `kernel` or `hosted`."""
        return self._state.mode

    @property
    def description(self) -> Document:
        """As the service described it when it was created or opened, defaults filled in."""
        return self._state.description

    @property
    def next_step(self) -> int:
        """The number of the next step."""
        return self._state.next_step

    @property
    def inverses(self) -> Mapping[str, Inverses]:
        """The newest inverse factors that have come, by layer name."""
        return self._state.inverses

    def keep_inverses(self, inverses: Mapping[str, Inverses]) -> None:
        """Takes over inverse factors that were held before the session was resumed, so that they do not come again."""
        self._state.inverses.update(inverses)

    @property
    def history(self) -> list[Document]:
        """Metrics of every step taken here: those of the service, and `bytesSent`, `bytesReceived` and `seconds`."""
        return self._state.history

    def history_arrays(self) -> dict[str, NDArray[np.float64]]:
        """The history as one array per metric, ready to plot; NaN where a step has none."""
        return steps.history_arrays(self._state.history)

    def progress(self, batches: Iterable[Item], description: str | None = None) -> Iterator[Item]:
        """Goes through the batches, with a bar that shows the loss where tqdm is installed."""
        return progress(batches, lambda: self.history, description)

    def step(self, tensors: Mapping[str, Any], *, send_as: NarrowType | None = None) -> StepReply:
        """Takes the next step.

        After a `ProblemError` the step has not been applied: correct it and call again. After a `NoAnswerError` it may have
        been: call again with the same tensors, and it is applied once; or `resynchronise` to give it up.

        Args:
            tensors: by the names of `PUT …/steps/{n}`: `losses`, `layers.<name>.input` and so on, or `x` and `y`. Arrays of NumPy
                or PyTorch, or whatever `numpy.asarray` takes. `metric_versions` is added where needed.
            send_as: element type for the large ones; `int8` only in sessions with `"transport": {"int8": true}`.
        """
        return self._client.run(self._state.step(tensors, send_as))

    def send_part(self, k: int, tensors: Mapping[str, Any], *, send_as: NarrowType | None = None) -> Document:
        """Sends a mini-batch as part k of the next step, from this client or another; `commit` takes them as one batch.

        The parts make up the batch in the order of k. In mode `kernel` with batch coupling `diagonal` only.

        Returns:
            The parts that are there, and the samples of each.
        """
        return self._client.run(self._state.send_part(k, tensors, send_as))

    def parts(self) -> Document:
        """The parts of the next step that the service has."""
        return self._client.run(self._state.parts())

    def drop_parts(self, k: int | None = None) -> None:
        """Drops a part of the next step, to send another in its place; without k all of them."""
        self._client.run(self._state.drop_parts(k))

    def commit(self, parts: int, *, batch: Mapping[str, Any] | None = None) -> StepReply:
        """Takes the step whose parts 0 to `parts` - 1 have been sent; what follows an error is said at `step`.

        Args:
            parts: how many there are.
            batch: the tensors of all parts in one, where policies in inverse factors are to form changes of dense layers.
        """
        return self._client.run(self._state.commit(parts, batch))

    def reply(self, *, batch: Mapping[str, Any] | None = None) -> StepReply:
        """The reply of the next step, which another client has committed; until then raises `StepOutOfOrderError`."""
        return self._client.run(self._state.reply(batch))

    def events(self, *, after: int | None = None) -> Generator[Event, None, None]:
        """The session's steps as they are taken, by this client or others, until the session ends.

        Connections that break off are made again, and go on where they were. Close the iterator (`contextlib.closing`) if you
        leave it early.

        Args:
            after: the last step that is known, those after it come first as far as they are kept; -1 for all. Events from now on
                unless given.
        """
        return self._client.listen(f"{self._state.path}/events", after)

    def upload_data(
        self,
        x: Any,
        y: Any,
        sample_weights: Any = None,
        *,
        chunk_samples: int | None = None,
        first_chunk: int = 0,
        send_as: NarrowType | None = None,
        show_progress: bool = False,
    ) -> Document:
        """Mode `hosted`: sends the data set that `run` draws from, in chunks.

        Chunks that are there already are not sent again: after a failure call it again with the same arguments.

        Args:
            x: samples in the model's input shape, [N, …], an array of NumPy or PyTorch.
            y: labels [N], or targets [N, C].
            sample_weights: what each sample's loss is multiplied by, [N]; ones unless given.
            chunk_samples: samples of a chunk; as many as make about 16 MB unless given.
            first_chunk: number of the first chunk: to add to a data set, how many chunks it has.
            send_as: element type for x.
            show_progress: whether to draw a bar, where tqdm is installed.

        Returns:
            The data set as it is then: `samples`, `bytes`, `chunks`.
        """
        tensors = {"x": x, "y": y} if sample_weights is None else {"x": x, "y": y, "sample_weights": sample_weights}
        with progress_bar(len(x), "data", " samples", is_shown=show_progress) as show:
            return self._client.run(self._state.upload_data(tensors, send_as, chunk_samples, first_chunk, show))

    def data(self) -> Document:
        """Mode `hosted`: the data set as the service has it."""
        return self._client.run(self._state.data())

    def delete_data(self) -> None:
        """Mode `hosted`: deletes the data set; what was trained on it stays."""
        self._client.run(self._state.delete_data())

    def run(
        self,
        steps: int,
        batch: int,
        *,
        order: Mapping[str, Any] | None = None,
        on_step: Callable[[Document], None] | None = None,
        show_progress: bool = False,
    ) -> Document:
        """Mode `hosted`: has the service take many steps on the data set, and waits for the last one.

        The run does not depend on the connection, which is made again where it breaks off. After a `NoAnswerError` call it again
        with the same arguments to go on listening. An interruption cancels the run; the steps that it has taken count.

        Args:
            steps: how many.
            batch: samples of each.
            order: `{"kind": "shuffled", "seed": 0}` unless given, or `{"kind": "sequential"}`.
            on_step: called with the metrics of every step.
            show_progress: whether to draw a bar with the loss, where tqdm is installed.

        Returns:
            The run: `state` `finished`, or `cancelled` if somebody else has cancelled it, `nextStep`, `metrics`.

        Raises:
            RunError: a step could not be taken.
        """
        state, n = self._state, self.next_step
        path = f"{state.path}/runs/{n}"
        document = {"steps": steps, "batch": batch} if order is None else {"steps": steps, "batch": batch, "order": dict(order)}
        try:
            run = self._client.run(state.begin_run(document))
            with progress_bar(steps, "run", " steps", is_shown=show_progress) as show:
                for event in self._client.listen(path, n - 1):
                    if event.kind == "run":
                        run = event.data
                    elif event.kind == "step":
                        state.count_run_step(event.data)
                        show(event.data["step"] + 1 - n, event.data["loss"])
                        if on_step is not None:
                            on_step(event.data)
            if run["state"] == "running":
                # The session has ended, which this says.
                run = self._client.run(state.get_run(n))
        except BaseException as error:
            # Ctrl-C: nobody waits for the rest.
            if not isinstance(error, Exception):
                state.next_step = int((self.cancel_run(n))["nextStep"])
            raise
        state.next_step = int(run["nextStep"])
        if run["state"] == "failed":
            raise RunError(run)
        return run

    def cancel_run(self, n: int) -> Document:
        """Mode `hosted`: ends the run that began with step n after the step that is being computed."""
        return self._client.run(self._state.cancel_run(n))

    def runs(self) -> list[Document]:
        """Mode `hosted`: the last runs of the session, in their order."""
        return self._client.run(self._state.runs())

    def describe(self) -> Document:
        """The session as the service sees it."""
        return self._client.run(self._state.describe())

    def change_hyper_parameters(self, changes: Mapping[str, Any]) -> Document:
        """`PATCH`: changes hyper-parameters from the next step on; gives the session as it is then."""
        return self._client.run(self._state.change_hyper_parameters(changes))

    def resynchronise(self) -> None:
        """Goes on at the step the service expects, after one whose outcome is unknown."""
        self._client.run(self._state.resynchronise())

    def cancel_step(self) -> None:
        """From another thread: takes the step that is under way out of the queue; `step` then raises `step_cancelled`."""
        self._client.run(self._state.cancel_step())

    def make_checkpoint(self) -> Document:
        """Makes a checkpoint as of the last step, which outlives the session; says its `id`."""
        return self._client.run(self._state.make_checkpoint())

    def checkpoints(self) -> list[Document]:
        """The session's checkpoints, oldest first."""
        return self._client.run(self._state.checkpoints())

    def weights(self) -> dict[str, NDArray[Any]]:
        """Mode `hosted`: the parameters by name, `layers.<layer>.<parameter>`, as of the last step."""
        return self._client.run(self._state.weights())

    def predict(self, x: Any, y: Any = None, *, send_as: NarrowType | None = None) -> Prediction:
        """Mode `hosted`: what the model answers, in evaluation mode; with `y` its mean loss, too."""
        return self._client.run(self._state.predict(x, y, send_as))

    def delete(self) -> None:
        """Deletes the session. Its checkpoints stay."""
        self._client.run(self._state.delete())
