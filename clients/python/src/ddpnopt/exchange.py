"""Requests and answers without input or output: each operation is a generator that says what to send and how long to wait.

The synchronous and the asynchronous client drive the same generators, so that what they do is written once.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from ddpnopt.errors import NoAnswerError, ProblemError, UnexpectedAnswerError, problem_error
from ddpnopt.retries import Retries

Result = TypeVar("Result")

JSON = "application/json"
PROBLEM = "application/problem+json"


@dataclass(frozen=True)
class Request:
    """One HTTP request."""

    method: str
    path: str
    content: bytes | None = None
    content_type: str | None = None
    is_idempotent: bool = True
    """Whether it may be sent again when nobody knows what became of it."""


@dataclass(frozen=True)
class Wait:
    """A pause before the next request."""

    seconds: float


@dataclass(frozen=True)
class Answer:
    """A complete HTTP answer; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    content: bytes

    @property
    def media_type(self) -> str:
        """The media type, without its parameters."""
        return self.headers.get("content-type", "").split(";")[0].strip().lower()

    def document(self) -> Any:
        """The JSON that it consists of.

        Raises:
            UnexpectedAnswerError: if it is none.
        """
        try:
            return json.loads(self.content)
        except ValueError as error:
            raise UnexpectedAnswerError(f"the answer is not JSON: {error}") from error


# A request is answered, or NoAnswerError is thrown into the generator; after a pause it is sent None.
Operation: TypeAlias = Generator[Request | Wait, Answer | None, Result]


def exchange(request: Request, retries: Retries) -> Operation[Answer]:
    """Sends a request until it is answered with success.

    Raises:
        ProblemError: the service refuses it.
        NoAnswerError: no answer came, after as many attempts as are allowed.
        UnexpectedAnswerError: something else than the service answers.
    """
    failures = 0
    # An earlier attempt may have done it.
    is_in_doubt = False
    while True:
        retry_after: float | None = None
        failure: ProblemError | NoAnswerError | UnexpectedAnswerError
        try:
            answer = yield request
            assert answer is not None  # what answers requests sends an answer
            if 200 <= answer.status < 300:
                return answer
            if is_in_doubt and request.method == "DELETE" and answer.status in (404, 410):
                return answer
            failure = error_of(answer, request)
        except NoAnswerError as error:
            failure = error
        if isinstance(failure, NoAnswerError):
            may_retry = request.is_idempotent or not failure.was_sent
            is_in_doubt = is_in_doubt or failure.was_sent
        elif isinstance(failure, ProblemError):
            may_retry = request.is_idempotent and failure.retryable
            retry_after = failure.retry_after
            # The edge may not know what its worker has done.
            is_in_doubt = is_in_doubt or failure.retryable
        else:
            may_retry = False
        failures += 1
        if not may_retry or failures >= retries.attempts:
            raise failure
        yield Wait(retries.delay(failures, retry_after))


def error_of(answer: Answer, request: Request) -> ProblemError | NoAnswerError | UnexpectedAnswerError:
    """What an answer means that is none of success."""
    what = f"{request.method} {request.path}: status {answer.status}"
    if answer.media_type == PROBLEM:
        problem = answer.document()
        if isinstance(problem, dict):
            return problem_error(problem, status=answer.status, retry_after=_seconds(answer.headers.get("retry-after")))
    if answer.status in (502, 503, 504):
        return NoAnswerError(f"{what}, from a proxy that does not reach the service")
    return UnexpectedAnswerError(f"{what}, not from the service")


def _seconds(header: str | None) -> float | None:
    try:
        return None if header is None else max(0.0, float(header))
    except ValueError:  # a date, which the service does not send
        return None
