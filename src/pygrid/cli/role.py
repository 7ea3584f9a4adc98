"""``pygrid role``: the roles of a Domain or a Network."""

from __future__ import annotations

from typing import Annotated

import typer

from pygrid.cli.common import AppOption, JsonOption, connect
from pygrid.cli.help import App
from pygrid.cli.output import say, say_json, say_table

app = App("Show, create and delete the roles of a Domain or a Network.\n\nExample: pygrid role list")

Name = Annotated[str, typer.Argument(metavar="ROLE", help="Name of the role.")]


@app.command("list")
def list_roles(url: AppOption = None, as_json: JsonOption = False) -> None:
    """List the roles with their permissions.

    Example: pygrid role list
    """
    with connect(url) as client:
        found = client.roles()
    say_json(found) if as_json else say_table(found)


@app.command("show")
def show(name: Name, url: AppOption = None, as_json: JsonOption = False) -> None:
    """Show what a role allows.

    Example: pygrid role show "Model Owner"
    """
    from pygrid.client.users import PermissionTable, permissions_of, permissions_on

    with connect(url) as client:
        role = client.roles[name]
    if as_json:
        say_json(role)
        return
    held = permissions_of(role)
    say_table(PermissionTable((permission, permission in held) for permission in permissions_on(role)))


@app.command("add")
def add(
    name: Name,
    permission: Annotated[
        list[str] | None,
        typer.Option("--permission", "-p", metavar="NAME", help="A permission of the role; repeat it for several."),
    ] = None,
    url: AppOption = None,
) -> None:
    """Create a role with some of your own permissions.

    Example: pygrid role add Researcher -p can_host_models -p can_upload_data
    """
    with connect(url) as client:
        role = client.roles.add(name, permission or [])
    say(f"the role {role.name} exists; assign it with: pygrid user role EMAIL {role.name!r}")


@app.command("remove")
def remove(name: Name, url: AppOption = None) -> None:
    """Delete a role that no user has.

    Example: pygrid role remove Researcher
    """
    with connect(url) as client:
        client.roles.remove(name)
    say(f"the role {name} is deleted")
