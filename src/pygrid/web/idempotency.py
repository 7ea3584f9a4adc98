"""``Idempotency-Key``: a POST that can be sent twice and is done once.

@post("/things", guards=[require()], responses=describe_problems(400, 401, 409))
@repeatable()
async def make_thing(request: AppRequest, ...) -> Thing: ...

The use case writes the answer together with its effect (`pygrid.storage.idempotency.once`). If a use case wrote
nothing, its answer is stored afterwards. Refusals are not stored: they changed nothing, so the call is tried again.

If the answer of a route holds a secret, only the fact that the call was done is stored. Calls without an account have
no keys.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import inspect
import logging
import re
import typing
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Annotated, Any, Protocol

import msgspec
from litestar import Response
from litestar.enums import MediaType
from litestar.params import HeaderParameter

from pygrid import codes
from pygrid.clock import Clock
from pygrid.core.idempotency import CallScope, KeptAnswer, RepeatableCall, current_call, in_progress
from pygrid.errors import Conflict, InvalidInput, PayloadTooLarge, PygridError
from pygrid.web.forms import body_pieces, form_events, is_multipart
from pygrid.web.requests import AppRequest, stream_body
from pygrid.web.services import service

logger = logging.getLogger(__name__)

HEADER = "Idempotency-Key"
REPLAYED = "Idempotency-Replayed"
"""Header of a stored answer: ``true``."""
_KEY = re.compile(r"[ -~]{1,255}")
_FRAMING_BYTES = 64 * 1024
"""Size of a form in addition to the contents of its parts."""
_MAX_PARTS = 64

Handler = Callable[..., Awaitable[Any]]
KeyHeader = Annotated[
    str | None,
    HeaderParameter(
        name=HEADER,
        min_length=1,
        max_length=255,
        pattern="^[ -~]{1,255}$",
        description=("A name for this call, for example a UUID. The same call sent again gets the same answer."),
    ),
]


class KeptAnswers(Protocol):
    """Stored answers to calls that were done."""

    @property
    def clock(self) -> Clock: ...

    async def find(self, scope: CallScope) -> KeptAnswer | None:
        """Return the answer to a call that was done under this key."""
        ...

    async def put(self, call: RepeatableCall, answer: bytes) -> None:
        """Store the answer of a call that changed nothing. Raises Conflict: ``idempotency_in_progress``."""
        ...

    async def settle(self) -> None:
        """Return when every write that was requested earlier is done."""
        ...

    async def replace(self, call: RepeatableCall, answer: bytes) -> None:
        """Replace the answer of a call that was done."""
        ...


class Claims:
    """The calls with a key that this app is processing. They end with the process.

    Args:
        answers: stored answers to calls that were done.
    """

    def __init__(self, answers: KeptAnswers) -> None:
        self.answers = answers
        self._held: set[CallScope] = set()
        self._settling: set[asyncio.Task[None]] = set()

    @contextlib.contextmanager
    def claim(self, scope: CallScope) -> Iterator[None]:
        """Hold the key of a call for the length of the block. Raises Conflict: ``idempotency_in_progress``.

        If the block is cancelled, the database finishes the writes that it has, so the key is held until then.
        """
        if scope in self._held:
            raise in_progress()
        self._held.add(scope)
        try:
            yield
        except asyncio.CancelledError:
            task = asyncio.create_task(self._release_later(scope))
            self._settling.add(task)
            task.add_done_callback(self._settling.discard)
            raise
        except BaseException:
            self._held.discard(scope)
            raise
        self._held.discard(scope)

    async def _release_later(self, scope: CallScope) -> None:
        try:
            await self.answers.settle()
        except PygridError:
            logger.warning("writes not settled", exc_info=True)
        finally:
            self._held.discard(scope)


def repeatable(
    *,
    form: bool = False,
    keeps_answer: bool = True,
    shape: Callable[[AppRequest, Any], object] | None = None,
    check: Handler | None = None,
) -> Callable[[Handler], Handler]:
    """Return a decorator for handlers that accept ``Idempotency-Key``.

    A handler needs a parameter ``request`` and returns a message.

    Args:
        form: the body is a form, or JSON, that the handler streams; else JSON.
        keeps_answer: False if the answer holds a secret; a second call learns only that the first was done.
        shape: maps the result of the use case to that of the handler; None: they are the same.
        check: called with the handler's arguments before a stored answer; refuses a caller who lost the right to it.

    The handler raises:
        InvalidInput: more than one key. Others: as ``check``.
        Conflict: ``idempotency_in_progress``; ``idempotency_key_reused``: the key was used with another body or path;
            ``idempotency_answer_not_kept``.
    """

    def decorate(handler: Handler) -> Handler:
        @functools.wraps(handler)
        async def wrapped(**arguments: Any) -> Any:
            request: AppRequest = arguments["request"]
            key = arguments.pop("idempotency_key")
            principal = request.scope.get("user")
            if key is None or principal is None:
                return await handler(**arguments)
            _check(request)
            claims = service(request.app.state, Claims)
            call = RepeatableCall(
                scope=CallScope(principal.user_id, _route(request), hashlib.sha256(key.encode()).hexdigest()),
                target=f"{request.scope['path']}?{request.scope['query_string'].decode('latin-1')}",
                status=request.route_handler.status_code,
                shape=(lambda result: result) if shape is None else functools.partial(shape, request),
                keeps_answer=keeps_answer,
                now=claims.answers.clock.now(),
            )
            run, may_have = functools.partial(handler, **arguments), check and functools.partial(check, **arguments)
            with claims.claim(call.scope):
                return await _answer(request, call, claims.answers, run, may_have, form=form)

        _add_parameter(wrapped, handler)
        return wrapped

    return decorate


async def _answer(
    request: AppRequest,
    call: RepeatableCall,
    records: KeptAnswers,
    handler: Handler,
    check: Handler | None,
    *,
    form: bool,
) -> Any:
    kept = await records.find(call.scope)
    if not form:
        call.body.update(await request.body())
        call.body.end()
    if kept is not None:
        if check is not None:
            await check()
        if form:
            await _read_form(request, call, kept)
        if call.body.digest(call.target) != kept.fingerprint:
            raise _reused()
        if kept.answer is None:
            raise Conflict(
                "this call was done before; its answer held a secret, which is not stored: undo it, and use another "
                "key",
                code=codes.IDEMPOTENCY_ANSWER_NOT_KEPT,
            )
        return _response(kept.answer, kept.status, {REPLAYED: "true"})
    token = current_call.set(call)
    try:
        result = await handler()
    finally:
        current_call.reset(token)
    answer = msgspec.json.encode(result)
    if call.answer is None:
        await records.put(call, answer)
    elif call.answer != answer and call.keeps_answer:
        # Later steps of the use case changed the answer.
        await records.replace(call, answer)
    return _response(answer, call.status)


async def _read_form(request: AppRequest, call: RepeatableCall, kept: KeptAnswer) -> None:
    """Read a form only to compare it. Raises Conflict: ``idempotency_key_reused``: it is longer than the first form."""
    body = stream_body(request, kept.body_bytes + _FRAMING_BYTES)
    token = current_call.set(call)
    try:
        content_type = request.headers.get("content-type", "")
        events: AsyncIterator[object] = body_pieces(body)
        if is_multipart(content_type):
            events = form_events(content_type, body, parts="the same parts as before", max_parts=_MAX_PARTS)
        async for _ in events:
            pass
    except PayloadTooLarge:
        raise _reused() from None
    finally:
        current_call.reset(token)


def _reused() -> Conflict:
    return Conflict(
        "this Idempotency-Key was used for another call: use a new key for a new call",
        code=codes.IDEMPOTENCY_KEY_REUSED,
    )


def _check(request: AppRequest) -> None:
    """Refuse several keys, and a key that ends with a line break; the schema of the parameter cannot."""
    keys = request.headers.getall(HEADER)
    if len(keys) != 1 or not _KEY.fullmatch(keys[0]):
        raise InvalidInput(
            f"send one {HEADER} of 1 to 255 printable ASCII characters", code=codes.INVALID_IDEMPOTENCY_KEY
        )


def _route(request: AppRequest) -> str:
    return f"{request.method} {request.scope.get('path_template') or request.scope['path']}"


def _response(answer: bytes, status: int, headers: dict[str, str] | None = None) -> Response[bytes]:
    return Response(answer, status_code=status, media_type=MediaType.JSON, headers=headers)


def _add_parameter(wrapped: Handler, handler: Handler) -> None:
    """Set the handler's signature and the header as the wrapper's; the framework makes parameters and OpenAPI of it."""
    signature = inspect.signature(handler)
    parameter = inspect.Parameter("idempotency_key", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=KeyHeader)
    parameters = [*signature.parameters.values(), parameter]
    wrapped.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    wrapped.__annotations__ = {**typing.get_type_hints(handler, include_extras=True), "idempotency_key": KeyHeader}
