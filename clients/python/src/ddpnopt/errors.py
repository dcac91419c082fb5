"""What can go wrong between a client and the service."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class DdpnoptError(Exception):
    """Everything that this package raises of its own."""


class NoAnswerError(DdpnoptError):
    """No complete answer came: a wrong address, a broken connection, a timeout, a proxy that could not reach the service.

    What was asked for may have been done. A step can be sent again under its number; it is applied once.
    """

    was_sent: bool
    """Whether any of the request may have reached the service."""

    def __init__(self, message: str, *, was_sent: bool = True) -> None:
        super().__init__(message)
        self.was_sent = was_sent


class UnexpectedAnswerError(DdpnoptError):
    """An answer that the service does not give: another server, or a version that does not fit this client."""


class RunError(DdpnoptError):
    """A step of a run could not be taken. The steps before it count."""

    run: Mapping[str, Any]
    """The run as it ended: `nextStep`, and in `problem` why."""

    def __init__(self, run: Mapping[str, Any]) -> None:
        problem = run.get("problem") or {}
        detail, remedy = problem.get("detail", "no reason is known."), problem.get("remedy", "")
        super().__init__(f"step {run['nextStep']} of the run could not be taken: {detail} {remedy}".rstrip())
        self.run = run


class ProblemError(DdpnoptError):
    """The service refused a request; what it was about is as it was before. An RFC 9457 problem document."""

    code: str
    """Names the kind of problem, for programs; stable."""
    status: int
    """The HTTP status."""
    title: str
    """The kind of problem in words."""
    detail: str
    """What is wrong in this request: field, value, what was expected."""
    remedy: str
    """What to do about it."""
    param: str | None
    """The field or tensor at fault."""
    retryable: bool
    """Whether the same request may succeed later without a change."""
    request_id: str | None
    """Quote it when you report the problem."""
    retry_after: float | None
    """Seconds to wait before the request is sent again; with retryable problems."""

    def __init__(self, problem: Mapping[str, Any], *, status: int, retry_after: float | None = None) -> None:
        self.code = str(problem.get("code", "unknown"))
        self.status = status
        self.title = str(problem.get("title", ""))
        self.detail = str(problem.get("detail", ""))
        self.remedy = str(problem.get("remedy", ""))
        param, request_id = problem.get("param"), problem.get("request_id")
        self.param = None if param is None else str(param)
        self.retryable = problem.get("retryable") is True
        self.request_id = None if request_id is None else str(request_id)
        self.retry_after = retry_after
        super().__init__(f"{self.detail} {self.remedy} ({self.code}, status {status}, request {self.request_id})")


class AuthenticationError(ProblemError):
    """No API key, one that is not known, or one that may not do this."""


class RateLimitedError(ProblemError):
    """Too many requests, or too many steps that wait."""


class SessionNotFoundError(ProblemError):
    """There is no such session."""


class SessionExpiredError(ProblemError):
    """The session has expired; `remedy` names the checkpoint that was kept of it."""


class StepOutOfOrderError(ProblemError):
    """The step is not the session's next one."""

    expected_step: int
    """The step that the session expects."""

    def __init__(self, problem: Mapping[str, Any], *, status: int, retry_after: float | None = None) -> None:
        super().__init__(problem, status=status, retry_after=retry_after)
        self.expected_step = int(problem["expectedStep"])


class SessionRewoundError(ProblemError):
    """The service has lost steps. Sessions send them again by themselves as far as they have kept them."""

    resume_from: int
    """The first step to send again."""

    def __init__(self, problem: Mapping[str, Any], *, status: int, retry_after: float | None = None) -> None:
        super().__init__(problem, status=status, retry_after=retry_after)
        self.resume_from = int(problem["resumeFrom"])


_BY_CODE: Mapping[str, type[ProblemError]] = {
    "session_not_found": SessionNotFoundError,
    "session_expired": SessionExpiredError,
    "step_out_of_order": StepOutOfOrderError,
    "session_rewound": SessionRewoundError,
}
_BY_STATUS: Mapping[int, type[ProblemError]] = {
    401: AuthenticationError,
    403: AuthenticationError,
    429: RateLimitedError,
}


def problem_error(problem: Mapping[str, Any], *, status: int, retry_after: float | None) -> ProblemError:
    """The exception for a problem document, of the most telling class."""
    kind = _BY_CODE.get(str(problem.get("code")), _BY_STATUS.get(status, ProblemError))
    return kind(problem, status=status, retry_after=retry_after)
