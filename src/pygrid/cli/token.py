"""``pygrid token``: API tokens of your account, for scripts and notebooks."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from pygrid.cli.common import AppOption, JsonOption, connect
from pygrid.cli.help import App
from pygrid.cli.output import say, say_json, say_table

app = App("Make, list and revoke API tokens for scripts and notebooks.\n\nExample: pygrid token make nightly")

UserOption = Annotated[
    str | None, typer.Option("--user", metavar="EMAIL", help="User whose tokens are meant; default: you.")
]
TokenName = Annotated[str, typer.Argument(metavar="NAME", help="Name of the token, for you.")]


@app.command("make")
def make(
    name: TokenName,
    scope: Annotated[str, typer.Option(metavar="SCOPE", help="What it allows: all or read.")] = "all",
    days: Annotated[int, typer.Option(min=1, max=366, metavar="N", help="Days for which it is valid.")] = 90,
    url: AppOption = None,
) -> None:
    """Make an API token and print it. It is not shown again.

    Scripts read it from PYGRID_TOKEN. It cannot change accounts, roles or credentials.

    Example: pygrid token make nightly --scope read --days 30
    """
    chosen: Any = scope
    with connect(url) as client:
        made = client.tokens.make(name, scope=chosen, days=days)
        until = f"{made.api_token.expires_at:%Y-%m-%d}"
        say(f"the token {name} is valid on {client.url} until {until}; it is not shown again", err=True)
    say(made.token)


@app.command("list")
def list_tokens(user: UserOption = None, url: AppOption = None, as_json: JsonOption = False) -> None:
    """List your API tokens, or those of a user, and when each was last used.

    Example: pygrid token list --user bob@example.org
    """
    with connect(url) as client:
        found = client.users.tokens(user) if user else client.tokens()
    none = f"{user} has no API token" if user else "you have no API token; to make one: pygrid token make NAME"
    say_json(found) if as_json else say_table(found, none)


@app.command("revoke")
def revoke(name: TokenName, user: UserOption = None, url: AppOption = None) -> None:
    """Revoke an API token of yours, or of a user whose role is not above yours.

    Example: pygrid token revoke nightly --user bob@example.org
    """
    with connect(url) as client:
        client.users.revoke_token(user, name) if user else client.tokens.revoke(name)
    say(f"the token {name} of {user} is revoked" if user else f"the token {name} is revoked")
