"""The calls of the SDKs: each method adds one concern and calls the next.

get, post       JSON in, a message out
  exchange      retries, by the policy
    open        refusals become errors
      Transport.send
"""

from __future__ import annotations

import logging
import math
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal, TypeVar

import msgspec

from pygrid import codes
from pygrid.errors import PygridError, from_problem
from pygrid.messages.media import PROBLEM
from pygrid.transport.base import Body, Closing, Request, Response, Transport
from pygrid.transport.encoding import json_body
from pygrid.transport.retry import IN_PROGRESS, RetryPolicy, may_retry

logger = logging.getLogger(__name__)

T = TypeVar("T")

MAX_JSON_BYTES = 32 * 1024 * 1024
_MAX_PROBLEM_BYTES = 256 * 1024
_MAX_RETRY_AFTER_DIGITS = 9
_IDEMPOTENT = frozenset({"GET", "HEAD", "PUT", "DELETE"})
_GATEWAY_STATUSES = (502, 503, 504)


class Api(Closing):
    """A server's routes, called by method and path.

    Args:
        transport: carries the requests; closed with the Api.
        token: sent as ``Authorization: Bearer``, unless a call has its own.
        retries: when to retry.
        first_contact_s: largest time for retries until the server has answered once. A wrong address should be reported
            soon, but a restarting server is worth waiting for. None: as in ``retries``.
        sleep: waits that many seconds; a replacement can end the wait early by raising.
        now: the clock in seconds that limits the retries.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        token: str | None = None,
        retries: RetryPolicy | None = None,
        first_contact_s: float | None = None,
        sleep: Callable[[float], None] = time.sleep,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.transport = transport
        self.token = token
        self.on_retry: Callable[[PygridError, float], object] | None = None
        """Called before each retry, with the error and the seconds until the retry."""
        self._retries = retries or RetryPolicy()
        self._first_patience_s = math.inf if first_contact_s is None else first_contact_s
        """Largest time for retries until the server has answered once."""
        self._sleep = sleep
        self._now = now

    @property
    def url(self) -> str:
        return self.transport.url

    def get(self, path: str, answer: type[T], *, query: Mapping[str, str] | None = None, timeout_s: float = 60.0) -> T:
        """The JSON answer to a GET, as a value of type ``answer``."""
        return self.exchange(
            Request("GET", path, query=query or {}, timeout_s=timeout_s), lambda r: self._decode(r, answer)
        )

    def get_tagged(self, path: str, answer: type[T]) -> tuple[T, str]:
        """The answer of `get`, and its ``ETag``, for the ``If-Match`` of a change."""
        return self.exchange(Request("GET", path), lambda r: (self._decode(r, answer), r.headers.get("etag", "*")))

    def post(
        self,
        path: str,
        answer: type[T],
        *,
        json: object = None,
        query: Mapping[str, str] | None = None,
        timeout_s: float = 60.0,
        idempotent: bool = False,
        once: bool = False,
    ) -> T:
        """The JSON answer to a POST of a JSON body, as a value of type ``answer``.

        Args:
            idempotent: a second copy of the request changes nothing.
            once: the route takes ``Idempotency-Key``. The call gets a new key, so the server does it once although it
                can be sent again.
        """
        body = json_body(json if json is not None else {})
        headers = {"Content-Type": "application/json", **(_new_key() if once else {})}
        request = Request("POST", path, query or {}, headers, body, timeout_s)
        return self.exchange(request, lambda r: self._decode(r, answer), idempotent=idempotent or once)

    def change(self, method: Literal["PUT", "DELETE"], path: str, answer: type[T], *, json: object = None) -> T:
        """The JSON answer to a PUT of a JSON body, or to a DELETE, as a value of type ``answer``.

        A DELETE is sent once, because its second copy finds nothing.
        """
        body = None if json is None else json_body(json)
        headers = {} if body is None else {"Content-Type": "application/json"}
        request = Request(method, path, headers=headers, body=body)
        return self.exchange(request, lambda r: self._decode(r, answer), idempotent=method == "PUT")

    def send_body(
        self,
        path: str,
        answer: type[T],
        body: Body,
        *,
        headers: Mapping[str, str],
        timeout_s: float = 120.0,
        idempotent: bool = False,
        once: bool = False,
    ) -> T:
        """The JSON answer to a POST of the bytes of ``body``, as a value of type ``answer``.

        Args:
            idempotent, once: as for `post`. Each try sends the whole body.
        """
        request = Request(
            "POST", path, headers={**headers, **(_new_key() if once else {})}, body=body, timeout_s=timeout_s
        )
        return self.exchange(request, lambda r: self._decode(r, answer), idempotent=idempotent or once)

    def exchange(self, request: Request, handle: Callable[[Response], T], *, idempotent: bool | None = None) -> T:
        """Send a request and return the result of ``handle(answer)``; the policy may repeat both.

        Args:
            handle: gets answers below 400 only. It can be called again after a lost connection, so it must start over.
            idempotent: whether to send the request again although the server may have seen it; None: by its method.
        Raises:
            PygridError: the server's refusal, as the class that its code names; `Unavailable` if the server could not
                be reached.
        """
        repeatable = request.method in _IDEMPOTENT if idempotent is None else idempotent
        num_failures = 0
        give_up_at = 0.0
        in_progress_since: float | None = None
        while True:
            try:
                return self._once(request, handle)
            except PygridError as error:
                num_failures += 1
                now = self._now()
                if num_failures == 1:
                    give_up_at = now + min(self._retries.max_elapsed_s, self._first_patience_s)
                if error.code == IN_PROGRESS and self._retries.max_elapsed_s:
                    # The server still works on an earlier try. Wait as long as for an answer, from its first report.
                    in_progress_since = now if in_progress_since is None else in_progress_since
                    give_up_at = max(give_up_at, in_progress_since + request.timeout_s)
                delay_s = self._retries.delay_s(num_failures, error)
                if not may_retry(error, idempotent=repeatable) or now + delay_s >= give_up_at:
                    raise
                failure = error
                logger.debug(
                    "trying again: %s %s code=%s delay_s=%.2f", request.method, request.path, error.code, delay_s
                )
            if self.on_retry is not None:
                self.on_retry(failure, delay_s)
            self._sleep(delay_s)

    def open(self, request: Request) -> Response:
        """Send a request once and return the unread answer, for streams without an end; the caller closes it.

        Raises:
            PygridError: as `exchange`.
        """
        headers = dict(request.headers)
        if self.token is not None:
            headers.setdefault("Authorization", f"Bearer {self.token}")
        response = self.transport.send(replace(request, headers=headers))
        self._first_patience_s = math.inf
        if response.status < 400:
            return response
        with response:
            raise self._refusal(request, response)

    def _once(self, request: Request, handle: Callable[[Response], T]) -> T:
        with self.open(request) as response:
            return handle(response)

    def _refusal(self, request: Request, response: Response) -> PygridError:
        data = response.read(_MAX_PROBLEM_BYTES)
        problem: dict[str, Any] = {}
        if response.headers.get("content-type", "").startswith(PROBLEM):
            try:
                problem = msgspec.json.decode(data, type=dict[str, Any])
            except (msgspec.DecodeError, RecursionError):
                logger.debug(
                    "unreadable problem document: %s %s status=%d", request.method, request.path, response.status
                )
        if not problem:
            status = 503 if response.status in _GATEWAY_STATUSES else response.status
            code = "gateway_error" if response.status in _GATEWAY_STATUSES else "unexpected_answer"
            problem = {"status": status, "code": code, "detail": self._foreign(request, f"status {response.status}")}
        retry_after = response.headers.get("retry-after", "")
        if retry_after.isdecimal() and len(retry_after) <= _MAX_RETRY_AFTER_DIGITS:
            problem.setdefault("retry_after_s", int(retry_after))
        return from_problem(problem)

    def _decode(self, response: Response, answer: type[T]) -> T:
        data = response.read(MAX_JSON_BYTES)
        try:
            return msgspec.json.decode(data, type=answer)
        except (msgspec.DecodeError, RecursionError) as error:
            raise PygridError(
                f"the answer of {self.url} does not follow the protocol ({error}). Is it a pygrid Domain, of a version "
                "that fits this one?",
                code=codes.UNEXPECTED_ANSWER,
                url=self.url,
            ) from error

    def _foreign(self, request: Request, what: str) -> str:
        return (
            f"{self.url} answered {request.method} {request.path} with {what} and no explanation. Is it a pygrid "
            "Domain, or is a proxy in between?"
        )

    def close(self) -> None:
        self.transport.close()


def _new_key() -> dict[str, str]:
    return {"Idempotency-Key": str(uuid.uuid4())}
