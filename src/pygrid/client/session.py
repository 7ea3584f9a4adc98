"""Calls with the session of a user."""

from __future__ import annotations

import html
import secrets
from types import TracebackType
from typing import Self

import msgspec

from pygrid import codes
from pygrid.errors import PygridError, Unauthenticated
from pygrid.messages import media
from pygrid.messages.accounts import LoginRequest, LoginResponse, UserInfo, UserResponse
from pygrid.messages.identity import NONCE_BYTES, SIGNATURE_BYTES, IdentityInfo, from_base64url, to_base64url
from pygrid.transport import Api, Request, Response, Transport
from pygrid.transport.base import BytesBody
from pygrid.transport.identity import IdentityKey

FIRST_CONTACT_S = 10.0
"""Time limit for retries before the first answer of an app."""
_MAX_USER_BYTES = 1024**2
_WRONG_PASSWORD = "invalid_credentials"


class SessionApi(Api):
    """An `Api` whose refusals without a session explain how to log in."""

    def open(self, request: Request) -> Response:
        try:
            return super().open(request)
        except Unauthenticated as error:
            if self.token is None and error.code == _WRONG_PASSWORD:
                raise
            was = "the session has ended" if self.token else "nobody is logged in"
            raise Unauthenticated(
                f"{was}; log in with connect(url).login(email, password), or on the command line with: pygrid login "
                f"{self.url} (the Domain says: {error.detail})",
                code=error.code,
                **error.fields,
            ) from error


def identity_of(api: Api) -> IdentityInfo:
    """The name and the identity of the app at an address, proven by a fresh signature.

    Raises:
        PygridError: the signature is not valid (``unexpected_answer``).
    """
    nonce = secrets.token_bytes(NONCE_BYTES)
    info = api.get("/identity", IdentityInfo, query={"nonce": to_base64url(nonce)})
    signature = from_base64url(info.signature or "", SIGNATURE_BYTES, "signature")
    if not IdentityKey.parse(info.identity).verify(signature, "identity", nonce, info.name.encode()):
        raise PygridError(f"{api.url} did not prove the identity that it claims", code=codes.UNEXPECTED_ANSWER)
    return info


def _read_user(answer: Response) -> UserResponse:
    try:
        return msgspec.json.decode(answer.read(_MAX_USER_BYTES), type=UserResponse)
    except msgspec.DecodeError as error:
        raise PygridError(f"the answer does not follow the protocol: {error}", code=codes.UNEXPECTED_ANSWER) from error


def _key_of(answer: UserResponse) -> str:
    key = answer.user.private_key
    if not isinstance(key, str):
        raise PygridError("the answer has no private key; is this app older than 0.2?", code=codes.UNEXPECTED_ANSWER)
    return key


class SessionClient:
    """The common part of the clients of a Domain and of a Network: session and connection."""

    def __init__(self, transport: Transport, *, token: str | None = None, owns_transport: bool = False) -> None:
        self._owns_transport = owns_transport
        self._api = SessionApi(transport, token=token, first_contact_s=FIRST_CONTACT_S)

    @property
    def url(self) -> str:
        return self._api.url

    @property
    def token(self) -> str | None:
        """The token of the session; it is a secret."""
        return self._api.token

    @property
    def transport(self) -> Transport:
        """The transport of the requests."""
        return self._api.transport

    def identity(self) -> IdentityInfo:
        """The name and the identity of the app. Raises PygridError: it did not prove it (``unexpected_answer``)."""
        return identity_of(self._api)

    def login(self, email: str, password: str) -> Self:
        """Begin a session, which later calls use.

        Raises:
            Unauthenticated: the account or the password is wrong (``invalid_credentials``).
            TooManyRequests: there were too many attempts; retry after ``retry_after_s``.
        """
        self._api.token = None
        self._api.token = self._api.post("/users/login", LoginResponse, json=LoginRequest(email, password)).token
        return self

    def sign_up(self, email: str, password: str, *, setup_code: str | None = None) -> UserInfo:
        """Create an account and log in with it. The first account becomes the Owner.

        Args:
            setup_code: for the first account of an app that other machines reach; the app shows it when it starts.
        Raises:
            Conflict: there is an account with this address (``email_taken``).
            Forbidden: sign-up is closed (``signup_closed``), or the set-up code is missing or wrong
                (``setup_code_needed``, ``setup_code_wrong``).
        """
        request = {"email": email, "password": password, **({"setup_code": setup_code} if setup_code else {})}
        user = self._api.post("/users", UserResponse, json=request).user
        self.login(email, password)
        return user

    def change_password(self, password: str) -> str:
        """Change your password, log in with it, and return your new private key; all your other sessions end.

        Raises:
            InvalidInput: the password is too short or too long (``weak_password``).
        """
        me = self._api.get("/users/me", UserResponse).user
        # Not sent twice: a second request would end the private key of the first answer.
        answer = self._change("PUT", f"/users/{me.id}/password", {"password": password})
        self.login(me.email, password)
        return _key_of(answer)

    def rotate_private_key(self) -> str:
        """Create your new private key, which is shown only once, and end the old one.

        In the header ``private-key`` of ``POST /users``, it creates accounts with a role below yours. It has no other
        use.
        """
        return _key_of(self._api.post("/users/me/private-key", UserResponse))

    def revoke_private_key(self) -> None:
        """End your private key; you have none until you rotate it."""
        me = self._api.get("/users/me", UserResponse).user
        self._change("DELETE", f"/users/{me.id}/private-key")

    def _change(self, method: str, path: str, content: object = None) -> UserResponse:
        body = None if content is None else BytesBody(msgspec.json.encode(content))
        headers = {} if body is None else {"Content-Type": media.JSON}
        request = Request(method, path, headers=headers, body=body)
        return self._api.exchange(request, _read_user, idempotent=False)

    def logout(self) -> None:
        """End the session and its token."""
        self._api.post("/users/logout", dict, idempotent=True)
        self._api.token = None

    def close(self) -> None:
        """Close the connections. The session stays valid."""
        if self._owns_transport:
            self._api.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r}, {'logged in' if self._api.token else 'not logged in'})"

    def _repr_html_(self) -> str:
        return html.escape(repr(self))
