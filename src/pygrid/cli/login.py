"""``pygrid login``: start or end a session with a Domain or a Network."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from pygrid.cli.common import connect
from pygrid.cli.help import App
from pygrid.cli.output import say

app = App()


@app.command()
def login(
    url: Annotated[str, typer.Argument(metavar="URL", help="Address of the Domain or the Network.")],
    email: Annotated[
        str | None, typer.Option(metavar="EMAIL", help="E-mail of your account; default: a prompt.")
    ] = None,
    password_stdin: Annotated[
        bool, typer.Option("--password-stdin", help="Read the password from standard input, for scripts.")
    ] = False,
    sign_up: Annotated[
        bool, typer.Option("--sign-up", help="Create the account first; the first of all is the Owner.")
    ] = False,
    setup_code: Annotated[
        str | None,
        typer.Option(
            "--setup-code",
            metavar="CODE",
            help="Code that the app shows when it starts; for --sign-up of the first account.",
        ),
    ] = None,
    logout: Annotated[bool, typer.Option("--logout", help="End the session and delete its token.")] = False,
) -> None:
    """Log in to a Domain or a Network; later commands use the session.

    The token is kept in a file that only you can read. PYGRID_URL and PYGRID_TOKEN win over it.

    `pygrid account browser` logs in with your browser, for example by a sign-in provider.

    Example: pygrid login http://127.0.0.1:5000 --email ann@example.org
    """
    from pygrid.client.credentials import forget_token, remember_token

    with connect(url) as domain:
        if logout:
            domain.logout()
            forget_token(domain.url)
            say(f"logged out of {domain.url}")
            return
        email = email or typer.prompt("E-mail")
        if password_stdin:
            password = sys.stdin.readline().rstrip("\r\n")
        else:
            password = typer.prompt("Password", hide_input=True, confirmation_prompt=sign_up)
        if sign_up:
            domain.sign_up(email, password, setup_code=setup_code)
        else:
            domain.login(email, password)
        assert domain.token is not None
        path = remember_token(domain.url, domain.token, is_network=domain.identity().app == "network")
        say(f"logged in to {domain.url} as {email}; the session is kept in {path}")
