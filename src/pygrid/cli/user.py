"""``pygrid user``: the users of a Domain or a Network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pygrid.cli.common import AppOption, JsonOption, YesOption, confirm, connect, read_password
from pygrid.cli.help import App
from pygrid.cli.local_store import DatabaseUrl
from pygrid.cli.output import say, say_json, say_table

app = App("Show, create, change and remove the users of a Domain or a Network.\n\nExample: pygrid user list")

Email = Annotated[str, typer.Argument(metavar="EMAIL", help="E-mail of the user.")]
RoleName = Annotated[str, typer.Option("--role", metavar="ROLE", help="Name of the role; see: pygrid role list.")]
Hours = Annotated[int, typer.Option("--hours", min=1, max=720, metavar="N", help="Hours for which the code is valid.")]
PasswordStdin = Annotated[
    bool, typer.Option("--password-stdin", help="Read the password from standard input, for scripts.")
]


@app.command("list")
def list_users(url: AppOption = None, as_json: JsonOption = False) -> None:
    """List the users with their roles, oldest account first.

    Example: pygrid user list
    """
    with connect(url) as client:
        found = client.users()
    say_json(found) if as_json else say_table(found)


@app.command("add")
def add(email: Email, role: RoleName = "User", password_stdin: PasswordStdin = False, url: AppOption = None) -> None:
    """Create an account with a password that you choose.

    With `pygrid user invite`, the person chooses the password.

    Example: pygrid user add bob@example.org --role "Model Owner"
    """
    with connect(url) as client:
        user = client.users.add(email, read_password("Password of the new user", password_stdin), role)
        say(f"{user.email} has an account on {client.url}, with the role {user.role.name}")


@app.command("invite")
def invite(email: Email, role: RoleName = "User", hours: Hours = 72, url: AppOption = None) -> None:
    """Invite a person to create an account, and print the one-time code.

    Example: pygrid user invite bob@example.org --role "Model Owner"
    """
    with connect(url) as client:
        made = client.users.invite(email, role, hours=hours)
        invited = made.invitation
        say(f"{invited.email} can create an account as {invited.role} until {invited.expires_at:%Y-%m-%d %H:%M} UTC")
        say("send the person this command; the code is not shown again:")
        say(f"pygrid account accept {client.url} {made.code}")


@app.command("invitations")
def invitations(url: AppOption = None, as_json: JsonOption = False) -> None:
    """List the open invitations.

    Example: pygrid user invitations
    """
    with connect(url) as client:
        found = client.users.invitations()
    say_json(found) if as_json else say_table(found, "there is no open invitation")


@app.command("withdraw")
def withdraw(email: Email, url: AppOption = None) -> None:
    """End the invitation of a person.

    Example: pygrid user withdraw bob@example.org
    """
    with connect(url) as client:
        client.users.withdraw(email)
    say(f"the invitation of {email} is withdrawn")


@app.command("reset")
def reset(email: Email, hours: Hours = 24, url: AppOption = None) -> None:
    """Make a one-time code for a user who lost their password, and print it.

    Example: pygrid user reset bob@example.org
    """
    with connect(url) as client:
        made = client.users.reset_password(email, hours=hours)
        say(f"{made.email} can choose a new password until {made.expires_at:%Y-%m-%d %H:%M} UTC")
        say("send the person this command; the code is not shown again:")
        say(f"pygrid account recover {client.url} {made.code}")


@app.command("rescue")
def rescue(
    email: Annotated[
        str | None, typer.Argument(metavar="EMAIL", help="E-mail of the user; default: the Owner, if there is one.")
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Data folder of the app. [PYGRID_DATA_DIR]")
    ] = None,
    database_url: DatabaseUrl = None,
    network: Annotated[bool, typer.Option("--network", help="The folder is that of a Network.")] = False,
    hours: Hours = 24,
) -> None:
    """Make a one-time code for a lost password, on the machine of the app.

    It needs the data folder, and no session, so it also helps a sole Owner. The app can run meanwhile.

    Example: pygrid user rescue ann@example.org --data-dir ./pygrid-data
    """
    from pygrid.cli.local_store import stored_app
    from pygrid.clock import SystemClock
    from pygrid.features.accounts.rescue import make_rescue_code
    from pygrid.settings import load_network_settings, load_settings
    from pygrid.storage.ownership import announced_address

    load = load_network_settings if network else load_settings
    settings = load(data_dir=data_dir, database_url=database_url)
    with stored_app(settings) as (_, database):
        now = SystemClock().now()
        made = database.write_now(lambda connection: make_rescue_code(connection, email, hours, now))
    url = settings.address or announced_address(settings.data_dir) or f"http://{settings.host}:{settings.port}"
    say(f"{made.email} can choose a new password until {made.expires_at:%Y-%m-%d %H:%M} UTC")
    say("the code is not shown again; use it with:")
    say(f"pygrid account recover {url} {made.code}")


@app.command("role")
def set_role(
    email: Email,
    role: Annotated[str, typer.Argument(metavar="ROLE", help="Name of the new role; see: pygrid role list.")],
    url: AppOption = None,
) -> None:
    """Change the role of a user, which ends their sessions.

    Example: pygrid user role bob@example.org "Model Owner"
    """
    with connect(url) as client:
        user = client.users.set_role(email, role)
    say(f"{user.email} has the role {user.role.name}")


@app.command("password")
def set_password(email: Email, password_stdin: PasswordStdin = False, url: AppOption = None) -> None:
    """Set the password of a user, which ends their sessions.

    `pygrid account password` changes your own.

    Example: pygrid user password bob@example.org
    """
    with connect(url) as client:
        client.users.set_password(email, read_password(f"New password of {email}", password_stdin))
    say(f"the password of {email} is changed, and their sessions have ended")


@app.command("remove")
def remove(email: Email, yes: YesOption = False, url: AppOption = None) -> None:
    """Delete an account. Datasets, processes and jobs of the user stay.

    Example: pygrid user remove bob@example.org
    """
    with connect(url) as client:
        if not yes:
            confirm(f"Delete the account {email} on {client.url}?")
        client.users.remove(email)
    say(f"the account {email} is deleted")
