"""Logins over the WebSocket of clients of 2020: after ``authentication``, its messages are those of the account."""

from __future__ import annotations

from pygrid.errors import InvalidCredentials
from pygrid.features.accounts.service import AccountService
from pygrid.legacy.websocket import Answer, Handler, LegacyCaller, Message, text_field


def account_messages(accounts: AccountService, app_id: str) -> dict[str, Handler]:
    """Return the handlers of messages about accounts."""

    async def authentication(caller: LegacyCaller, message: Message) -> Answer:
        try:
            session = await accounts.log_in(
                text_field(message, "username"), text_field(message, "password"), caller.address
            )
        except InvalidCredentials as error:
            return {"error": "Invalid username/password!", "code": error.code}
        caller.token = session.token
        return {"success": "True", "id": app_id, "token": session.token}

    return {"authentication": authentication}
