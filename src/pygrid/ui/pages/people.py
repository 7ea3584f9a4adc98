"""People: accounts, invitations, roles."""

from __future__ import annotations

import datetime as dt

import msgspec
from litestar import Response, get, post
from litestar.datastructures import State
from litestar.params import FromQuery

from pygrid import codes
from pygrid.core.access import OWNER, USER, Permission
from pygrid.errors import InvalidInput, PygridError
from pygrid.features.accounts.oidc.connections import ProviderConnections
from pygrid.features.accounts.people import PeopleService, PersonRow
from pygrid.features.accounts.service import AccountService
from pygrid.messages.accounts import PERMISSIONS, UserInvitation
from pygrid.storage.accounts import User
from pygrid.ui.access import own_origin, signed_in
from pygrid.ui.confirmation import confirm_password
from pygrid.ui.console import console_of, see_other
from pygrid.ui.forms import MAX_FORM_BYTES, PathId, read_fields
from pygrid.ui.pages.paging import PAGE_ROWS, Paging, make_paging
from pygrid.ui.tables import answer_rows, find_format
from pygrid.web.requests import AppRequest
from pygrid.web.services import service

SEE_PEOPLE = (Permission.TRIAGE_REQUESTS, Permission.CREATE_USERS)
"""One of them is needed to open the pages of people."""
_SEES = signed_in(*SEE_PEOPLE)
_CHANGES = signed_in(Permission.CREATE_USERS)
_ROLES = signed_in(Permission.TRIAGE_REQUESTS, Permission.EDIT_SETTINGS)


class NewCode(msgspec.Struct, frozen=True):
    """A one-time link, which is shown once."""

    title: str
    link: str
    email: str
    expires_at: dt.datetime


class PeopleView(msgspec.Struct, frozen=True):
    people: list[PersonRow]
    has_jobs: bool
    invitations: list[UserInvitation]
    roles: list[tuple[int, str]]
    new: NewCode | None
    text: str
    paging: Paging
    may_change: bool
    email: str


class PersonView(msgspec.Struct, frozen=True):
    id: int
    email: str
    role: int
    role_name: str
    groups: list[str]
    created_at: dt.datetime
    figures: PersonRow | None
    """Of jobs; None: for callers who may not see them."""
    permissions: list[tuple[str, str]]
    roles: list[tuple[int, str]]
    new: NewCode | None
    num_ended: int | None
    """Sessions that were just ended; None: nobody has asked for that."""
    providers: list[tuple[str, dt.datetime]]
    """Issuers of the connected providers, and since when; empty for a caller who may not change the account."""
    may_change: bool
    is_me: bool


class RoleLine(msgspec.Struct, frozen=True):
    id: int
    name: str
    given: frozenset[str]
    is_built_in: bool


class RolesView(msgspec.Struct, frozen=True):
    roles: list[RoleLine]
    permissions: list[tuple[str, str]]
    may_change: bool


@get("/people", guards=[_SEES])
async def people_page(
    request: AppRequest, state: State, text: FromQuery[str] = "", after: FromQuery[int] = 0
) -> Response[bytes]:
    """Show accounts and open invitations."""
    return await _people(request, state, query=(text[:200], max(0, after)))


async def _people(
    request: AppRequest,
    state: State,
    error: PygridError | None = None,
    *,
    query: tuple[str, int] = ("", 0),
    new: NewCode | None = None,
    email: str = "",
) -> Response[bytes]:
    accounts, principal, (text, after) = service(state, AccountService), request.user, query
    wanted = find_format(request)
    listed = service(state, PeopleService)
    found = await listed.list_people(principal, after=after, limit=PAGE_ROWS + 1, text=text)
    people = found[:PAGE_ROWS]
    if wanted:
        figures = ("groups", "num_jobs", "epsilon_spent") if listed.has_jobs else ()
        return answer_rows(wanted, "people", people, ("id", "email", "role", *figures, "created_at", "last_seen_at"))
    may_change = principal.may(Permission.CREATE_USERS)
    invitations = await accounts.list_invitations(principal) if may_change else []
    view = PeopleView(
        people,
        listed.has_jobs,
        invitations,
        await _given_roles(request, state),
        new,
        text,
        make_paging(
            request,
            people[-1].id if len(found) > PAGE_ROWS else None,
            "after",
            has_files=bool(people),
            path="/admin/people",
        ),
        may_change,
        email,
    )
    return await console_of(request).page(request, "people.html", "People", view, error=error)


async def _given_roles(request: AppRequest, state: State) -> list[tuple[int, str]]:
    """Return the roles that the caller can assign: those with permissions that the caller has."""
    accounts, own = service(state, AccountService), request.user.role.permissions
    if not request.user.may(accounts.access.see_roles):
        return [(role.id, role.name) for role in accounts.access.roles if role.permissions <= own]
    roles = await accounts.list_roles(request.user)
    return [(role.id, role.name) for role in roles if role.permissions <= own]


@post("/people/invite", guards=[_CHANGES], request_max_body_size=MAX_FORM_BYTES)
async def invite(request: AppRequest, state: State) -> Response[bytes]:
    """Invite a person; the page shows the link, once."""
    fields = await read_fields(request)
    email = fields.get("email", "").strip()
    try:
        role = _number(fields.get("role", ""), "role") if fields.get("role") else None
        row, code = await service(state, AccountService).invite(request.user, email, role, None)
    except PygridError as error:
        return await _people(request, state, error, email=email)
    new = NewCode(f"Invitation as {row.role}", _link(request, "join", code), row.email, row.expires_at)
    return await _people(request, state, new=new)


@post("/people/invitations/{invitation_id:int}/withdraw", guards=[_CHANGES])
async def withdraw(request: AppRequest, state: State, invitation_id: PathId) -> Response[bytes]:
    """Withdraw an invitation."""
    await service(state, AccountService).withdraw_invitation(request.user, invitation_id)
    return see_other("/admin/people")


@get("/people/{user_id:int}", guards=[_SEES])
async def person_page(request: AppRequest, state: State, user_id: PathId) -> Response[bytes]:
    """Show an account."""
    return await _person(request, state, user_id)


async def _person(
    request: AppRequest,
    state: State,
    user_id: int,
    error: PygridError | None = None,
    *,
    new: NewCode | None = None,
    num_ended: int | None = None,
) -> Response[bytes]:
    user = await service(state, AccountService).get_user(request.user, user_id)
    is_above = not user.role.permissions <= request.user.role.permissions
    may_change = request.user.may(Permission.CREATE_USERS) and not is_above
    connections = service(state, ProviderConnections)
    providers = await connections.list_identities(request.user, user_id) if may_change else []
    listed, rows = service(state, PeopleService), []
    if listed.has_jobs and request.user.may(service(state, AccountService).access.see_users):
        rows = await listed.list_people(request.user, after=user_id - 1, limit=1, text="")
    view = PersonView(
        user.id,
        user.email,
        user.role.id,
        user.role.name,
        [group.name for group in user.groups],
        user.created_at,
        rows[0] if rows else None,
        _permissions(user),
        await _given_roles(request, state),
        new,
        num_ended,
        [(one.issuer, one.created_at) for one in providers],
        may_change,
        user.id == request.user.user_id,
    )
    return await console_of(request).page(request, "person.html", user.email, view, error=error)


def _permissions(user: User) -> list[tuple[str, str]]:
    return [(name, PERMISSIONS.get(name, "")) for name in sorted(user.role.permissions)]


@post("/people/{user_id:int}/role", guards=[_CHANGES], request_max_body_size=MAX_FORM_BYTES)
async def change_role(request: AppRequest, state: State, user_id: PathId) -> Response[bytes]:
    """Change the role of a person."""
    fields, accounts = await read_fields(request), service(state, AccountService)
    try:
        role = _number(fields.get("role", ""), "role")
        user = await accounts.get_user(request.user, user_id)
        await confirm_password(request, state, fields, f"change the role of {user.email}")
        await accounts.change_role(request.user, user_id, role)
    except PygridError as error:
        return await _person(request, state, user_id, error)
    return see_other(f"/admin/people/{user_id}")


@post("/people/{user_id:int}/reset", guards=[_CHANGES], request_max_body_size=MAX_FORM_BYTES)
async def make_reset(request: AppRequest, state: State, user_id: PathId) -> Response[bytes]:
    """Make a link with which a person chooses a new password; the page shows it once."""
    fields = await read_fields(request)
    try:
        known = await service(state, AccountService).get_user(request.user, user_id)
        await confirm_password(request, state, fields, f"make a link to the account {known.email}")
        user, code, expires_at = await service(state, AccountService).make_reset(request.user, user_id, None)
    except PygridError as error:
        return await _person(request, state, user_id, error)
    new = NewCode("New password", _link(request, "recover", code), user.email, expires_at)
    return await _person(request, state, user_id, new=new)


@post("/people/{user_id:int}/sessions", guards=[_CHANGES], request_max_body_size=MAX_FORM_BYTES)
async def end_sessions(request: AppRequest, state: State, user_id: PathId) -> Response[bytes]:
    """End all sessions of a person."""
    fields = await read_fields(request)
    try:
        if fields.get("act") != "end":
            raise InvalidInput("choose End all sessions", code=codes.INVALID_FORM, field="act")
        num_ended = await service(state, AccountService).end_sessions(request.user, user_id)
    except PygridError as error:
        return await _person(request, state, user_id, error)
    return await _person(request, state, user_id, num_ended=num_ended)


@post("/people/{user_id:int}/disconnect", guards=[_CHANGES], request_max_body_size=MAX_FORM_BYTES)
async def disconnect_person(request: AppRequest, state: State, user_id: PathId) -> Response[bytes]:
    """Disconnect an account from the sign-in provider."""
    fields = await read_fields(request)
    try:
        user = await service(state, AccountService).get_user(request.user, user_id)
        await confirm_password(request, state, fields, f"disconnect {user.email} from the sign-in provider")
        await service(state, ProviderConnections).disconnect(request.user, user_id)
    except PygridError as error:
        return await _person(request, state, user_id, error)
    return see_other(f"/admin/people/{user_id}")


@post("/people/{user_id:int}/delete", guards=[_CHANGES], request_max_body_size=MAX_FORM_BYTES)
async def delete_person(request: AppRequest, state: State, user_id: PathId) -> Response[bytes]:
    """Delete an account."""
    fields, accounts = await read_fields(request), service(state, AccountService)
    try:
        user = await accounts.get_user(request.user, user_id)
        if fields.get("email", "").strip() != user.email:
            raise InvalidInput("write the e-mail of the account to delete it", code=codes.INVALID_FORM, field="email")
        await confirm_password(request, state, fields, f"delete the account {user.email}")
        await accounts.delete_user(request.user, user_id)
    except PygridError as error:
        return await _person(request, state, user_id, error)
    return see_other("/admin/people")


@get("/roles", guards=[_ROLES])
async def roles_page(request: AppRequest, state: State) -> Response[bytes]:
    """Show which role has which permission."""
    return await _roles(request, state)


async def _roles(request: AppRequest, state: State, error: PygridError | None = None) -> Response[bytes]:
    accounts = service(state, AccountService)
    found = await accounts.list_roles(request.user)
    view = RolesView(
        [
            RoleLine(role.id, role.name, frozenset(map(str, role.permissions)), role.id in (USER.id, OWNER.id))
            for role in found
        ],
        [(str(name), PERMISSIONS.get(name, "")) for name in accounts.access.permissions],
        request.user.may(Permission.EDIT_ROLES),
    )
    return await console_of(request).page(request, "roles.html", "Roles", view, error=error)


@post("/roles", guards=[signed_in(Permission.EDIT_ROLES)], request_max_body_size=MAX_FORM_BYTES)
async def change_roles(request: AppRequest, state: State) -> Response[bytes]:
    """Make, change or delete a role."""
    fields, accounts = await read_fields(request), service(state, AccountService)
    flags = {name: fields.get(f"may_{name}") == "1" for name in accounts.access.permissions}
    act, name = fields.get("act", ""), fields.get("name", "").strip()
    try:
        await confirm_password(request, state, fields, f"change the role {name}")
        if act == "make":
            await accounts.create_role(request.user, name, flags)
        elif act == "save":
            await accounts.edit_role(request.user, _number(fields.get("role", ""), "role"), name, flags)
        elif act == "delete":
            await accounts.delete_role(request.user, _number(fields.get("role", ""), "role"))
        else:
            raise InvalidInput("choose Save or Delete", code=codes.INVALID_FORM, field="act")
    except PygridError as error:
        return await _roles(request, state, error)
    return see_other("/admin/roles")


def _link(request: AppRequest, page: str, code: str) -> str:
    """Return the address of a one-time page, as this browser reaches the app."""
    return f"{own_origin(request)}/admin/{page}/{code}"


def _number(text: str, field: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) > 0):
        raise InvalidInput(f"choose a {field}", code=codes.INVALID_FORM, field=field)
    return int(text)
