"""Messages about accounts over the WebSocket of clients of 2020, at a Domain and at a Network.

The messages of users, roles and groups have the fields of the REST bodies at the top level; ``id`` is the target. They
need ``token`` and ``private-key``, in the published order of checks. The answers are those of the routes.
``authentication`` is for served models: later messages of the WebSocket need no token, and no private key.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias, TypeVar

import msgspec

from pygrid.core.access import Permission, Principal
from pygrid.errors import InvalidCredentials, PygridError
from pygrid.features.accounts.forms import private_key_missing
from pygrid.features.accounts.presenter import AccountPresenter
from pygrid.features.accounts.service import AccountService
from pygrid.legacy.websocket import Answer, Handler, LegacyCaller, Message, answer_of, read_fields, refusal, text_field
from pygrid.messages import accounts as messages
from pygrid.web.published import Area

T = TypeVar("T", bound=msgspec.Struct)
UseCase: TypeAlias = Callable[[Principal, T], Awaitable[msgspec.Struct]]

GROUP_TYPES = frozenset({"create-group", "get-group", "get-all-groups", "put-group", "delete-group"})
"""Their answers are JSON texts in a JSON text, as published."""


class Nothing(msgspec.Struct):
    """No fields."""


class _AccountId(msgspec.Struct):
    """The user, role or group of a message."""

    id: messages.Id


class _EmailOf(messages.EmailChange, kw_only=True):
    id: messages.Id


class _PasswordOf(messages.PasswordChange, kw_only=True):
    id: messages.Id


class _RoleOf(messages.RoleChange, kw_only=True):
    id: messages.Id


class _GroupsOf(messages.GroupsChange, kw_only=True):
    id: messages.Id


class _NameOf(messages.GroupRequest, kw_only=True):
    id: messages.Id


class _NewRole(msgspec.Struct):
    role: messages.RoleRequest


class _EditedRole(_AccountId, kw_only=True):
    role: messages.RoleEdit


def authentication_messages(accounts: AccountService, app_id: str) -> dict[str, Handler]:
    """Return the handler of logins that last as long as the WebSocket."""

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


class AccountMessages:
    """Makes the handlers of messages about the accounts of an app."""

    def __init__(self, accounts: AccountService) -> None:
        self._accounts = accounts
        self._present = AccountPresenter(accounts.access, is_published=True)

    def of_domain(self) -> dict[str, Handler]:
        """Return the handlers of a Domain. ``put-role`` changes a role, or the role of a user if ``role`` is an id."""
        edit_role, change_role = self._roles()["put-role"], self._users()["update-user-role"]

        async def put_role(caller: LegacyCaller, message: Message) -> Answer:
            return await (edit_role if isinstance(message.get("role"), Mapping) else change_role)(caller, message)

        users = self._users()
        del users["update-user-role"]
        roles = {
            {"list-role": "get-role", "list-roles": "get-all-roles"}.get(name, name): handler
            for name, handler in self._roles().items()
        }
        return {**users, **roles, **self._groups(), "put-role": put_role}

    def of_network(self) -> dict[str, Handler]:
        """Return the handlers of a Network, which has no groups."""
        return {**self._users(), **self._roles()}

    def _users(self) -> dict[str, Handler]:
        accounts, present = self._accounts, self._present

        async def sign_up(caller: LegacyCaller, message: Message) -> Answer:
            request, key = read_fields(message, messages.SignUpRequest), _private_key(message)
            principal = await caller.principal(message) if key and message.get("token") else None
            new = await accounts.sign_up_by_key(principal, key, request, caller.address)
            return answer_of(messages.UserResponse(True, present.user(new.user, new.private_key)))

        async def log_in(caller: LegacyCaller, message: Message) -> Answer:
            request, key = read_fields(message, messages.LoginRequest), _private_key(message)
            if key is None:
                raise private_key_missing()
            session = await accounts.log_in(request.email, request.password, caller.address, key)
            return answer_of(messages.LoginResponse(True, session.token, session.expires_in_s))

        async def list_users(by: Principal, _: Nothing) -> messages.UsersResponse:
            return messages.UsersResponse(True, [present.user(user) for user in await accounts.list_users(by)])

        async def get_user(by: Principal, one: _AccountId) -> messages.UserResponse:
            return messages.UserResponse(True, present.user(await accounts.get_user(by, one.id)))

        async def search(by: Principal, wanted: messages.UserSearch) -> messages.UsersResponse:
            found = await accounts.search_users(by, wanted.email, wanted.role, wanted.group)
            return messages.UsersResponse(True, [present.user(user) for user in found])

        async def put_email(by: Principal, change: _EmailOf) -> messages.UserResponse:
            return messages.UserResponse(True, present.user(await accounts.change_email(by, change.id, change.email)))

        async def put_password(by: Principal, change: _PasswordOf) -> messages.UserResponse:
            keyed = await accounts.change_password(by, change.id, change.password)
            return messages.UserResponse(True, present.user(keyed.user, keyed.private_key))

        async def put_role(by: Principal, change: _RoleOf) -> messages.UserResponse:
            return messages.UserResponse(True, present.user(await accounts.change_role(by, change.id, change.role)))

        async def put_groups(by: Principal, change: _GroupsOf) -> messages.UserResponse:
            return messages.UserResponse(True, present.user(await accounts.change_groups(by, change.id, change.groups)))

        async def delete_user(by: Principal, one: _AccountId) -> messages.UserResponse:
            return messages.UserResponse(True, present.user(await accounts.delete_user(by, one.id)))

        handlers = {
            "signup-user": _published(sign_up),
            "login-user": _published(log_in),
            "list-users": self._handler(Nothing, list_users, reads=True),
            "list-user": self._handler(_AccountId, get_user, reads=True),
            "search-users": self._handler(messages.UserSearch, search, reads=True),
            "put-email": self._handler(_EmailOf, put_email),
            "put-password": self._handler(_PasswordOf, put_password),
            "update-user-role": self._handler(_RoleOf, put_role),
            "put-groups": self._handler(_GroupsOf, put_groups),
            "delete-user": self._handler(_AccountId, delete_user),
        }
        if Permission.CREATE_GROUPS not in accounts.access.permissions:
            del handlers["put-groups"]
        return handlers

    def _roles(self) -> dict[str, Handler]:
        accounts, present = self._accounts, self._present

        async def create(by: Principal, new: _NewRole) -> messages.RoleResponse:
            role = await accounts.create_role(by, new.role.name, present.new_flags(new.role))
            return messages.RoleResponse(True, present.role(role))

        async def get(by: Principal, one: _AccountId) -> messages.RoleResponse:
            return messages.RoleResponse(True, present.role(await accounts.get_role(by, one.id)))

        async def list_all(by: Principal, _: Nothing) -> messages.RolesResponse:
            return messages.RolesResponse(True, [present.role(role) for role in await accounts.list_roles(by)])

        async def edit(by: Principal, change: _EditedRole) -> messages.RoleResponse:
            name = None if change.role.name is msgspec.UNSET else change.role.name
            role = await accounts.edit_role(by, change.id, name, present.flags(change.role))
            return messages.RoleResponse(True, present.role(role))

        async def delete(by: Principal, one: _AccountId) -> messages.RoleDeleted:
            info = present.role(await accounts.delete_role(by, one.id))
            return messages.RoleDeleted(True, info, info)

        return {
            "create-role": self._handler(_NewRole, create, lambda new: present.new_flags(new.role)),
            "list-role": self._handler(_AccountId, get, reads=True),
            "list-roles": self._handler(Nothing, list_all, reads=True),
            "put-role": self._handler(_EditedRole, edit),
            "delete-role": self._handler(_AccountId, delete),
        }

    def _groups(self) -> dict[str, Handler]:
        accounts, present = self._accounts, self._present

        async def create(by: Principal, new: messages.GroupRequest) -> messages.GroupResponse:
            return messages.GroupResponse(True, present.group(await accounts.create_group(by, new.name)))

        async def get(by: Principal, one: _AccountId) -> messages.GroupResponse:
            return messages.GroupResponse(True, present.group(await accounts.get_group(by, one.id)))

        async def list_all(by: Principal, _: Nothing) -> messages.GroupsResponse:
            return messages.GroupsResponse(True, [present.group(group) for group in await accounts.list_groups(by)])

        async def rename(by: Principal, change: _NameOf) -> messages.GroupResponse:
            return messages.GroupResponse(True, present.group(await accounts.rename_group(by, change.id, change.name)))

        async def delete(by: Principal, one: _AccountId) -> messages.GroupResponse:
            return messages.GroupResponse(True, present.group(await accounts.delete_group(by, one.id)))

        return {
            "create-group": self._handler(messages.GroupRequest, create),
            "get-group": self._handler(_AccountId, get, reads=True),
            "get-all-groups": self._handler(Nothing, list_all, reads=True),
            "put-group": _with_fields_of("group", self._handler(_NameOf, rename)),
            "delete-group": self._handler(_AccountId, delete),
        }

    def _handler(
        self, kind: type[T], use_case: UseCase[T], check: Callable[[T], object] | None = None, *, reads: bool = False
    ) -> Handler:
        """Return a handler that makes the published checks in their order, and then calls the use case."""

        async def handle(caller: LegacyCaller, message: Message) -> Answer:
            principal = await caller.principal(message, reads=reads)
            if not reads:
                caller.check_session(message)
            request = read_fields(message, kind)
            if check is not None:
                check(request)
            if message.get("token"):
                key = _private_key(message)
                if key is None:
                    raise private_key_missing()
                await self._accounts.check_private_key(principal, key, caller.address)
            return answer_of(await use_case(principal, request))

        return _published(handle)


def _published(handler: Handler) -> Handler:
    """Return the handler with refusals in the published texts of accounts."""

    async def handle(caller: LegacyCaller, message: Message) -> Answer:
        try:
            return await handler(caller, message)
        except PygridError as error:
            return refusal(error, Area.ACCOUNTS)

    return handle


def _with_fields_of(name: str, handler: Handler) -> Handler:
    """Return the handler of messages whose fields can also be in the object ``name``, as published."""

    async def handle(caller: LegacyCaller, message: Message) -> Answer:
        inner = message.get(name)
        return await handler(caller, {**inner, **message} if isinstance(inner, Mapping) else message)

    return handle


def _private_key(message: Message) -> str | None:
    key = message.get("private-key") or message.get("private_key")
    return key if isinstance(key, str) else None
