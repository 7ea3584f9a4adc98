"""``pygrid account``: the password and the private key of your account."""

from __future__ import annotations

import sys
import webbrowser
from typing import TYPE_CHECKING, Annotated

import typer

from pygrid.cli.common import UrlOption, connect, read_password
from pygrid.cli.help import App
from pygrid.cli.output import say

if TYPE_CHECKING:
    from pygrid.client.session import SessionClient

app = App(
    "Log in by browser, open the console, accept an invitation, change your password.\n\n"
    "Example: pygrid account password"
)

Address = Annotated[str, typer.Argument(metavar="URL", help="Address of the Domain or the Network.")]
Code = Annotated[str, typer.Argument(metavar="CODE", help="One-time code that you were sent.")]
PasswordStdin = Annotated[
    bool, typer.Option("--password-stdin", help="Read the new password from standard input, for scripts.")
]


@app.command()
def accept(url: Address, code: Code, password_stdin: PasswordStdin = False) -> None:
    """Create the account that you were invited to, and log in.

    Example: pygrid account accept http://127.0.0.1:5000 k7qd-x2mv-4hju
    """
    with connect(url) as client:
        _remember(client.accept_invitation(code, read_password("Password of your new account", password_stdin)))
        say(f"you have an account on {client.url}, and are logged in")


@app.command()
def recover(url: Address, code: Code, password_stdin: PasswordStdin = False) -> None:
    """Choose a new password with the code of a reset, and log in.

    Your sessions and API tokens end.

    Example: pygrid account recover http://127.0.0.1:5000 k7qd-x2mv-4hju
    """
    with connect(url) as client:
        _remember(client.reset_password(code, read_password("New password", password_stdin)))
        say(f"your password on {client.url} is changed, and you are logged in")


@app.command()
def browser(url: Address) -> None:
    """Log in with your browser, where you sign in with a password or by a sign-in provider.

    The command prints the address of a page, and takes the one-time code that the page shows.

    Example: pygrid account browser http://127.0.0.1:5000
    """
    with connect(url) as client:
        begun = client.browser_login()
        say(f"open this page, and paste the code that it shows:\n{begun.url}")
        if sys.stdin.isatty():
            webbrowser.open(begun.url)
        user = begun.finish(typer.prompt("Code"))
        _remember(client)
        say(f"logged in to {client.url} as {user.email}")


@app.command("open")
def open_console(
    url: UrlOption = None,
    print_only: Annotated[bool, typer.Option("--print", help="Print the link and open no browser.")] = False,
) -> None:
    """Open the web console in your browser, signed in as you. The link works once, within two minutes.

    Example: pygrid account open
    """
    with connect(url) as app:
        link = app.browser_link()
    say(link)
    if not print_only:
        webbrowser.open(link)


@app.command()
def password(url: UrlOption = None, password_stdin: PasswordStdin = False) -> None:
    """Change your password and print your new private key. Your other sessions and your API tokens end.

    Example: pygrid account password
    """
    with connect(url) as app:
        key = app.change_password(read_password("New password", password_stdin))
        _remember(app)
    say("the password is changed; the private key below replaces the old one and is not shown again", err=True)
    say(key)


@app.command("rotate-key")
def rotate_key(url: UrlOption = None) -> None:
    """Replace your private key and print the new one, which is not shown again.

    Example: pygrid account rotate-key
    """
    with connect(url) as app:
        say(app.rotate_private_key())


@app.command("revoke-key")
def revoke_key(url: UrlOption = None) -> None:
    """Revoke your private key; `rotate-key` makes a new one.

    Example: pygrid account revoke-key
    """
    with connect(url) as app:
        app.revoke_private_key()
    say("your private key is revoked")


def _remember(client: SessionClient) -> None:
    """Keep the session for later commands."""
    from pygrid.client.credentials import remember_token

    assert client.token is not None
    remember_token(client.url, client.token, is_network=client.identity().app == "network")
