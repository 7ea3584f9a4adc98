"""``pygrid account``: your own account on a Domain or a Network."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from pygrid.cli.common import UrlOption, friendly
from pygrid.cli.output import say

app = typer.Typer(help="Change your password or your private key.", no_args_is_help=True, add_completion=False)


@app.command()
@friendly
def password(
    url: UrlOption = None,
    password_stdin: Annotated[
        bool, typer.Option("--password-stdin", help="Read the new password from standard input, for scripts.")
    ] = False,
) -> None:
    """Change your password, and print your new private key; your other sessions end.

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
    say("the password is changed; the private key below is shown this once, and the one before is invalid", err=True)
    say(key)


@app.command("rotate-key")
@friendly
def rotate_key(url: UrlOption = None) -> None:
    """Make a new private key and print it, this once; the one before is invalid.

    Example: pygrid account rotate-key
    """
    from pygrid.client import connect

    with connect(url) as app:
        say(app.rotate_private_key())


@app.command("revoke-key")
@friendly
def revoke_key(url: UrlOption = None) -> None:
    """Make your private key invalid; rotate-key makes another one.

    Example: pygrid account revoke-key
    """
    from pygrid.client import connect

    with connect(url) as app:
        app.revoke_private_key()
    say("your private key is revoked")
