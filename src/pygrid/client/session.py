"""Calls in the name of a user."""

from __future__ import annotations

from pygrid.errors import Unauthenticated
from pygrid.transport import Api, Request, Response

_WRONG_PASSWORD = "invalid_credentials"


class SessionApi(Api):
    """An `Api` whose refusals for want of a session say how to get one."""

    def open(self, request: Request) -> Response:
        try:
            return super().open(request)
        except Unauthenticated as error:
            if self.token is None and error.code == _WRONG_PASSWORD:
                raise
            was = "the session has ended" if self.token else "nobody is logged in"
            raise Unauthenticated(
                f"{was}; log in with connect(url).login(email, password), or on the command line with: pygrid login {self.url} "
                f"(the Domain says: {error.detail})",
                code=error.code,
                **error.fields,
            ) from error
