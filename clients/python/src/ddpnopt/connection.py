"""Where the service is, and how HTTP speaks to it: what both clients share."""

from __future__ import annotations

import os
from typing import Any

import httpx

from ddpnopt.errors import NoAnswerError
from ddpnopt.exchange import Answer, Request

DEFAULT_URL = "http://127.0.0.1:8787"
DEFAULT_TIMEOUT = 120.0
EVENT_TIMEOUT = httpx.Timeout(DEFAULT_TIMEOUT, read=45.0)
"""Of a stream of events, on which the service says every 15 seconds that it is there: three of these may be missing."""
API_VERSION = "2026-11-01"
"""The version of the API that this client is written for; the service answers in its words."""

# The request cannot have left this machine.
_UNSENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol, httpx.ProxyError)


def client_arguments(url: str | None, api_key: str | None, timeout: float | httpx.Timeout) -> dict[str, Any]:
    """Arguments of httpx's clients; the environment says what is left out."""
    address = url or os.environ.get("DDPNOPT_URL") or DEFAULT_URL
    key = api_key or os.environ.get("DDPNOPT_API_KEY")
    headers = {"accept": "*/*", "user-agent": "ddpnopt-python", "ddpnopt-version": API_VERSION}
    if key:
        headers["authorization"] = f"Bearer {key}"
    # With a closing slash, so that paths are resolved below it.
    return {"base_url": address.rstrip("/") + "/", "headers": headers, "timeout": timeout}


def request_arguments(request: Request) -> dict[str, Any]:
    """Arguments of httpx's request."""
    headers = {} if request.content_type is None else {"content-type": request.content_type}
    return {"method": request.method, "url": request.path, "content": request.content, "headers": headers}


def as_answer(response: httpx.Response) -> Answer:
    """A response that has been read to its end."""
    return Answer(response.status_code, dict(response.headers), response.content)


def no_answer(request: Request, error: httpx.TransportError) -> NoAnswerError:
    """What a failure of the connection means."""
    reason = str(error) or type(error).__name__
    return NoAnswerError(f"{request.method} {request.path}: no answer ({reason})", was_sent=not isinstance(error, _UNSENT))
