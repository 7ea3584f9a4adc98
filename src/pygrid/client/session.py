"""Calls with the session of a user."""

from __future__ import annotations

import hashlib
import html
import secrets
from typing import Self

import msgspec

from pygrid import codes
from pygrid.client.tokens import ApiTokens
from pygrid.client.users import Roles, Users
from pygrid.errors import Conflict, Forbidden, InvalidInput, PygridError, Unauthenticated
from pygrid.messages import media
from pygrid.messages.accounts import (
    BrowserLink,
    BrowserLoginRequest,
    CodeAccepted,
    CodeRequest,
    LoginRequest,
    LoginResponse,
    UserInfo,
    UserResponse,
)
from pygrid.messages.identity import NONCE_BYTES, SIGNATURE_BYTES, IdentityInfo, from_base64url, to_base64url
from pygrid.transport import Api, Request, Response, Transport
from pygrid.transport.base import Closing
from pygrid.transport.encoding import json_body
from pygrid.transport.identity import IdentityKey

FIRST_CONTACT_S = 10.0
"""Time limit for retries before the first answer of an app."""
_MAX_USER_BYTES = 1024**2
_API_TOKEN = "pgt_"
_WRONG_PASSWORD = "invalid_credentials"


class SessionApi(Api):
    """An `Api` whose refusals without a session explain how to log in."""

    def open(self, request: Request) -> Response:
        try:
            return super().open(request)
        except Unauthenticated as error:
            if self.token is None and error.code == _WRONG_PASSWORD:
                raise
            if (self.token or "").startswith(_API_TOKEN):
                hint = "with `pygrid token make NAME`, and pass it in PYGRID_TOKEN or to connect"
                raise Unauthenticated(f"{error.detail}, {hint}", code=error.code, **error.fields) from error
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


def _check_browsable(api: Api) -> None:
    if not api.url.startswith(("http://", "https://")):
        raise InvalidInput(
            f"a browser cannot open {api.url}: use the direct address of the Domain, or an API token",
            code=codes.INVALID_URL,
        )


class BrowserLogin:
    """A sign-in that a person finishes in a browser.

    The page at `url` shows a one-time code to a signed-in user, and `finish` takes it. The code is useless without this
    object, which keeps the secret that it belongs to.
    """

    def __init__(self, api: Api) -> None:
        _check_browsable(api)
        self._api = api
        self._verifier = secrets.token_urlsafe(32)

    @property
    def url(self) -> str:
        """Address of the page that shows the code."""
        digest = hashlib.sha256(self._verifier.encode()).digest()
        return f"{self._api.url}/admin/terminal?challenge={to_base64url(digest)}"

    def finish(self, code: str) -> UserInfo:
        """Begin the session of the client with the code of the page, and return its user.

        Raises:
            Forbidden: the code is wrong, was used, has expired, or belongs to another sign-in (``code_not_valid``).
        """
        self._api.token = None
        request = BrowserLoginRequest(code, self._verifier)
        self._api.token = self._api.post("/users/login/code", LoginResponse, json=request).token
        return self._api.get("/users/me", UserResponse).user

    def __repr__(self) -> str:
        return f"BrowserLogin(url={self.url!r})"


class SessionClient(Closing):
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

    @property
    def roles(self) -> Roles:
        """The roles of the app: ``roles()`` lists them, ``roles["Model Owner"]`` is one, ``add`` and ``remove``."""
        return Roles(self._api)

    @property
    def users(self) -> Users:
        """The users of the app: ``users()`` lists them, ``users[EMAIL]`` is one; ``add``, ``set_role``, ``remove``."""
        return Users(self._api, self.roles)

    @property
    def tokens(self) -> ApiTokens:
        """Your API tokens for scripts: ``tokens()`` lists them; ``make``, ``revoke``."""
        return ApiTokens(self._api)

    def login(self, email: str, password: str, *, sign_up: bool = False) -> Self:
        """Begin a session, which later calls use.

        Args:
            sign_up: create the account, unless it exists, so that a script runs the first time and every other time.
        Raises:
            Unauthenticated: the account or the password is wrong (``invalid_credentials``).
            TooManyRequests: there were too many attempts; retry after ``retry_after_s``.
        """
        if sign_up:
            try:
                self.sign_up(email, password)
                return self
            except (Conflict, Forbidden) as error:
                if error.code not in (codes.EMAIL_TAKEN, codes.SIGNUP_CLOSED):
                    raise
        self._api.token = None
        self._api.token = self._api.post("/users/login", LoginResponse, json=LoginRequest(email, password)).token
        return self

    def browser_login(self) -> BrowserLogin:
        """Begin a sign-in in a browser, for people who have no password here: open its ``url``, then `finish`.

        Raises:
            InvalidInput: the client has a relayed address, where browsers cannot go (``invalid_url``).
        """
        return BrowserLogin(self._api)

    def browser_link(self) -> str:
        """Return the address of a page that opens the web console as this user. It works once, within two minutes.

        Raises:
            InvalidInput: the client has a relayed address, where browsers cannot go (``invalid_url``).
        """
        _check_browsable(self._api)
        return self._api.url + self._api.post("/users/browser-link", BrowserLink).path

    def sign_up(self, email: str, password: str, *, setup_code: str | None = None) -> UserInfo:
        """Create an account and log in with it. The first account becomes the Owner.

        Args:
            setup_code: for the first account of an app that other machines reach; the app shows it when it starts.
        Raises:
            Conflict: there is an account with this address (``email_taken``).
            Forbidden: sign-up is closed (``signup_closed``), or the setup code is missing or wrong
                (``setup_code_needed``, ``setup_code_wrong``).
        """
        request = {"email": email, "password": password, **({"setup_code": setup_code} if setup_code else {})}
        user = self._api.post("/users", UserResponse, json=request).user
        self.login(email, password)
        return user

    def accept_invitation(self, code: str, password: str) -> Self:
        """Create the account that an invitation is for, and log in with it.

        Raises:
            Forbidden: the code is wrong, was used, or has expired (``code_not_valid``).
            InvalidInput: the password is too short or too long (``weak_password``).
        """
        used = self._api.post("/users/invitations/accept", CodeAccepted, json=CodeRequest(code, password))
        return self.login(used.email, password)

    def reset_password(self, code: str, password: str) -> Self:
        """Choose a new password with a code from an Owner, and log in; all your sessions and API tokens end.

        Raises:
            As `accept_invitation`.
        """
        used = self._api.post("/users/password-reset", CodeAccepted, json=CodeRequest(code, password))
        return self.login(used.email, password)

    def change_password(self, password: str) -> str:
        """Change your password, log in with it, and return your new private key.

        All your other sessions and your API tokens end.

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
        body = None if content is None else json_body(content)
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

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r}, {'logged in' if self._api.token else 'not logged in'})"

    def _repr_html_(self) -> str:
        return html.escape(repr(self))
