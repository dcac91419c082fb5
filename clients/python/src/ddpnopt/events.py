"""Steps of a session, or of one of its runs, as they happen, read from a stream of server-sent events."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

from ddpnopt.errors import NoAnswerError, ProblemError, UnexpectedAnswerError
from ddpnopt.retries import Retries

EVENT_STREAM = "text/event-stream"


@dataclass(frozen=True)
class Event:
    """What happened to a session."""

    kind: Literal["step", "missed", "run"]
    """`step`: a step was taken, by whomever. `missed`: steps were taken whose metrics are not kept any more. `run`: how it is."""
    data: dict[str, Any]
    """The metrics of the step; or the first (`from`) and the last (`to`) of the steps that were missed; or the run."""


class EventListener:
    """What has been heard of a session, and what to ask for next: neither reads nor waits.

    Args:
        path: of the session's events, or of a run.
        after: the last step that is known; -1 for all that are kept; None for events from now on.
        retries: how often, and how long after each other, broken connections are made again.
    """

    def __init__(self, path: str, after: int | None, retries: Retries) -> None:
        self.path = path
        self.is_over = False
        """Whether the session, or the run, has ended: there is nothing more to hear."""
        self._last = after
        self._retries = retries
        self._failures = 0
        self._fields: dict[str, str] = {}

    @property
    def headers(self) -> dict[str, str]:
        """Headers of the request that asks for what has not been heard."""
        position = {} if self._last is None else {"last-event-id": str(self._last)}
        return {"accept": EVENT_STREAM, **position}

    def accepts(self, status: int, content_type: str | None) -> bool:
        """Whether an answer is a stream of events."""
        return status == 200 and (content_type or "").startswith(EVENT_STREAM)

    def read(self, line: str) -> Event | None:
        """Takes a line of the stream; gives the event that it ends, if it ends one.

        Raises:
            UnexpectedAnswerError: if the stream is not of the service's form.
        """
        if line != "":
            name, _, value = line.partition(":")
            # Without a name it is a comment.
            if name != "":
                self._fields[name] = value.removeprefix(" ")
            self._failures = 0
            return None
        fields, self._fields = self._fields, {}
        if "event" not in fields:
            return None
        try:
            return self._event(fields["event"], json.loads(fields["data"]))
        except (KeyError, TypeError, ValueError) as error:
            raise UnexpectedAnswerError(f"the event {fields['event']!r} is not of the service's form: {error}") from error

    def _event(self, kind: str, data: dict[str, Any]) -> Event | None:
        if kind == "end":
            # Otherwise the worker stops, or it was read too slowly: others go on.
            self.is_over = data["reason"] in ("deleted", "expired")
            return None
        if kind == "step":
            self._last = int(data["step"])
            return Event("step", data)
        if kind == "missed":
            self._last = int(data["to"])
            return Event("missed", data)
        if kind == "run":
            self.is_over = data["state"] != "running"
            return Event("run", data)
        # A later version's.
        return None

    def pause(self, failure: NoAnswerError | ProblemError | None) -> float:
        """Seconds until the next connection, after one that failed or ended.

        Raises:
            NoAnswerError: the failure, if there were as many as are allowed.
            ProblemError: the failure, likewise, or if it does not pass.
        """
        self._fields = {}
        if failure is None:
            return self._retries.delay(1, None)
        self._failures += 1
        passes = isinstance(failure, NoAnswerError) or failure.retryable
        if not passes or self._failures >= self._retries.attempts:
            raise failure
        return self._retries.delay(self._failures, failure.retry_after if isinstance(failure, ProblemError) else None)
