"""Retries and the buffer of steps, without a network: the operations are generators."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from ddpnopt import NoAnswerError, ProblemError, RateLimitedError, ReplayLimits, Retries, UnexpectedAnswerError
from ddpnopt.exchange import Answer, Operation, Request, Wait, exchange
from ddpnopt.steps import StepBuffer

STEP = Request("PUT", "v1/sessions/ses_0/steps/0", b"body", "application/octet-stream")
CREATION = Request("POST", "v1/sessions", b"{}", "application/json", is_idempotent=False)
SUCCESS = Answer(200, {}, b"done")


def problem(status: int, *, retryable: bool, retry_after: str | None = None, code: str = "queue_full") -> Answer:
    document = {"code": code, "detail": "d.", "remedy": "r.", "retryable": retryable, "request_id": "req", "param": "p"}
    headers = {"content-type": "application/problem+json; charset=utf-8"}
    if retry_after is not None:
        headers["retry-after"] = retry_after
    return Answer(status, headers, json.dumps(document).encode())


def run(request: Request, *outcomes: Answer | NoAnswerError, attempts: int = 4) -> tuple[Any, list[float]]:
    """What an exchange gives or raises, and how long it waited each time, if the network behaves like this."""
    operation: Operation[Answer] = exchange(request, Retries(attempts=attempts, generator=random.Random(0)))
    waits: list[float] = []
    remaining = list(outcomes)
    try:
        effect = next(operation)
        while True:
            if isinstance(effect, Wait):
                waits.append(effect.seconds)
                effect = operation.send(None)
                continue
            assert effect is request
            outcome = remaining.pop(0)
            effect = operation.throw(outcome) if isinstance(outcome, NoAnswerError) else operation.send(outcome)
    except StopIteration as stop:
        result = stop.value
    except (NoAnswerError, ProblemError, UnexpectedAnswerError) as error:
        result = error
    assert remaining == []
    return result, waits


def test_a_step_is_sent_again_until_it_is_answered() -> None:
    result, waits = run(STEP, NoAnswerError("broken"), problem(503, retryable=True, retry_after="2"), SUCCESS)
    assert result is SUCCESS
    assert 0 <= waits[0] <= 0.25
    assert 2 <= waits[1] <= 2.5


def test_full_jitter_grows_up_to_a_limit() -> None:
    retries = Retries(first=1, longest=4, generator=random.Random(1))
    for failures, ceiling in [(1, 1), (2, 2), (3, 4), (4, 4), (20, 4)]:
        delays = [retries.delay(failures, None) for _ in range(400)]
        assert 0 <= min(delays) < 0.05 * ceiling
        assert 0.95 * ceiling < max(delays) <= ceiling


def test_attempts_are_limited() -> None:
    last = NoAnswerError("the last")
    result, waits = run(STEP, NoAnswerError("first"), NoAnswerError("second"), last, attempts=3)
    assert result is last
    assert len(waits) == 2


def test_what_is_not_retryable_is_raised_at_once() -> None:
    result, waits = run(STEP, problem(422, retryable=False, code="shape_mismatch"))
    assert isinstance(result, ProblemError)
    assert (result.code, result.status, result.param, result.request_id) == ("shape_mismatch", 422, "p", "req")
    assert (result.detail, result.remedy, result.retryable) == ("d.", "r.", False)
    assert str(result) == "d. r. (shape_mismatch, status 422, request req)"
    assert waits == []


def test_a_creation_is_sent_again_only_if_it_cannot_have_been_sent() -> None:
    assert isinstance(run(CREATION, NoAnswerError("broken"))[0], NoAnswerError)
    assert isinstance(run(CREATION, problem(429, retryable=True))[0], RateLimitedError)
    result, _ = run(CREATION, NoAnswerError("refused", was_sent=False), SUCCESS)
    assert result is SUCCESS


def test_a_deletion_that_may_have_been_done_finds_nothing_left() -> None:
    deletion = Request("DELETE", "v1/sessions/ses_0")
    gone = problem(404, retryable=False, code="session_not_found")
    assert run(deletion, NoAnswerError("broken"), gone)[0] is gone
    assert isinstance(run(deletion, gone)[0], ProblemError)


def test_answers_of_others() -> None:
    assert run(STEP, Answer(502, {"content-type": "text/html"}, b"<html>"), SUCCESS)[0] is SUCCESS
    assert isinstance(run(STEP, Answer(404, {"content-type": "text/html"}, b"<html>"))[0], UnexpectedAnswerError)
    assert isinstance(run(STEP, Answer(301, {}, b""))[0], UnexpectedAnswerError)


@pytest.mark.parametrize(
    ("limits", "kept"),
    [(ReplayLimits(steps=3), [4, 5, 6]), (ReplayLimits(steps=9, bytes=25), [5, 6]), (ReplayLimits(bytes=9), [])],
)
def test_the_buffer_keeps_the_last_steps(limits: ReplayLimits, kept: list[int]) -> None:
    buffer = StepBuffer(limits)
    for n in range(7):
        buffer.keep(n, bytes([n]) * 10)
    first = kept[0] if kept else 7
    for n in range(7):
        expected = [(k, bytes([k]) * 10) for k in range(n, 7)] if n >= first else None
        assert buffer.since(n) == expected
    buffer.keep(20, b"after a gap")
    assert buffer.since(6) is None
