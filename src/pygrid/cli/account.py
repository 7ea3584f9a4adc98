"""``pygrid account``: the password and the private key of your account."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from pygrid.cli.common import UrlOption, handle_errors
from pygrid.cli.help import App
from pygrid.cli.output import say

app = App("Change your password or your private key.\n\nExample: pygrid account password")


@app.command()
@handle_errors
def password(
    url: UrlOption = None,
    password_stdin: Annotated[
        bool, typer.Option("--password-stdin", help="Read the new password from standard input, for scripts.")
    ] = False,
) -> None:
    """Change your password and print your new private key. Your other sessions end.

    Example: pygrid account password
    """
    from pygrid.client import connect
    from pygrid.client.credentials import remember_token

    with connect(url) as app:
        if password_stdin:
            chosen = sys.stdin.readline().rstrip("\r\n")
        else:
            chosen = typer.prompt("New password", hide_input=True, confirmation_prompt=True)
        key = app.change_password(chosen)
        assert app.token is not None
        remember_token(app.url, app.token, is_network=app.identity().app == "network")
    say("the password is changed; the private key below replaces the old one and is not shown again", err=True)
    say(key)


@app.command("rotate-key")
@handle_errors
def rotate_key(url: UrlOption = None) -> None:
    """Replace your private key and print the new one, which is not shown again.

    Example: pygrid account rotate-key
    """
    from pygrid.client import connect

    with connect(url) as app:
        say(app.rotate_private_key())


@app.command("revoke-key")
@handle_errors
def revoke_key(url: UrlOption = None) -> None:
    """Revoke your private key; `rotate-key` makes a new one.

    Example: pygrid account revoke-key
    """
    from pygrid.client import connect

    with connect(url) as app:
        app.revoke_private_key()
    say("your private key is revoked")
